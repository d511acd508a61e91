"""What is known of a client's TLS once hands were shaken."""

from __future__ import annotations

import ssl

from proxy.wire.proxy_protocol import TlsFacts


class ClientTls(ssl.SSLObject):
    """TLS with a client, which remembers the name that it was asked for in SNI."""

    asked_name: str = ""


def note_name(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    """Remember the name; a context's `sni_callback`."""
    assert isinstance(tls, ClientTls)
    tls.asked_name = name or ""


def tls_facts(tls: ssl.SSLObject) -> TlsFacts:
    """Return what a node may be told."""
    cipher, certificate = tls.cipher(), tls.getpeercert()
    return TlsFacts(
        version=tls.version() or "",
        cipher=cipher[0] if cipher else "",
        alpn=tls.selected_alpn_protocol() or "",
        server_name=tls.asked_name if isinstance(tls, ClientTls) else "",
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
