"""Names resolved by a real name server, dnsmasq, and by servers that are silent or not there."""

from __future__ import annotations

import io
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.resolver
import pytest
import trio

from proxy.config.address import Address
from proxy.config.upstream import Discovery
from proxy.errors import DnsError
from proxy.io.resolve import Answer, resolve

from .rig import LIMIT

#: What dnsmasq knows; all else under .test doesn't exist, and all that is not it refuses to answer.
RECORDS = """
local=/test/
local-ttl=30
host-record=v4.test,192.0.2.1
host-record=v6.test,2001:db8::1
host-record=both.test,192.0.2.2,2001:db8::2
host-record=half.elsewhere,192.0.2.4
host-record=brief.test,192.0.2.3,5
cname=alias.test,brief.test
cname=brief-alias.test,v4.test,4
txt-record=empty.test,nothing else
srv-host=_two._tcp.test,v4.test,6020,10
srv-host=_two._tcp.test,both.test,6021,10
srv-host=_two._tcp.test,v6.test,6022,20
srv-host=_ports._tcp.test,brief.test,6020
srv-host=_ports._tcp.test,brief.test,6021
srv-host=_dangling._tcp.test,no-such.test,6020
srv-host=_dangling._tcp.test,v4.test,6020
srv-host=_gone._tcp.test,no-such.test,6020
srv-host=_none._tcp.test
"""

MARKERS = itertools.count()


