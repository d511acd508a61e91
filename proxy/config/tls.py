"""TLS towards clients: what a listener shows, and what it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
from attrs import validators

from .checks import NewFile
from .client_certificates import ClientCertificates


@attrs.frozen(kw_only=True)
class Certificate:
    cert_file: Path
    key_file: Path


@attrs.frozen(kw_only=True)
class ListenerTls:
    """TLS towards clients; `certificates` are PEM files, the chain below the leaf in the same."""

    certificates: tuple[Certificate, ...] = attrs.field(
        validator=[validators.min_len(1), validators.max_len(1)]
    )
    # nginx, HAProxy, Caddy: 1.2
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    # Off without it.
    client_certificates: ClientCertificates | None = None
    # Where to write the keys of all connections, for Wireshark and the like: whoever reads this
    # file reads them all.  HAProxy: tune.ssl.keylog, off
    keylog_file: NewFile | None = None
