"""TLS towards clients: what a listener shows, and what it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
from attrs import validators


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
