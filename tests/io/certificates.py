"""Revocation lists, which trustme does not make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)


def revoked(
    ca: trustme.CA, *certificates: trustme.LeafCert | trustme.CA, until: datetime = NOW + WEEK
) -> bytes:
    """Return a CA's list of these."""
    own = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    builder = x509.CertificateRevocationListBuilder(own.subject, NOW - WEEK * 2, until)
    for one in certificates:
        leaf = x509.load_pem_x509_certificate(_pem(one))
        entry = x509.RevokedCertificateBuilder(leaf.serial_number, NOW - WEEK)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _pem(one: trustme.LeafCert | trustme.CA) -> bytes:
    blob = one.cert_pem if isinstance(one, trustme.CA) else one.cert_chain_pems[0]
    return blob.bytes()
