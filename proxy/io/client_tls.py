"""What is known of a client's TLS once hands were shaken."""

from __future__ import annotations

import ssl

from proxy.wire.proxy_protocol import TlsFacts


def tls_facts(tls: ssl.SSLObject, asked_name: str) -> TlsFacts:
    """Return what a node may be told; `asked_name` is what the client has asked for."""
    cipher, certificate = tls.cipher(), tls.getpeercert()
    return TlsFacts(
        version=tls.version() or "",
        cipher=cipher[0] if cipher else "",
        alpn=tls.selected_alpn_protocol() or "",
        server_name=asked_name,
        certificate=bool(certificate),
        common_name=_common_name(certificate.get("subject", ())) if certificate else "",
        resumed=bool(tls.session_reused),
    )


def _common_name(subject: object) -> str:
    """Return the first one of a certificate's subject, as `getpeercert` puts it."""
    assert isinstance(subject, tuple)
    for part in subject:
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""
