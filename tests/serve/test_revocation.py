"""New lists and CAs come into use without a reload; what cannot be used does not."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from proxy.config.load import parse_config
from proxy.io.contexts import make_contexts
from proxy.serve import renewal as renewal_module
from proxy.serve.renewal import Renewal
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


async def test_another_broken_file_keeps_nobody_in(
    service: Service, tmp_path: Path, ca: trustme.CA, people: trustme.CA
) -> None:
    ada, revocation = people.issue_cert("ada@example.org"), Revocation(service)
    (tmp_path / "it.pem").write_text("broken")
    (tmp_path / "crl.pem").write_bytes(revoked(people, ada))
    await revocation.look()
    await revocation.look()

    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(client(ca, ada), shown(service))


async def test_the_same_configuration_again(
    service: Service, tmp_path: Path, people: trustme.CA
) -> None:
    """What the reload has read before a list was taken up is not left in use."""
    revocation = Revocation(service)
    of_the_reload = make_contexts(service.config)
    (tmp_path / "crl.pem").write_bytes(revoked(people, people.issue_cert("ada@example.org")))
    for _ in range(2):
        await revocation.look()
    taken_up = service.contexts.listeners[0]
    service.contexts = of_the_reload
    for _ in range(2):
        await revocation.look()

    again = service.contexts.listeners[0]
    assert again is not None
    assert taken_up is not None
    assert again.ingredients == taken_up.ingredients


async def test_a_certificate_that_is_renewed_meanwhile_brings_no_old_list_back(
    tmp_path: Path, ca: trustme.CA, people: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read before the list is there, and would come into use after it."""
    people.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "crl.pem").write_bytes(revoked(people))
    for name in ("it", "two"):
        leaf = ca.issue_cert(f"{name}.example.org")
        leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    text = TEXT.replace("} ]", '}, { cert_file = "two.pem", key_file = "two.pem" } ]', 1)
    service = Service(parse_config(text, folder=tmp_path))
    revocation, renewal = Revocation(service), Renewal(service)
    has_read, may_go_on = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        found = read(*args)
        has_read.set()
        assert may_go_on.wait(10)
        return found

    read = renewal_module._read
    monkeypatch.setattr(renewal_module, "_read", slow)
    ada = people.issue_cert("ada@example.org")
    again = ca.issue_cert("it.example.org")
    again.private_key_and_cert_chain_pem.write_to_path(tmp_path / "it.pem")
    await renewal.look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renewal.look)
        await trio.to_thread.run_sync(has_read.wait, 10)
        (tmp_path / "crl.pem").write_bytes(revoked(people, ada))
        await revocation.look()
        await revocation.look()
        may_go_on.set()
    await renewal.look()

    tls = service.contexts.listeners[0]
    assert tls is not None
    assert again.cert_chain_pems[0].bytes() in tls.shown.pairs[0].chain
    near = client(ca, ada)
    near.check_hostname = False
    for name in ("it", "two"):
        context = tls.choose(f"{name}.example.org")
        assert context is not None
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
            shake_hands(near, context)
