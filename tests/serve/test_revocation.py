"""New lists and CAs come into use without a reload; what cannot be used does not."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from proxy.config.load import parse_config
from proxy.serve.revocation import Revocation
from proxy.serve.service import Service
from tests.io.certificates import revoked
from tests.io.test_client_certificates import client, shake_hands

TEXT = """
[[listeners]]
bind = "127.0.0.1:0"
name = "asking"
[listeners.tls]
certificates = [ { cert_file = "it.pem", key_file = "it.pem" } ]
client_certificates = { ca_file = "ca.pem", crl_file = "crl.pem" }
[[listeners]]
bind = "127.0.0.1:0"
name = "other"
tls.certificates = [ { cert_file = "it.pem", key_file = "it.pem" } ]
[[routes]]
path = "/"
respond = {}
"""


@pytest.fixture
def people() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def service(tmp_path: Path, ca: trustme.CA, people: trustme.CA) -> Service:
    people.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "crl.pem").write_bytes(revoked(people))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "it.pem")
    return Service(parse_config(TEXT, folder=tmp_path))


def shown(service: Service, listener: int = 0) -> ssl.SSLContext:
    tls = service.contexts.listeners[listener]
    assert tls is not None
    return tls.shown.default


async def test_a_new_list_is_taken_up_when_it_stays_the_same(
    service: Service, tmp_path: Path, ca: trustme.CA, people: trustme.CA
) -> None:
    ada, revocation = people.issue_cert("ada@example.org"), Revocation(service)
    near, before, other = client(ca, ada), shown(service), shown(service, 1)
    session = shake_hands(near, before)[0].session
    for _ in range(3):
        await revocation.look()
    assert shown(service) is before

    (tmp_path / "crl.pem").write_bytes(revoked(people, ada))
    await revocation.look()
    # It may be half of it.
    assert shown(service) is before
    await revocation.look()
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(near, shown(service), session)
    assert shown(service, 1) is other

    after = shown(service)
    await revocation.look()
    assert shown(service) is after


async def test_what_cannot_be_used_is_told_and_tried_again(
    service: Service,
    tmp_path: Path,
    people: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    before, revocation = shown(service), Revocation(service)
    caplog.set_level(logging.INFO, "tidegate")
    (tmp_path / "crl.pem").write_text("no list")
    for _ in range(5):
        await revocation.look()
    assert shown(service) is before
    assert caplog.messages == ["revocation lists not renewed"]
    assert "client_certificates.crl_file: " in caplog.records[0].__dict__["reason"]

    (tmp_path / "crl.pem").write_bytes(revoked(people) * 2)
    await trio.sleep(10)
    await revocation.look()
    await revocation.look()
    assert shown(service) is not before
    assert caplog.messages[1:] == ["revocation lists renewed"]
