"""What is known of a client's TLS once hands were shaken, or why they were not."""

from __future__ import annotations

import ssl
from typing import Any

from proxy.wire.client_certificate import ClientCertificate
from proxy.wire.proxy_protocol import TlsFacts


def tls_facts(tls: ssl.SSLObject, asked_name: str) -> TlsFacts:
    """Return what a node may be told; `asked_name` is what the client has asked for."""
    cipher, certificate = tls.cipher(), client_certificate(tls)
    return TlsFacts(
        version=tls.version() or "",
        cipher=cipher[0] if cipher else "",
        alpn=tls.selected_alpn_protocol() or "",
        server_name=asked_name,
        certificate=certificate is not None,
        common_name=certificate.common_name if certificate else "",
        resumed=bool(tls.session_reused),
    )


def client_certificate(tls: ssl.SSLObject) -> ClientCertificate | None:
    """Return the certificate that the client has shown, in this connection or in the first of its
    TLS session; None: it has shown none, or was not asked.
    """
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    try:
        # A table of many things, each of another type.
        told: dict[str, Any] = tls.getpeercert() or {}
    except ValueError:
        # Somewhere in it is text that is none, which its CA should have seen to.
        told = {}
    return ClientCertificate.of(der, told.get("subject", ()), told.get("serialNumber", ""))


def has_expired(tls: ssl.SSLObject, now: float) -> bool:
    """Whether a session was taken up with a certificate that has expired since, at `now`.

    `now` is in seconds since the epoch.  OpenSSL does not look again, and with each ticket of TLS
    1.3 comes another one: who has been here once would be let in for ever.
    """
    der = tls.getpeercert(binary_form=True) if tls.session_reused else None
    if der is None:
        return False
    from cryptography import x509  # Only where clients show certificates.

    try:
        return now >= x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
    except ValueError:
        # OpenSSL could read it when it was shown.
        return False


def why_failed(exc: BaseException) -> str:
    """Return why a handshake with a client failed.

    Whose certificate it was that was not accepted the ssl module does not say.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"The client's certificate was not accepted: {exc.verify_message}."
    if isinstance(exc, ssl.SSLError) and exc.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "The client has shown no certificate."
    # OpenSSL's words without Python's, which are about its source.
    reason = (exc.reason or "").lower().replace("_", " ") if isinstance(exc, ssl.SSLError) else ""
    return f"The TLS handshake failed: {reason or str(exc).removesuffix('.')}."
