"""Which certificate a client is shown."""

from __future__ import annotations

import ssl

from proxy.io.server_tls import ServerTls


def test_one_certificate_is_for_everybody() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = ServerTls(context)
    assert tls.choose("") is context
    assert tls.choose("rt.example.org") is context
