"""TCP mode on real sockets: TLS, halves and resets, names, and all that is done with sessions."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme

from proxy import Record, Server, open_proxy, parse_config
from proxy.config.model import Config

LIMIT = 10.0
NAME = "rt.example.org"
NOISE = bytes(range(256)) * 8192
Serve = Callable[[trio.SocketStream], Awaitable[object]]

BASE = """
[timeouts]
linger = 0.5
close = 0.5
[shutdown]
rate = 1000000.0
deadline = 3.0
[[listeners]]
name = "plain"
mode = "tcp"
bind = "127.0.0.1:0"
"""
ROUTE = '[[routes]]\nlistener = "plain"\nupstream = "nodes"\n'
TLS = """
[[listeners]]
name = "secure"
mode = "tcp"
bind = "127.0.0.1:0"
tls = { certificates = [ { cert_file = "both.pem", key_file = "both.pem" } ] }
[[routes]]
listener = "secure"
upstream = "nodes"
"""
BEHIND = """
[[listeners]]
name = "behind"
mode = "tcp"
bind = "127.0.0.1:0"
proxy_protocol = { trusted = [ "127.0.0.0/8" ] }
"""


@attrs.define
class Rig:
    """A proxy in front of one node."""

    server: Server
    node: str
    folder: Path
    records: list[Record]
    #: Of the clients, which hang up when it is over.
    resources: AsyncExitStack

    async def connect(self, listener: str = "plain") -> trio.SocketStream:
        address = self.server.address(listener)
        stream = await trio.open_tcp_stream(address.host, address.port)
        self.resources.push_async_callback(trio.aclose_forcefully, stream)
        return stream

    async def secure(
        self, tls: ssl.SSLContext, listener: str = "secure", name: str = "localhost"
    ) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(
            await self.connect(listener), tls, server_hostname=name, https_compatible=True
        )
        await stream.do_handshake()
        return stream

    def parse(self, more: str = ROUTE, upstream: str = "") -> Config:
        return parse(self.folder, self.node, more, upstream)

    async def until_recorded(self, count: int = 1) -> list[Record]:
        await until(lambda: len(self.records) >= count)
        return self.records


def parse(folder: Path, node: str, more: str, upstream: str = "") -> Config:
    pool = f'[upstreams.nodes]\nnodes = [ "{node}" ]\n{upstream}\n'
    return parse_config(BASE + more + pool, folder=folder)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what only looking tells."""
    while not condition():  # noqa: ASYNC110  the proxy has no event for it
        await trio.sleep(0.005)


async def echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.fixture
def folder(tmp_path: Path, ca: trustme.CA) -> Path:
    certificate = ca.issue_cert("localhost", NAME).private_key_and_cert_chain_pem
    certificate.write_to_path(tmp_path / "both.pem")
    return tmp_path