@attrs.frozen
class NameServer:
    """A dnsmasq, and the file of further hosts that it reads again when told."""

    address: Address
    process: subprocess.Popen[bytes]
    hosts: Path

    def serve(self, name: str, *addresses: str) -> None:
        """Change the file; the name that comes last tells when all of it was read."""
        marker = f"marker-{next(MARKERS)}.test"
        lines = [*(f"{address} {name}\n" for address in addresses), f"192.0.2.0 {marker}\n"]
        self.hosts.write_text("".join(lines))
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(marker)

    def wait_for(self, name: str) -> None:
        question = dns.message.make_query(name, "A")
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                answer = dns.query.udp(question, "127.0.0.1", 0.02, self.address.port)
            except dns.exception.Timeout:
                continue
            if answer.answer:
                return
        pytest.fail(f"dnsmasq does not answer, status {self.process.poll()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    program = shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("dnsmasq is not installed")
        pytest.skip("dnsmasq is not installed")
    folder = tmp_path_factory.mktemp("dns")
    config, hosts = folder / "dnsmasq.conf", folder / "hosts"
    config.write_text(RECORDS)
    hosts.touch()
    folder.chmod(0o755)
    port = free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    options = f"--conf-file={config} --addn-hosts={hosts} --port={port} --user={user} --pid-file="
    fixed = "--no-daemon --no-hosts --no-resolv --listen-address=127.0.0.1 --bind-interfaces"
    process = subprocess.Popen(
        [program, *options.split(), *fixed.split()], stderr=subprocess.DEVNULL
    )
    try:
        found = NameServer(Address(host="127.0.0.1", port=port), process, hosts)
        found.wait_for("v4.test")
        yield found
    finally:
        process.terminate()
        process.wait(LIMIT)


@pytest.fixture
def silent() -> Iterator[Address]:
    """A name server that nobody reads."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(host="127.0.0.1", port=sock.getsockname()[1])


def discovery(*servers: Address, timeout: float = LIMIT) -> Discovery:
    return Discovery(nameservers=servers, timeout=timeout)


async def ask(name: str, config: Discovery) -> Answer:
    return await resolve(Address.parse(name), config, Random(1))


def texts(answer: Answer) -> list[str]:
    return sorted(map(str, answer.addresses))


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("v4.test:6020", ["192.0.2.1:6020"]),
        ("v6.test:6020", ["[2001:db8::1]:6020"]),
        ("both.test:6020", ["192.0.2.2:6020", "[2001:db8::2]:6020"]),
        ("V4.Test.:6020", ["192.0.2.1:6020"]),
        ("alias.test:6020", ["192.0.2.3:6020"]),
        (
            "srv:_two._tcp.test",
            ["192.0.2.1:6020", "192.0.2.2:6021", "[2001:db8::2]:6021"],
        ),
        ("srv:_ports._tcp.test", ["192.0.2.3:6020", "192.0.2.3:6021"]),
        ("srv:_dangling._tcp.test", ["192.0.2.1:6020"]),
        ("srv:_none._tcp.test", []),
    ],
)
async def test_names(name: str, addresses: list[str], server: NameServer) -> None:
    assert texts(await ask(name, discovery(server.address))) == addresses


@pytest.mark.parametrize(
    ("name", "shortest", "longest", "lifetime"),
    [
        ("v4.test:1", 1, 60, 30),
        ("v4.test:1", 40, 60, 40),
        ("v4.test:1", 1, 10, 10),
        ("brief.test:1", 1, 60, 5),
        ("alias.test:1", 1, 60, 5),
        ("brief-alias.test:1", 1, 60, 4),
        ("srv:_two._tcp.test", 1, 60, 30),
        ("srv:_ports._tcp.test", 1, 60, 5),
        ("srv:_none._tcp.test", 1, 60, 30),
    ],
)
async def test_lifetime_is_the_lowest_of_all_records_within_bounds(
    name: str, shortest: float, longest: float, lifetime: float, server: NameServer
) -> None:
    config = attrs.evolve(discovery(server.address), shortest=shortest, longest=longest)

    assert (await ask(name, config)).lifetime == lifetime


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-such.test:1", "there is no such name"),
        ("srv:_no._tcp.test", "there is no such name"),
        ("srv:_gone._tcp.test", "there is no such name"),
        ("empty.test:1", "it has no addresses"),
        ("v4.elsewhere:1", "the name servers failed, REFUSED"),
        # A is there, AAAA is refused: no answer is better than half of one.
        ("half.elsewhere:1", "the name servers failed, REFUSED"),
        ("v4..test:1", "A DNS label is empty"),
        ("localhost:1", "the name servers failed, REFUSED"),
    ],
)
async def test_failures(name: str, reason: str, server: NameServer) -> None:
    with pytest.raises(DnsError) as caught:
        await ask(name, discovery(server.address))

    assert caught.value.node == name
    assert caught.value.detail == f"The node's name cannot be resolved: {reason}."


async def test_what_does_not_fit_a_datagram_comes_over_tcp(server: NameServer) -> None:
    many = {f"192.0.2.{i}" for i in range(1, 101)}
    server.serve("many.test", *many)
    answer = await ask("many.test:1", discovery(server.address))

    assert {address.host for address in answer.addresses} == many


async def test_answers_that_change(server: NameServer) -> None:
    server.serve("changing.test", "192.0.2.10", "192.0.2.11", "2001:db8::10")
    config = discovery(server.address)
    before = ["192.0.2.10:1", "192.0.2.11:1", "[2001:db8::10]:1"]

    assert texts(await ask("changing.test:1", config)) == before

    server.serve("changing.test", "192.0.2.11", "192.0.2.12")

    assert texts(await ask("changing.test:1", config)) == ["192.0.2.11:1", "192.0.2.12:1"]

    server.serve("other.test", "192.0.2.10")
    with pytest.raises(DnsError, match="no such name"):
        await ask("changing.test:1", config)


async def test_order_is_random_but_for_the_seed(server: NameServer) -> None:
    server.serve("several.test", *(f"192.0.2.{i}" for i in range(1, 9)))
    config = discovery(server.address)
    name = Address(host="several.test", port=1)
    orders = [(await resolve(name, config, Random(seed))).addresses for seed in (1, 1, 2, 3)]

    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


async def test_server_that_is_silent_or_not_there(silent: Address) -> None:
    nobody = Address(host="127.0.0.1", port=free_port())
    for address in (silent, nobody):
        started = trio.current_time()
        with pytest.raises(DnsError, match="no answer came in time"):
            await ask("v4.test:1", discovery(address, timeout=0.1))

        assert trio.current_time() - started < LIMIT / 2


async def test_server_that_cannot_be_reached() -> None:
    """The kernel sends nothing to the broadcast address for who did not ask to."""
    with pytest.raises(DnsError, match="no name server can be reached"):
        await ask("v4.test:1", discovery(Address(host="255.255.255.255", port=53)))


async def test_dead_server_leaves_time_for_the_next(silent: Address, server: NameServer) -> None:
    config = discovery(silent, server.address, timeout=1.0)

    assert len((await ask("srv:_two._tcp.test", config)).addresses) == 3


async def test_nothing_is_left_when_cancelled(silent: Address) -> None:
    async with trio.open_nursery() as nursery:
        before = len(os.listdir("/proc/self/fd"))
        nursery.start_soon(ask, "v4.test:1", discovery(silent))
        await trio.testing.wait_all_tasks_blocked()

        assert len(os.listdir("/proc/self/fd")) == before + 2
        nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before


async def truncating(sock: trio.socket.SocketType) -> None:
    """Answer everything with "ask again, over TCP"."""
    while True:
        data, peer = await sock.recvfrom(512)
        response = dns.message.make_response(dns.message.from_wire(data))
        response.flags |= dns.flags.TC
        await sock.sendto(response.to_wire(), peer)


async def test_nothing_is_left_when_cancelled_over_tcp() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    host, port = listener.socket.getsockname()
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((host, port))
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(truncating, sock)
            before = len(os.listdir("/proc/self/fd"))
            nursery.start_soon(ask, "v4.test:1", discovery(Address(host=host, port=port)))
            accepted = [await listener.accept() for _ in ("A", "AAAA")]
            nursery.cancel_scope.cancel()
        for stream in accepted:
            await stream.aclose()
    assert len(os.listdir("/proc/self/fd")) == before - 2  # the server's own


class Hosts(trio.abc.HostnameResolver):
    """Stands in for the system, which knows two names."""

    async def getaddrinfo(self, host: bytes | None, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host not in (b"known.test", b"known.elsewhere"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.99", 0))]

    async def getnameinfo(self, *_: Any) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def set_system(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Address], None]:
    """Have another /etc/resolv.conf, and for its server a port, which it can't tell."""
    read = dns.resolver.BaseResolver.read_resolv_conf

    def set_system(text: str, server: Address) -> None:
        def read_text(self: dns.resolver.BaseResolver, _: str) -> None:
            self.port = server.port
            read(self, io.StringIO(text))

        monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", read_text)
        trio.socket.set_custom_hostname_resolver(Hosts())

    return set_system


HERE = "nameserver 127.0.0.1\n"


@pytest.mark.parametrize(
    ("text", "name", "addresses", "lifetime"),
    [
        (HERE, "both.test:1", ["192.0.2.2:1", "[2001:db8::2]:1"], 30),
        (HERE, "known.test:1", ["192.0.2.99:1"], 50),
        (HERE, "srv:_ports._tcp.test", ["192.0.2.3:6020", "192.0.2.3:6021"], 5),
        (HERE + "search none.test test\n", "v4:1", ["192.0.2.1:1"], 30),
        ("", "known.test:1", ["192.0.2.99:1"], 50),
        ("nameserver ns.example.org\n", "known.test:1", ["192.0.2.99:1"], 50),
        (HERE + "search a..b\n", "known.test:1", ["192.0.2.99:1"], 50),
        ("nameserver 255.255.255.255\n", "known.test:1", ["192.0.2.99:1"], 50),
    ],
)
async def test_system(
    text: str,
    name: str,
    addresses: list[str],
    lifetime: float,
    server: NameServer,
    set_system: Callable[[str, Address], None],
) -> None:
    """The system's name servers, and what they don't know from its hosts file, for the longest."""
    set_system(text, server.address)
    answer = await ask(name, Discovery(longest=50, timeout=LIMIT))

    assert (texts(answer), answer.lifetime) == (addresses, lifetime)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (HERE, "no-such.test:1", "there is no such name"),
        (HERE, "empty.test:1", "it has no addresses"),
        (HERE, "localhost:1", "this machine has no localhost"),
        ("", "no-such.test:1", "no name server can be reached"),
        # A server that has trouble hides what it knows: then what the system knows is not it.
        (HERE, "known.elsewhere:1", "the name servers failed, REFUSED"),
    ],
)
async def test_system_that_does_not_know(
    text: str,
    name: str,
    reason: str,
    server: NameServer,
    set_system: Callable[[str, Address], None],
) -> None:
    set_system(text, server.address)
    with pytest.raises(DnsError) as caught:
        await ask(name, Discovery(timeout=LIMIT))

    assert caught.value.detail == f"The node's name cannot be resolved: {reason}."


async def test_name_that_no_standard_allows(
    server: NameServer, set_system: Callable[[str, Address], None]
) -> None:
    """IDNA 2003 has it, 2008 has not; dnspython and Trio need not agree."""
    set_system(HERE, server.address)
    with pytest.raises(DnsError, match="cannot be resolved"):
        await ask("\N{SNOWMAN}.test:1", Discovery(timeout=LIMIT))


async def test_system_with_a_silent_server(
    silent: Address, set_system: Callable[[str, Address], None]
) -> None:
    set_system(HERE, silent)

    assert texts(await ask("known.test:1", Discovery(timeout=0.75))) == ["192.0.2.99:1"]


async def test_localhost_by_this_system() -> None:
    answer = await ask("localhost:6020", Discovery(timeout=LIMIT))

    assert {a.host for a in answer.addresses} <= {"127.0.0.1", "::1"}
    assert {a.port for a in answer.addresses} == {6020}


def test_dns_is_imported_when_it_is_needed() -> None:
    check = "import sys, proxy.io.resolve; sys.exit('dns' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
