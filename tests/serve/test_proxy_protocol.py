"""The PROXY protocol on real sockets: whose a connection is, and what its node is told of it."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from proxy import Record, Server, open_proxy, parse_config
from proxy.config.address import Address
from proxy.config.upstream import ProxyVersion
from proxy.wire.proxy_protocol import AUTHORITY, SSL, UNIQUE_ID, Source, build, read
from tests.serve.world import ACCEPTED, UPGRADE

LIMIT = 10.0
CLIENT, BALANCER = Address("192.0.2.7", 5555), Address("198.51.100.1", 443)
SOURCE = Source((CLIENT, BALANCER))
GET = b"GET /api HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TEMPLATE = """
[timeouts]
handshake = {handshake}
linger = 0.1
close = 0.1
[shutdown]
deadline = 0.1
[[listeners]]
bind = {bind}
{listener}
[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
limits.sessions_per_address = 1
[[routes]]
prefix = "/api"
upstream = "nodes"
[upstreams.nodes]
nodes = {nodes}
{upstream}
"""
TRUSTING = 'proxy_protocol.trusted = [ "127.0.0.0/8", "unix" ]'


@attrs.define
class Node:
    """A node that keeps what each connection has sent up to the end of a request's head."""

    port: int
    heads: list[bytes] = attrs.field(factory=list)
    #: Whether a connection has carried more than a request.
    reused: bool = False
    #: What an answer waits for.
    asked: trio.Event = attrs.field(factory=trio.Event)
    answers: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        head = b""
        while b" HTTP/1.1\r\n" not in head or not head.endswith(b"\r\n\r\n"):
            if not (data := await stream.receive_some()):
                return
            head += data
        self.heads.append(head)
        self.asked.set()
        await self.answers.wait()
        await stream.send_all(ACCEPTED if b"Upgrade" in head else OK)
        if await stream.receive_some():
            self.reused = True


@asynccontextmanager
async def open_node() -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        node = Node(listener.socket.getsockname()[1])
        node.answers.set()
        nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        yield node
        nursery.cancel_scope.cancel()


@attrs.frozen
class Rig:
    """A proxy in front of nodes, and the addresses of its records."""

    address: Address
    nodes: list[Node]
    records: list[Record]
    server: Server

    async def open(self) -> trio.SocketStream:
        if self.address.path:
            return await trio.open_unix_socket(self.address.path)
        return await trio.open_tcp_stream("127.0.0.1", self.address.port)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send what is given, and return all that comes back."""
        async with await self.open() as stream:
            for piece in pieces:
                await stream.send_all(piece)
            return await receive_all(stream)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass
    return received


@asynccontextmanager
async def open_rig(
    listener: str = TRUSTING,
    upstream: str = "",
    *,
    bind: str = "127.0.0.1:0",
    folder: Path | None = None,
    nodes: int = 1,
    handshake: float = LIMIT,
) -> AsyncIterator[Rig]:
    records: list[Record] = []
    with trio.fail_after(LIMIT):
        async with open_node() as one, open_node() as other:
            running = [one, other][:nodes]
            text = TEMPLATE.format(
                listener=listener,
                upstream=upstream,
                bind=json.dumps(bind),
                nodes=json.dumps([f"127.0.0.1:{node.port}" for node in running]),
                handshake=handshake,
            )
            config = parse_config(text, folder=folder)
            async with open_proxy(config, on_record=records.append) as server:
                yield Rig(server.address(), running, records, server)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix"])
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_the_address_is_the_clients(version: ProxyVersion, bind: str, tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s" if bind == "unix" else bind
    async with open_rig(bind=bind) as rig:
        answer = await rig.ask(build(version, SOURCE) + GET)

        assert answer.endswith(b"ok")
        (head,) = rig.nodes[0].heads
        for line in (b"For: 192.0.2.7", b"Port: 443", b"Proto: http"):
            assert b"\r\nX-Forwarded-" + line + b"\r\n" in head
        assert [(record.client, record.status) for record in rig.records] == [(str(CLIENT), 200)]


async def test_who_has_taken_tls_off_says_so() -> None:
    async with open_rig() as rig:
        over_tls = attrs.evolve(SOURCE, tlvs=((SSL, b"\1\0\0\0\1"),))
        await rig.ask(build("v2", over_tls) + GET)

        assert b"\r\nX-Forwarded-Proto: https\r\n" in rig.nodes[0].heads[0]


async def test_sessions_are_counted_by_the_clients_address() -> None:
    async with open_rig() as rig:
        other = Source((Address("192.0.2.8", 1), BALANCER))
        async with await rig.open() as first, await rig.open() as second:
            for stream, source in ((first, SOURCE), (second, other)):
                await stream.send_all(build("v2", source) + UPGRADE)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")

            close = UPGRADE.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
            async with await rig.open() as third:
                await third.send_all(build("v1", SOURCE) + close)
                assert (await third.receive_some()).startswith(b"HTTP/1.1 429 ")


async def test_nodes_are_chosen_by_the_clients_address() -> None:
    async with open_rig(upstream='balance = "hash"', nodes=2) as rig:
        for _ in range(3):
            for host in range(20):
                source = Source((Address(f"192.0.2.{host}", 1), BALANCER))
                await rig.ask(build("v2", source) + GET)

        by_node = [
            {head.partition(b"X-Forwarded-For: ")[2].split()[0] for head in node.heads}
            for node in rig.nodes
        ]
        assert all(by_node)
        assert not by_node[0] & by_node[1]
        assert len(by_node[0] | by_node[1]) == 20


@pytest.mark.parametrize(
    ("listener", "sent", "detail"),
    [
        (
            'proxy_protocol.trusted = [ "10.0.0.0/8" ]',
            build("v1", SOURCE) + GET,
            "This address is not trusted to send a PROXY header.",
        ),
        (TRUSTING, GET, "It does not begin with a PROXY header."),
        (
            TRUSTING,
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n" + GET,
            "The PROXY line has a malformed port.",
        ),
    ],
)
async def test_refused_without_a_word(listener: str, sent: bytes, detail: str) -> None:
    async with open_rig(listener) as rig:
        assert await rig.ask(sent) == b""
        (record,) = rig.records
        assert record.detail == detail
        assert record.client.startswith("127.0.0.1:")
        assert not rig.nodes[0].heads


async def test_header_and_request_have_one_deadline() -> None:
    async with open_rig(handshake=0.05) as rig:
        assert await rig.ask(build("v1", SOURCE)[:-1]) == b""
        assert await rig.ask(build("v1", SOURCE)) == b""
        assert await rig.ask(build("v2", Source())) == b""

        late, *silent = rig.records
        assert late.detail == "The PROXY header was not complete in time."
        assert [record.detail for record in silent] == ["It sent no request in time."] * 2


@pytest.mark.parametrize("sent", [b"", build("v1", Source()), build("v2", Source())])
@pytest.mark.parametrize("secure", [False, True])
async def test_health_checks_are_no_news(
    sent: bytes, secure: bool, tmp_path: Path, ca: trustme.CA
) -> None:
    async with open_rig(TRUSTING + tls(ca, tmp_path) * secure, folder=tmp_path) as rig:
        async with await rig.open() as stream:
            if sent:
                await stream.send_all(sent)
            await stream.send_eof()
            assert await stream.receive_some() == b""

        assert not rig.records


async def test_health_checks_of_version_1_give_their_own_address() -> None:
    async with open_rig() as rig:
        async with await rig.open() as stream:
            own = Source((Address(*stream.socket.getsockname()), rig.address))
            await stream.send_all(build("v1", own))
            await stream.send_eof()
            assert await stream.receive_some() == b""

        assert not rig.records
        # One that asks something is like any other.
        async with await rig.open() as stream:
            client = Address(*stream.socket.getsockname())
            await stream.send_all(build("v1", Source((client, rig.address))) + GET)
            assert (await receive_all(stream)).endswith(b"ok")

        assert [record.client for record in rig.records] == [str(client)]


async def test_health_check_that_asks_something() -> None:
    async with open_rig() as rig:
        assert (await rig.ask(build("v2", Source()), GET)).endswith(b"ok")

        assert rig.records[0].client.startswith("127.0.0.1:")
        assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in rig.nodes[0].heads[0]


def tls(ca: trustme.CA, folder: Path) -> str:
    path = folder / "both.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return '\ntls.certificates = [ { cert_file = "both.pem", key_file = "both.pem" } ]\n'


async def ask_over_tls(rig: Rig, header: bytes, context: ssl.SSLContext) -> bytes:
    """Ask over TLS whose ClientHello comes in one segment with a header."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with await rig.open() as stream:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                await stream.send_all(header + outgoing.read())
                header = b""
                incoming.write(await stream.receive_some())
        client.write(GET)
        await stream.send_all(outgoing.read())
        incoming.write(await receive_all(stream))
        return client.read()


async def test_tls_behind_the_header(
    tmp_path: Path, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    listener = TRUSTING + tls(ca, tmp_path)
    async with open_rig(listener, 'proxy_protocol = "v2"', folder=tmp_path) as rig:
        came = attrs.evolve(SOURCE, tlvs=((AUTHORITY, b"theirs"), (0xE0, b"x")))
        answer = await ask_over_tls(rig, build("v2", came), client_tls)

        assert answer.startswith(b"HTTP/1.1 200 ")
        (record,) = rig.records
        assert record.client == str(CLIENT)
        found = read(rig.nodes[0].heads[0])
        assert found is not None
        assert found[0].ends == SOURCE.ends
        tlvs = dict(found[0].tlvs)
        assert (tlvs[AUTHORITY], tlvs[0xE0]) == (b"localhost", b"x")
        assert tlvs[UNIQUE_ID] == record.id.encode()
        assert tlvs[SSL].startswith(b"\1\0\0\0\1\x21\0\7TLSv1.3\x23")
        assert rig.nodes[0].heads[0][found[1] :].startswith(b"GET /api ")


@pytest.mark.parametrize("request_", [GET, UPGRADE])
async def test_node_is_told_of_a_client_that_came_without_a_header(request_: bytes) -> None:
    async with open_rig("", 'proxy_protocol = "v1"') as rig, await rig.open() as stream:
        await stream.send_all(request_)
        await stream.receive_some()
        client = Address(*stream.socket.getsockname())

        line, _, head = rig.nodes[0].heads[0].partition(b"\r\n")
        expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {client.port} {rig.address.port}"
        assert line == expected.encode()
        assert head.startswith(b"GET /")


async def test_node_is_told_of_a_client_on_a_unix_socket(tmp_path: Path) -> None:
    async with open_rig("", 'proxy_protocol = "v2"', bind=f"unix:{tmp_path}/s") as rig:
        await rig.ask(GET)

        found = read(rig.nodes[0].heads[0])
        assert found is not None
        assert found[0].ends == (Address(), Address(path=f"{tmp_path}/s"))


async def test_one_clients_connection_is_never_anothers() -> None:
    """Nor is it used twice for the same."""
    async with open_rig(upstream='proxy_protocol = "v2"') as rig:
        keep = GET.replace(b"Connection: close\r\n", b"")
        for host in ("192.0.2.1", "192.0.2.2"):
            source = Source((Address(host, 1), BALANCER))
            await rig.ask(build("v1", source) + keep + GET)

        sources = [read(head) for head in rig.nodes[0].heads]
        hosts = [found[0].ends[0].host for found in sources if found and found[0].ends]
        assert hosts == ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"]


async def test_what_was_one_clients_stays_so_after_a_reload() -> None:
    async with open_rig(upstream='proxy_protocol = "v2"') as rig, trio.open_nursery() as nursery:
        (node,) = rig.nodes
        node.answers = trio.Event()
        nursery.start_soon(rig.ask, build("v1", SOURCE) + GET)
        await node.asked.wait()
        config = rig.server.config
        upstream = attrs.evolve(config.upstreams["nodes"], proxy_protocol=None)
        await rig.server.reload(attrs.evolve(config, upstreams={"nodes": upstream}))
        node.answers.set()
        while not rig.records:
            await trio.lowlevel.checkpoint()
        await rig.ask(build("v1", SOURCE) + GET)

        assert [head.startswith(b"GET ") for head in node.heads] == [False, True]
        assert not node.reused
