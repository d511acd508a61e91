"""TLS towards clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.tls import Certificate, ListenerTls


def test_one_certificate() -> None:
    certificate = Certificate(cert_file=Path("cert.pem"), key_file=Path("key.pem"))
    assert ListenerTls(certificates=(certificate,)).minimum_version == "1.2"
    with pytest.raises(ValueError, match="must be"):
        ListenerTls(certificates=())
