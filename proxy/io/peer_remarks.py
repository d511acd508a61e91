"""What works, and is not as it should be: of certificates between peers, and of keys in files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from proxy.config.checks import Invalid
from proxy.config.model import Config
from proxy.config.tls import Certificate

from . import client_certificates, keylog
from .certificates import expiry, read_pair


def peer_remarks(config: Config, now: float) -> Iterator[str]:
    """Yield each as `path.to.key: what it is`; `now` is in seconds since the epoch."""
    moment = datetime.fromtimestamp(now, UTC)
    for index, listener in enumerate(config.listeners):
        if listener.tls is None:
            continue
        where, settings = f"listeners[{index}].tls", listener.tls.over(config.tls)
        for key, what in client_certificates.warnings(settings.client_certificates, moment):
            yield f"{where}.client_certificates.{key}: {what}"
        if settings.keylog_file is not None:
            yield f"{where}.keylog_file: {keylog.warning(settings.keylog_file)}"
    for name, upstream in config.upstreams.items():
        if upstream.tls is None:
            continue
        where = f"upstreams.{name}.tls"
        if upstream.tls.certificate is not None:
            yield from (
                f"{where}.{key}: {what}" for key, what in _of_shown(upstream.tls.certificate, now)
            )
        if upstream.tls.keylog_file is not None:
            yield f"{where}.keylog_file: {keylog.warning(upstream.tls.keylog_file)}"


def _of_shown(certificate: Certificate, now: float) -> Iterator[tuple[str, str]]:
    """Yield what nodes may not like.  Of files that cannot be read any more nothing is said."""
    with suppress(Invalid):
        pair = read_pair(certificate)
        yield from pair.remarks
        if late := expiry(pair, now, "nodes"):
            yield "cert_file", late
