"""What works, and is not as it should be: of client certificates, and of keys in files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from proxy.config.model import Config

from . import client_certificates, keylog


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
        if upstream.tls is not None and upstream.tls.keylog_file is not None:
            where = f"upstreams.{name}.tls.keylog_file"
            yield f"{where}: {keylog.warning(upstream.tls.keylog_file)}"
