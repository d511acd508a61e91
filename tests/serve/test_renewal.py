"""Certificates that change on disk, in all the ways in which they are changed."""

from __future__ import annotations

import datetime as dt
import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from proxy import open_proxy
from proxy.config.checks import Invalid
from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.config.tls import Certificate
from proxy.io.certificates import Pair
from proxy.observe.live import CertificateStatistics
from proxy.serve import renewal as renewal_module
from proxy.serve.renewal import AGAIN, PATIENCE, Renewal, tell_remarks
from proxy.serve.service import Service

LIMIT = 10.0
Write = Callable[[Path, trustme.LeafCert], None]


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Time that stands, until a test has it jump: threads do not wait for it."""
    return trio.testing.MockClock()


def files(cert: Path, key: Path) -> str:
    return f'{{ cert_file = "{cert}", key_file = "{key}" }}'


def config(*certificates: str, interval: float = 1.0, listeners: int = 1) -> Config:
    text = f"[tls]\nrenewal_interval = {interval}\n"
    for index in range(listeners):
        text += f'[[listeners]]\nname = "public{index}"\nbind = "127.0.0.1:0"\n'
        text += f"tls.certificates = [ {', '.join(certificates)} ]\n"
    return parse_config(f'{text}[[routes]]\nprefix = "/"\nrespond = {{ status = 200 }}\n')


def put(folder: Path, leaf: trustme.LeafCert) -> None:
    """Write both in place, one after the other."""
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")


class Rig:
    """A service, and what looks after its certificates, by hand."""

    def __init__(self, config: Config, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.service = Service(config)
        self.renewal = Renewal(self.service)

    def shown(self, name: str = "", listener: int = 0) -> ssl.SSLContext:
        tls = self.service.contexts.listeners[listener]
        assert tls is not None
        found = tls.choose(name)
        assert found is not None
        return found

    def said(self) -> list[str]:
        """What was logged since this was asked before: the event, and what it is about."""
        records = [one for one in self._caplog.records if one.name == "tidegate"]
        self._caplog.clear()
        facts = [record.__dict__ for record in records]
        return [f"{one['message']}: {one.get('reason') or one['names']}" for one in facts]

    async def renew(self) -> None:
        """Look twice: what changes is left alone until it does not any more."""
        await self.renewal.look()
        await self.renewal.look()


def in_place(folder: Path, leaf: trustme.LeafCert) -> None:
    put(folder, leaf)


def by_rename(folder: Path, leaf: trustme.LeafCert) -> None:
    put(new := folder / "new", leaf)
    for file in new.iterdir():
        file.rename(folder / file.name)


def as_certbot(folder: Path, leaf: trustme.LeafCert) -> None:
    """live/cert.pem is a link to archive/certN.pem, and each link is replaced by itself."""
    number = len([*(folder / "archive").iterdir()])
    for name, blob in (("cert", leaf.cert_chain_pems[0]), ("key", leaf.private_key_pem)):
        blob.write_to_path(folder / "archive" / f"{name}{number}.pem")
        link = folder / f"{name}.pem"
        link.unlink()
        link.symlink_to(f"archive/{name}{number}.pem")


def as_kubernetes(folder: Path, leaf: trustme.LeafCert) -> None:
    """cert.pem is a link to ..data/cert.pem; ..data is replaced, what it leads to never changes."""
    number = len([*(folder / "archive").iterdir()])
    put_into = folder / "archive" / str(number)
    put_into.mkdir()
    put(put_into, leaf)
    (folder / "..new").symlink_to(put_into)
    (folder / "..new").rename(folder / "..data")
    for name in ("cert.pem", "key.pem"):
        if not (folder / name).is_symlink():
            (folder / name).unlink()
            (folder / name).symlink_to(f"..data/{name}")


@pytest.fixture
def folder(tmp_path: Path, ca: trustme.CA) -> Path:
    for name in ("new", "archive"):
        (tmp_path / name).mkdir()
    put(tmp_path, ca.issue_cert("one.example.org"))
    return tmp_path


def pem(folder: Path) -> str:
    return files(folder / "cert.pem", folder / "key.pem")


@pytest.mark.parametrize("write", [in_place, by_rename, as_certbot, as_kubernetes])
async def test_ways_of_renewal(
    write: Write,
    folder: Path,
    ca: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    clock: trio.testing.MockClock,
) -> None:
    write(folder, ca.issue_cert("one.example.org"))
    rig = Rig(config(pem(folder)), caplog)
    for names in (["one.example.org"], ["one.example.org", "*.two.example.org"]):
        before = rig.shown()
        await rig.renew()
        assert rig.shown() is before
        write(folder, ca.issue_cert(*names))
        await rig.renewal.look()
        assert rig.shown() is before, "it may be changing still"
        await rig.renewal.look()
        assert rig.shown() is not before
        assert rig.shown("one.example.org") is rig.shown("x.two.example.org")
        await rig.renew()
        assert rig.said() == [f"certificate renewed: {', '.join(names)}"]
    assert [one.names for one in rig.renewal.statistics()] == [
        ("one.example.org", "*.two.example.org")
    ]


async def test_what_goes_on_changing_is_left_alone(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    before = rig.shown()
    for _ in range(5):
        put(folder, ca.issue_cert("one.example.org"))
        await rig.renewal.look()
    assert rig.shown() is before
    await rig.renewal.look()
    assert rig.shown() is not before


async def test_the_same_again_is_no_renewal(
    folder: Path, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    before = rig.shown()
    for name in ("cert.pem", "key.pem"):
        (folder / name).write_bytes((folder / name).read_bytes())
    os.utime(folder / "cert.pem", (1, 1))
    await rig.renew()
    await rig.renew()

    assert rig.shown() is before
    assert rig.said() == []


async def test_broken_pair_keeps_the_old_one(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    before = rig.shown()
    faults: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: ca.issue_cert("x").private_key_pem.write_to_path(folder / "key.pem"),
            "key_file: the key does not belong to the certificate",
        ),
        (lambda: (folder / "cert.pem").write_text("-----BEG"), "cert_file: is not a certificate"),
        (lambda: (folder / "cert.pem").unlink(), "cert_file: cannot be read: No such file"),
    ]
    for harm, reason in faults:
        harm()
        await rig.renew()
        clock.jump(PATIENCE - 0.1)
        await rig.renew()
        assert rig.said() == [], "the other file may be on its way"
        clock.jump(0.1)
        await rig.renew()
        (said,) = rig.said()
        assert said.startswith(f"certificate not renewed: {reason}")
        clock.jump(PATIENCE)
        await rig.renew()
        assert rig.said() == [], "once is enough"
        assert rig.shown() is before
    put(folder, ca.issue_cert("one.example.org"))
    await rig.renew()
    assert rig.said() == ["certificate renewed: one.example.org"]
    assert rig.shown() is not before


async def test_key_that_comes_late(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    leaf = ca.issue_cert("one.example.org")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    await rig.renew()
    clock.jump(PATIENCE / 2)
    await rig.renew()
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    await rig.renew()

    assert rig.said() == ["certificate renewed: one.example.org"]


async def test_what_was_put_back_is_forgotten(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    before, text = rig.shown(), (folder / "key.pem").read_text()
    (folder / "key.pem").write_text("")
    await rig.renew()
    (folder / "key.pem").write_text(text)
    await rig.renew()
    clock.jump(PATIENCE)
    await rig.renew()

    assert rig.shown() is before
    assert rig.said() == []


async def test_each_for_itself(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    """Of two certificates that change, one is broken; a listener beside has the same two."""
    put(folder / "new", ca.issue_cert("two.example.org"))
    rig = Rig(config(pem(folder), pem(folder / "new"), listeners=2), caplog)
    names = "one.example.org", "two.example.org"
    before = [rig.shown(name, listener) for listener in range(2) for name in names]
    assert before[:2] == before[2:], "they would be the same"
    put(folder, ca.issue_cert("one.example.org"))
    (folder / "new" / "key.pem").write_text("")
    await rig.renew()
    clock.jump(PATIENCE)
    await rig.renew()
    after = [rig.shown(name, listener) for listener in range(2) for name in names]

    assert after[1] is after[3] is before[1]
    assert before[0] not in after
    assert after[0] is after[2]
    assert sorted(rig.said()) == [
        f"certificate not renewed: key_file: is not a key in PEM: {folder}/new/key.pem",
        "certificate renewed: one.example.org",
        "certificate renewed: one.example.org",
    ]


async def test_renewal_that_takes_anothers_name(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    put(folder / "new", ca.issue_cert("two.example.org"))
    rig = Rig(config(pem(folder), pem(folder / "new")), caplog)
    before = rig.shown("two.example.org")
    put(folder / "new", ca.issue_cert("one.example.org"))
    await rig.renew()
    clock.jump(PATIENCE)
    await rig.renew()

    (said,) = rig.said()
    reason = "certificates[1]: is for 'one.example.org' with ECDSA, as certificates[0] is"
    assert said.startswith(f"certificate not renewed: {reason}")
    assert rig.shown("two.example.org") is before


async def test_two_that_change_names(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    """Each is refused as long as the other one has the name, and only both fit."""
    put(folder / "new", ca.issue_cert("two.example.org"))
    rig = Rig(config(pem(folder), pem(folder / "new")), caplog)
    put(folder, ca.issue_cert("two.example.org"))
    await rig.renew()
    clock.jump(PATIENCE)
    await rig.renew()
    (said,) = rig.said()
    assert said.startswith("certificate not renewed: certificates[1]: is for 'two.example.org'")
    put(folder / "new", ca.issue_cert("one.example.org"))
    await rig.renew()

    assert sorted(rig.said()) == [
        "certificate renewed: one.example.org",
        "certificate renewed: two.example.org",
    ]


async def test_what_was_not_the_files_fault_is_tried_again(
    folder: Path,
    ca: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    put(folder, ca.issue_cert("one.example.org"))
    tried = 0

    def exhausted(_: Certificate) -> Pair:
        nonlocal tried
        tried += 1
        raise Invalid(("", "cannot be used: Too many open files"))

    with monkeypatch.context() as patched:
        patched.setattr(renewal_module, "read_pair", exhausted)
        await rig.renew()
        await rig.renew()
    assert tried == 1, "not at each look"
    clock.jump(AGAIN)
    await rig.renew()

    assert rig.said() == ["certificate renewed: one.example.org"]


async def test_renewal_that_has_expired_is_told_at_once(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    rig = Rig(config(pem(folder)), caplog)
    ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    put(folder, ca.issue_cert("one.example.org", not_after=ago))
    await rig.renew()

    renewed, expires = rig.said()
    assert renewed == "certificate renewed: one.example.org"
    assert expires.startswith("certificate expires: has expired on ")


async def test_reload_while_files_are_read(
    folder: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture, clock: trio.testing.MockClock
) -> None:
    """What the reload has made is not touched, and no certificate of before comes back."""
    rig = Rig(config(pem(folder)), caplog)
    put(folder, ca.issue_cert("one.example.org"))
    await rig.renewal.look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.renewal.look)
        await trio.testing.wait_all_tasks_blocked()
        other = Service(config(pem(folder)))
        rig.service.config, rig.service.contexts = other.config, other.contexts
    shown = rig.shown()
    await rig.renew()

    assert rig.shown() is shown


async def test_expiry_is_told_every_day(
    folder: Path,
    ca: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=20)
    put(folder, ca.issue_cert("one.example.org", not_after=soon))
    put(folder / "new", ca.issue_cert("two.example.org"))
    rig = Rig(config(pem(folder), pem(folder / "new"), interval=3600), caplog)
    # A clock that jumps does not wait for threads.
    monkeypatch.setattr(rig.renewal, "look", trio.lowlevel.checkpoint)
    with trio.move_on_after(2.5 * 86_400):
        await rig.renewal.run()
    assert [one.partition(": ")[0] for one in rig.said()] == ["certificate expires"] * 3


async def test_statistics(folder: Path) -> None:
    async with open_proxy(config(pem(folder), listeners=2)) as server:
        first, second = server.statistics().certificates
        tls = server.service.contexts.listeners[0]
        assert tls is not None
        assert first == CertificateStatistics(
            listener="public0",
            names=("one.example.org",),
            file=str(folder / "cert.pem"),
            not_after=tls.shown.pairs[0].not_after,
        )
        assert second.listener == "public1"


async def test_running_proxy_shows_what_is_new_and_leaves_no_thread(
    folder: Path, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    threads = threading.active_count()
    with trio.fail_after(LIMIT):
        async with open_proxy(config(pem(folder), interval=0.01)) as server:
            address = server.address()

            async def shown() -> bytes:
                plain = await trio.open_tcp_stream(address.host, address.port)
                stream = trio.SSLStream(plain, client_tls, server_hostname="one.example.org")
                await stream.do_handshake()
                found: bytes = stream.getpeercert(binary_form=True)
                await trio.aclose_forcefully(stream)
                return found

            before = await shown()
            assert await shown() == before
            put(folder, ca.issue_cert("one.example.org"))
            while await shown() == before:
                await trio.lowlevel.checkpoint()
    # Trio keeps threads that have nothing to do, for the next time; no other is left.
    assert all("Trio" in one.name for one in threading.enumerate()[threads:])


def test_remarks_are_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = {{ certificates = [ {pem(folder)} ], minimum_version = "1.0" }}
        [[routes]]
        prefix = "/"
        respond = {{ status = 200 }}
    """
    rig = Rig(parse_config(text), caplog)
    tell_remarks(rig.service.config, rig.service.contexts)
    (said,) = rig.said()
    assert said.startswith("configuration: listeners[0].tls.minimum_version: 1.0 is deprecated")
    tell_remarks(rig.service.config, rig.service.contexts, told=[said.partition(": ")[2]])
    assert rig.said() == []
