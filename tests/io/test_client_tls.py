"""What is told of a client's TLS: over real handshakes, with certificates and resumed."""

from __future__ import annotations

import ssl

import attrs
import pytest
import trustme

from proxy.io.client_tls import tls_facts
from proxy.wire.proxy_protocol import TlsFacts

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
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    left = [near, far]
    while left:
        for end in list(left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(end)
    return near, far


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