@asynccontextmanager
async def open_rig(
    folder: Path, serve: Serve = echo, more: str = ROUTE, upstream: str = ""
) -> AsyncIterator[Rig]:
    """Run the proxy in front of a node that serves each connection so."""

    async def guarded(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await serve(stream)

    records: list[Record] = []
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            node = "{}:{}".format(*listeners[0].socket.getsockname())
            nursery.start_soon(partial(trio.serve_listeners, guarded, listeners))
            config = parse(folder, node, more, upstream)
            async with (
                open_proxy(config, on_record=records.append) as server,
                AsyncExitStack() as resources,
            ):
                yield Rig(server, node, folder, records, resources)
            nursery.cancel_scope.cancel()


async def read(stream: trio.abc.Stream, size: int) -> bytes:
    received = b""
    while len(received) < size and (data := await stream.receive_some()):
        received += data
    return received


async def read_end(stream: trio.abc.Stream) -> str:
    """Return how a stream ends: "FIN" or "RST"."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError as exc:
        return "RST" if isinstance(exc.__cause__, ConnectionResetError) else "torn"
    return "FIN"


def reset(stream: trio.SocketStream) -> None:
    """Close with a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_much_passes_both_ways(folder: Path, client_tls: ssl.SSLContext) -> None:
    async with open_rig(folder, more=ROUTE + TLS) as rig:
        for client in (await rig.connect(), await rig.secure(client_tls)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, NOISE)
                assert await read(client, len(NOISE)) == NOISE
            await client.aclose()
        records = await rig.until_recorded(2)

    assert [(record.listener, record.route) for record in records] == [
        ("plain", "tcp:plain"),
        ("secure", "tcp:secure"),
    ]
    for record in records:
        assert (record.bytes_from_client, record.bytes_from_node) == (len(NOISE), len(NOISE))
        assert (record.ending, record.ended_by) == ("client_closed", "client")
    assert records[1].tls_time is not None


async def test_a_client_may_end_its_stream_and_wait(folder: Path) -> None:
    async def answers(stream: trio.SocketStream) -> None:
        question = b"".join([data async for data in stream])
        for _ in range(3):
            await trio.sleep(0.05)
            await stream.send_all(question)

    async with open_rig(folder, answers) as rig:
        async with await rig.connect() as client:
            await client.send_all(b"question")
            await client.send_eof()
            assert await read(client, 100) == b"question" * 3
        (record,) = await rig.until_recorded()

    assert record.ending == "client_closed"


async def test_a_node_may_end_its_stream_and_listen(
    folder: Path, client_tls: ssl.SSLContext
) -> None:
    heard: list[bytes] = []

    async def listens(stream: trio.SocketStream) -> None:
        await stream.send_all(b"go on")
        await stream.send_eof()
        heard.append(b"".join([data async for data in stream]))

    async with open_rig(folder, listens, ROUTE + TLS) as rig:
        for client in (await rig.connect(), await rig.secure(client_tls)):
            assert await read(client, 100) == b"go on"
            for _ in range(3):
                await client.send_all(b"more")
                await trio.sleep(0.02)
            await client.aclose()
        records = await rig.until_recorded(2)

    assert heard == [b"more" * 3] * 2
    assert [record.ending for record in records] == ["node_closed"] * 2


@pytest.mark.parametrize("who", ["client", "node"])
async def test_a_reset_passes_as_one(who: str, folder: Path) -> None:
    ends: list[str] = []

    async def node(stream: trio.SocketStream) -> None:
        await read(stream, 1)
        if who == "node":
            reset(stream)
        else:
            ends.append(await read_end(stream))

    async with open_rig(folder, node) as rig:
        client = await rig.connect()
        await client.send_all(b"x")
        if who == "client":
            await until(lambda: [one for one in rig.server.sessions() if one.from_client.bytes])
            reset(client)
        else:
            ends.append(await read_end(client))
        (record,) = await rig.until_recorded()
        await until(lambda: ends)

    assert ends == ["RST"]
    assert record.ending == f"{who}_lost"


async def test_what_is_refused_is_reset(folder: Path) -> None:
    async with open_rig(folder, more=ROUTE + "limits = { sessions = 1 }\n") as rig:
        first = await rig.connect()
        await first.send_all(b"x")
        assert await read(first, 1) == b"x"
        second = await rig.connect()

        assert await read_end(second) == "RST"
        (record,) = await rig.until_recorded()
        assert (record.token, record.ended_by) == ("connection_limit_reached", "proxy")
        await first.aclose()


async def test_no_node_is_a_reset_too(folder: Path) -> None:
    async with open_rig(folder, upstream='hold.timeout = 0\npanic = "refuse"') as rig:
        rig.server.set_node("nodes", rig.node, "down")
        client = await rig.connect()

        assert await read_end(client) == "RST"
        assert rig.records[0].token == "destination_unavailable"


async def test_one_that_hangs_up_while_it_waits_waits_no_more(folder: Path) -> None:
    async with open_rig(folder, more=ROUTE + TLS, upstream="hold.timeout = 60") as rig:
        rig.server.set_node("nodes", rig.node, "down")
        client = await rig.connect()
        await until(lambda: rig.server.statistics().upstreams["nodes"].waiting)
        await client.aclose()
        (record,) = await rig.until_recorded()

        assert (record.ended_by, record.ending) == ("client", "client_lost")
        assert rig.server.statistics().upstreams["nodes"].waiting == 0


async def test_tls_that_fails_leaves_a_record(folder: Path) -> None:
    async with open_rig(folder, more=ROUTE + TLS) as rig:
        client = await rig.connect("secure")
        await client.send_all(b"MQTT, by mistake")
        await read_end(client)
        (record,) = await rig.until_recorded()

    assert record.detail.startswith("The TLS handshake failed: ")
    assert record.session_time is not None


async def test_no_protocol_is_forced_upon_tls(folder: Path, ca: trustme.CA) -> None:
    """What is inside is not ours to know."""
    tls = ssl.create_default_context()
    ca.configure_trust(tls)
    tls.set_alpn_protocols(["mqtt", "http/1.1"])
    async with open_rig(folder, more=ROUTE + TLS) as rig:
        client = await rig.secure(tls)

        assert client.selected_alpn_protocol() is None
        await client.aclose()


async def test_tls_ends_here_and_begins_anew(
    folder: Path, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    ca.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "both.pem")
    context.set_alpn_protocols(["mqtt", "http/1.1"])
    agreed: list[str | None] = []

    async def secure(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        agreed.append(tls.selected_alpn_protocol())
        await echo(tls)

    upstream = 'tls = { ca_file = "ca.pem", server_name = "localhost" }'
    async with open_rig(folder, secure, ROUTE + TLS, upstream) as rig:
        client = await rig.secure(client_tls)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, NOISE)
            assert await read(client, len(NOISE)) == NOISE
        await client.aclose()
        (record,) = await rig.until_recorded()

    assert record.ending == "client_closed"
    # What it is going to speak is not said for it.
    assert agreed == [None]


@pytest.mark.parametrize("secure", [False, True])
async def test_a_proxy_header_tells_whose_it_is(
    secure: bool, folder: Path, client_tls: ssl.SSLContext
) -> None:
    """What it says goes to a node that wants to know, before the first byte of the client's."""
    listener = "behind"
    tls = TLS.partition("tls = ")[2].splitlines()[0]
    more = BEHIND + (f"tls = {tls}\n" if secure else "") + ROUTE.replace("plain", listener)
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n"
    upstream = 'proxy_protocol = "v1"'
    async with open_rig(folder, echo, ROUTE + more, upstream) as rig:
        client: trio.abc.Stream = await rig.connect(listener)
        await client.send_all(header)
        if secure:
            client = trio.SSLStream(
                client, client_tls, server_hostname="localhost", https_compatible=True
            )
        await client.send_all(b"hello")
        assert await read(client, len(header) + 5) == header + b"hello"
        await client.aclose()
        # A look whether somebody is there is no news.
        await (await rig.connect(listener)).aclose()
        (record,) = await rig.until_recorded()

    assert record.client == "192.0.2.7:5555"


async def test_tls_passes_by_name_to_the_node_that_ends_it(
    folder: Path, client_tls: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "both.pem")

    async def secure(stream: trio.SocketStream) -> None:
        await echo(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    async with open_rig(folder, secure, more=ROUTE + f'sni = "*.{NAME[3:]}"\n') as rig:
        client = await rig.secure(client_tls, "plain", NAME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, NOISE)
            assert await read(client, len(NOISE)) == NOISE
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await rig.secure(client_tls, "plain", "localhost")
        first, second = await rig.until_recorded(2)

    assert (first.host, first.route, first.ending) == (
        NAME,
        f"tcp:plain/*.{NAME[3:]}",
        "client_closed",
    )
    assert (second.host, second.token) == ("localhost", "destination_not_found")


async def test_it_is_seen_while_it_lives(folder: Path) -> None:
    async with open_rig(folder) as rig:
        client = await rig.connect()
        await client.send_all(b"hello")
        assert await read(client, 5) == b"hello"
        (session,) = rig.server.sessions()

        assert (session.listener, session.route, session.node) == ("plain", "tcp:plain", rig.node)
        assert (session.from_client.bytes, session.from_node.bytes) == (5, 5)
        assert rig.server.statistics().sessions == 1
        await client.aclose()
        await rig.until_recorded()
        assert rig.server.statistics().endings["client_closed"] == 1


async def test_a_node_that_is_drained_loses_its_sessions(folder: Path) -> None:
    async with open_rig(folder, upstream="drain.rate = 1000") as rig:
        client = await rig.connect()
        await client.send_all(b"hello")
        assert await read(client, 5) == b"hello"
        rig.server.set_node("nodes", rig.node, "drain")

        assert await read_end(client) == "FIN"
        (record,) = await rig.until_recorded()
        assert record.ending == "moved"


@pytest.mark.parametrize("keep", [True, False])
async def test_a_route_that_a_reload_takes_away(folder: Path, *, keep: bool) -> None:
    old = ROUTE + ('on_removed = "keep"\n' if keep else "")
    async with open_rig(folder, more=old) as rig:
        client = await rig.connect()
        await client.send_all(b"hello")
        assert await read(client, 5) == b"hello"
        reloaded = await rig.server.reload(rig.parse(ROUTE + 'sni = "a.example"\n'))

        assert (reloaded.routes.added, reloaded.routes.removed) == (
            ("tcp:plain/a.example",),
            ("tcp:plain",),
        )
        if keep:
            await client.send_all(b"again")
            assert await read(client, 5) == b"again"
        else:
            assert await read_end(client) == "FIN"
            assert (await rig.until_recorded())[0].ending == "removed"
        await client.aclose()


async def test_a_listener_may_become_another_kind(folder: Path) -> None:
    async with open_rig(folder) as rig:
        http = BASE.replace('mode = "tcp"', "") + '[[routes]]\npath = "/"\nupstream = "nodes"\n'
        http += f'[upstreams.nodes]\nnodes = [ "{rig.node}" ]\n'
        before = await rig.connect()
        await before.send_all(b"x")
        assert await read(before, 1) == b"x"
        await rig.server.reload(parse_config(http))
        after = await rig.connect()
        await after.send_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")

        assert (await read(after, 12)).startswith(b"HTTP/1.1 404")
        await before.aclose()
        await after.aclose()


async def test_an_end_is_an_end_for_all(folder: Path) -> None:
    async with open_rig(folder) as rig:
        client = await rig.connect()
        await client.send_all(b"hello")
        assert await read(client, 5) == b"hello"
        rig.server.shut_down()

        assert await read_end(client) == "FIN"
        await client.aclose()
        await rig.server.stopped.wait()
        assert [record.ending for record in rig.records] == ["shutdown"]


async def test_a_reader_that_has_stopped_is_reset(folder: Path) -> None:
    async def floods(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(NOISE)

    stall = 'write_stall = 0.2\non_stall = "abort"\n'
    async with open_rig(folder, floods, ROUTE + stall) as rig:
        client = await rig.connect()
        (record,) = await rig.until_recorded()

        assert record.ending == "client_stalled"
        assert await read_end(client) == "RST"
