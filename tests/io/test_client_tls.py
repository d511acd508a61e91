"""What is told of a client's TLS: over real handshakes, with certificates and resumed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.io.client_tls import client_certificate, has_expired, tls_facts, why_failed
from proxy.wire.proxy_protocol import TlsFacts

from .in_memory import shake

CIPHER = "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.fixture
def contexts(ca: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's, with TLS 1.2, where sessions come with the handshake."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers(CIPHER)
    server.set_alpn_protocols(["http/1.1"])
    server.verify_mode = ssl.CERT_OPTIONAL
    server.load_verify_locations(cadata=ca.cert_pem.bytes().decode())
    ca.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    client.check_hostname = False
    return client, server


def shake_hands(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    name: str | None = None,
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    ends = shake(client, server, name, session)
    return ends.client, ends.server


def test_facts(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = contexts
    _, far = shake_hands(client, server)
    assert tls_facts(far, "") == TlsFacts("TLSv1.2", CIPHER)

    client.set_alpn_protocols(["http/1.1"])
    _, far = shake_hands(client, server, "localhost")
    assert tls_facts(far, "localhost") == TlsFacts("TLSv1.2", CIPHER, "http/1.1", "localhost")


def test_certificates(contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: trustme.CA) -> None:
    client, server = contexts
    ca.issue_cert("ada@example.org", common_name="Ada Lövelace").configure_cert(client)
    near, far = shake_hands(client, server)
    facts = TlsFacts("TLSv1.2", CIPHER, certificate=True, common_name="Ada Lövelace")
    assert tls_facts(far, "") == facts

    _, far = shake_hands(client, server, session=near.session)
    assert tls_facts(far, "") == attrs.evolve(facts, resumed=True)

    ca.issue_cert("ada@example.org").configure_cert(client)
    _, far = shake_hands(client, server)
    assert tls_facts(far, "") == attrs.evolve(facts, common_name="")


def test_before_the_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ValueError):
        tls_facts(plain.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True), "")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_is_told_of_in_resumed_sessions_too(
    version: ssl.TLSVersion, contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: trustme.CA
) -> None:
    client, server = contexts
    server.maximum_version = version
    issued = ca.issue_cert("ada@example.org", common_name="Ada Lövelace")
    issued.configure_cert(client)
    near, far = shake_hands(client, server)
    far.write(b"x")
    near.read(1)
    shown = client_certificate(far)
    assert shown is not None
    certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    assert shown.sha256 == certificate.fingerprint(SHA256()).hex()
    assert shown.serial == f"{certificate.serial_number:X}".zfill(len(shown.serial))
    assert x509.Name.from_rfc4514_string(shown.subject) == certificate.subject

    _, again = shake_hands(client, server, session=near.session)
    assert again.session_reused
    assert client_certificate(again) == shown
    end = certificate.not_valid_after_utc.timestamp()
    assert [has_expired(again, now) for now in (end - 1, end)] == [False, True]
    assert not has_expired(far, end), "OpenSSL has looked"


def test_client_that_was_not_asked_or_has_none(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: trustme.CA
) -> None:
    client, server = contexts
    assert client_certificate(shake_hands(client, server)[1]) is None
    ca.issue_cert("ada@example.org").configure_cert(client)
    server.verify_mode = ssl.CERT_NONE
    assert client_certificate(shake_hands(client, server)[1]) is None


def test_certificate_that_cannot_be_read_is_told_of_all_the_same(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: trustme.CA
) -> None:
    """One whose CA let it have bytes for an address that are no text, which the ssl module raises
    for.
    """
    client, server = contexts
    own = load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(own, EllipticCurvePrivateKey)
    key = generate_private_key(SECP256R1())
    now = datetime.now(UTC)
    odd = x509.UnrecognizedExtension(
        x509.SubjectAlternativeName.oid, bytes.fromhex("30 05 81 03 ff fe 40")
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string("CN=Ada"))
        .issuer_name(x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(odd, critical=False)
    )
    certificate = builder.sign(own, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both = trustme.Blob(pem + certificate.public_bytes(Encoding.PEM))
    with both.tempfile() as file:
        client.load_cert_chain(file)
    _, far = shake_hands(client, server)
    with pytest.raises(UnicodeDecodeError):
        far.getpeercert()
    shown = client_certificate(far)
    assert shown is not None
    assert (shown.subject, shown.sha256) == ("", certificate.fingerprint(SHA256()).hex())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_why_a_certificate_was_refused(
    version: ssl.TLSVersion, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    client, server = contexts
    server.maximum_version = version
    server.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLError) as none:
        shake_hands(client, server)
    assert why_failed(none.value) == "The client has shown no certificate."

    trustme.CA().issue_cert("eve@example.org").configure_cert(client)
    with pytest.raises(ssl.SSLError) as strange:
        shake_hands(client, server)
    assert why_failed(strange.value) == (
        "The client's certificate was not accepted: unable to get local issuer certificate."
    )
    assert why_failed(OSError("gone")) == "The TLS handshake failed: gone."
