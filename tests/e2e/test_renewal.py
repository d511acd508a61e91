"""A certificate that is renewed, again and again, while clients come and sessions talk."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio
import trustme

from .nodes import HERE
from .program import Program, deadline, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RENEWALS = 100
SESSIONS = 40
#: Those who come all the time, each after the other: so many of each version.
COMERS = 2
#: What a step may take on a machine with much else to do, in seconds.
PATIENCE = 30.0

CONFIG = """
[log]
format = "json"
access = false
[tls]
renewal_interval = 0.03
[[listeners]]
name = "plain"
bind = "127.0.0.1:0"
[[listeners]]
name = "secure"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "cert.pem", key_file = "key.pem" }} ] }}
[[routes]]
path = "/deepstream"
websocket = true
upstream = "deepstream"
[[routes]]
path = "/here"
respond = {{ status = 200, body = "here" }}
[upstreams.deepstream]
nodes = {nodes}
"""
REQUEST = b"GET /here HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Files:
    """Certificate and key, behind links, as Kubernetes mounts a secret."""

    def __init__(self, folder: Path, ca: trustme.CA) -> None:
        self._folder = folder
        leaves = [ca.issue_cert("localhost") for _ in range(RENEWALS + 1)]
        self._pems = [
            (leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()) for leaf in leaves
        ]
        #: By what a client is shown, in the order of renewal.
        self.numbers = {
            ssl.PEM_cert_to_DER_cert(cert.decode()): number
            for number, (cert, _) in enumerate(self._pems)
        }
        #: Set once somebody was shown the certificate of that number.
        self.seen = [trio.Event() for _ in leaves]
        self.replace_folder(0)
        for name in ("cert.pem", "key.pem"):
            (folder / name).symlink_to(f"..data/{name}")

    def replace_folder(self, number: int) -> None:
        """Replace both at one blow, by the link to their folder."""
        (new := self._folder / f"..{number}").mkdir()
        self._write(new, number)
        (link := self._folder / "..new").symlink_to(new.name)
        link.rename(self._folder / "..data")

    def replace_files(self, number: int) -> None:
        """Replace one after the other; for a moment they do not belong together."""
        (new := self._folder / "new").mkdir(exist_ok=True)
        self._write(new, number)
        for name in ("cert.pem", "key.pem"):
            (new / name).rename(self._folder / "..data" / name)

    def _write(self, folder: Path, number: int) -> None:
        for name, pem in zip(("cert.pem", "key.pem"), self._pems[number], strict=True):
            (folder / name).write_bytes(pem)


@attrs.define
class Comer:
    """A client that comes, asks and goes, again and again, and resumes when it is let."""

    address: tuple[str, int]
    tls: ssl.SSLContext
    files: Files
    #: Which certificate it was shown each time; what it resumes began with that same one.
    shown: list[int] = attrs.field(factory=list)
    resumed: int = 0
    _session: ssl.SSLSession | None = None

    async def come(self, stop: trio.Event) -> None:
        while not stop.is_set():
            await trio.to_thread.run_sync(self._once)
            self.files.seen[self.shown[-1]].set()

    def _once(self) -> None:
        with (
            socket.create_connection(self.address, timeout=PATIENCE) as plain,
            self.tls.wrap_socket(
                plain, server_hostname="localhost", session=self._session
            ) as stream,
        ):
            stream.sendall(REQUEST)
            answer = b"".join(iter(lambda: stream.recv(4096), b""))
            assert answer.endswith(b"here"), answer
            if stream.session_reused:
                self.resumed += 1
            certificate = stream.getpeercert(binary_form=True)
            assert certificate is not None
            self.shown.append(self.files.numbers[certificate])
            # Every other time it has forgotten, and shakes hands in full.
            self._session = stream.session if len(self.shown) % 2 else None


@contextlib.asynccontextmanager
async def open_rig(folder: Path) -> AsyncIterator[tuple[Program, Program]]:
    """Run the crowd and the proxy before its nodes."""
    crowd_command = [sys.executable, str(Path(HERE, "crowd.py"))]
    command = [sys.executable, "-m", "proxy", "run", "-c", str(folder / "tidegate.toml")]
    async with open_program("crowd", crowd_command) as crowd:
        await crowd.until_ready()
        nodes = json.dumps(crowd.named("ready")[0]["nodes"])
        (folder / "tidegate.toml").write_text(CONFIG.format(nodes=nodes))
        async with open_program("proxy", command) as proxy:
            await proxy.until_ready()
            yield crowd, proxy
            assert proxy.alive


async def tell(crowd: Program, **order: str | int) -> None:
    assert crowd.process.stdin is not None
    await crowd.process.stdin.send_all(json.dumps(order).encode() + b"\n")


def make_comer(address: str, files: Files, version: ssl.TLSVersion, ca_file: Path) -> Comer:
    tls = ssl.create_default_context(cafile=ca_file)
    tls.minimum_version = tls.maximum_version = version
    host, _, port = address.rpartition(":")
    return Comer((host, int(port)), tls, files)


async def test_renewals_under_load(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(ca_file := tmp_path / "ca.pem")
    files = Files(tmp_path, ca)
    async with open_rig(tmp_path) as (crowd, proxy):
        addresses = {event["listener"]: event["address"] for event in proxy.named("listening")}
        await tell(crowd, **addresses, ca_file=str(ca_file), over_tcp=0, over_tls=SESSIONS)
        await crowd.until(lambda: crowd.named("connected"), "its sessions", within=PATIENCE)
        versions = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3] * COMERS
        comers = [make_comer(addresses["secure"], files, one, ca_file) for one in versions]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for comer in comers:
                nursery.start_soon(comer.come, stop)
            for number in range(1, RENEWALS + 1):
                (files.replace_files if number % 2 else files.replace_folder)(number)
                with deadline(PATIENCE, f"renewal {number}"):
                    await files.seen[number].wait()
            stop.set()
        await tell(crowd)
        await crowd.until(lambda: crowd.named("done"), "its end", within=PATIENCE)
        done = crowd.named("done")[0]

    assert done["faults"] == []
    assert done["least"] > 0
    assert len(proxy.named("certificate renewed")) == RENEWALS
    assert not proxy.named("certificate not renewed")
    for comer in comers:
        # Whoever has seen a certificate never sees an older one.
        assert comer.shown == sorted(comer.shown)
        assert comer.resumed
    assert sum(len(comer.shown) for comer in comers) > 3 * RENEWALS
