"""The whole proxy on real sockets: listeners, limits, the boundary, and the end."""

from __future__ import annotations

import errno
import gc
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.lowlevel
import trustme

from proxy import (
    Allow,
    ConfigError,
    Handshake,
    Hooks,
    Message,
    Record,
    Refuse,
    Server,
    SessionView,
    open_proxy,
    parse_config,
    serve,
)
from proxy.serve.connection import Connection
from proxy.testing.node import open_nodes
from proxy.testing.websocket import Closed, Rejected, WebSocket

LIMIT = 10.0

TEMPLATE = """
[shutdown]
rate = 1000000.0
deadline = 5.0
[timeouts]
linger = 0.5
close = 0.5
[[listeners]]
name = "plain"
bind = "{bind}"
[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
[[routes]]
prefix = "/health-check"
upstream = "nodes"
[upstreams.nodes]
nodes = {nodes}
"""


class Rig:
    """A proxy in front of one stand-in node, and its clients, which hang up when it is over."""

    def __init__(self, server: Server, resources: AsyncExitStack) -> None:
        self.server = server
        self.port = server.address().port
        self._resources = resources

    async def open(self, name: str = "") -> trio.SocketStream:
        """Connect to a listener."""
        address = self.server.address(name)
        if address.path:
            stream = await trio.open_unix_socket(address.path)
        else:
            stream = await trio.open_tcp_stream(address.host, address.port)
        self._resources.push_async_callback(trio.aclose_forcefully, stream)
        return stream

    async def connect(self, *headers: tuple[bytes, bytes]) -> WebSocket:
        return await WebSocket.connect(await self.open(), "localhost", "/deepstream", headers)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return all that comes back until the proxy hangs up."""
        stream = await self.open()
        received = b""
        try:
            await stream.send_all(request)
            while data := await stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
        return received


async def challenge(client: WebSocket) -> bytes | str:
    """Send deepstream's CHALLENGE and return the answer, which should be ACCEPT."""
    await client.send(bytes.fromhex("0610021a020805"))
    return await client.receive()


ACCEPT = bytes.fromhex("0610021a020804")


@asynccontextmanager
async def open_rig(
    more: str = "",
    *,
    template: str = TEMPLATE,
    bind: str = "127.0.0.1:0",
    folder: Path | None = None,
    records: list[Record] | None = None,
    hooks: dict[str, Hooks] | None = None,
) -> AsyncIterator[Rig]:
    with trio.fail_after(LIMIT):
        async with open_nodes("a") as (node,), AsyncExitStack() as resources:
            text = template.format(bind=bind, nodes=[node.address]) + more
            config = parse_config(text, folder=folder)
            on_record = None if records is None else records.append
            async with open_proxy(config, on_record=on_record, hooks=hooks) as server:
                yield Rig(server, resources)


@pytest.mark.parametrize(
    ("bind", "allow", "passes"),
    [
        ("unix", "unix", True),
        ("unix", "127.0.0.0/8", False),
        ("127.0.0.1:0", "127.0.0.0/8", True),
        ("127.0.0.1:0", "unix", False),
        ("[::1]:0", "::1", True),
        ("[::1]:0", "127.0.0.0/8", False),
    ],
)
async def test_who_may_come(bind: str, allow: str, tmp_path: Path, *, passes: bool) -> None:
    """By the addresses that clients of each kind of socket really have."""
    bind = f"unix:{tmp_path}/s" if bind == "unix" else bind
    template = TEMPLATE.replace("websocket = true", f'websocket = true\nallow = ["{allow}"]')
    async with open_rig(bind=bind, template=template) as rig:
        if passes:
            client = await rig.connect()
            assert await challenge(client) == ACCEPT
            await client.close()
            return
        with pytest.raises(Rejected) as caught:
            await rig.connect()
        assert caught.value.status == 403


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix"])
async def test_serves_on_every_kind_of_address(bind: str, tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s" if bind == "unix" else bind
    async with open_rig(bind=bind) as rig:
        client = await rig.connect()

        assert await challenge(client) == ACCEPT
        await client.close()


@pytest.fixture
def secure(tmp_path: Path, ca: trustme.CA) -> str:
    """A second listener, with TLS."""
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    return """
        [[listeners]]
        name = "secure"
        bind = "127.0.0.1:0"
        tls = { certificates = [ { cert_file = "both.pem", key_file = "both.pem" } ] }
    """


async def test_serves_tls(secure: str, tmp_path: Path, client_tls: ssl.SSLContext) -> None:
    async with open_rig(secure, folder=tmp_path) as rig:
        stream = trio.SSLStream(
            await rig.open("secure"), client_tls, server_hostname="localhost", https_compatible=True
        )
        client = await WebSocket.connect(stream, "localhost", "/deepstream")

        assert await challenge(client) == ACCEPT
        await client.close()
        assert [bound.tls for bound in rig.server.bound] == [False, True]


async def test_handshake_time_covers_tls(secure: str, tmp_path: Path) -> None:
    template = TEMPLATE.replace("[timeouts]", "[timeouts]\nhandshake = 0.1")
    records: list[Record] = []
    async with open_rig(secure, template=template, folder=tmp_path, records=records) as rig:
        stream = await rig.open("secure")

        assert await stream.receive_some() == b""
    assert [record.detail for record in records] == ["The TLS handshake was not complete in time."]


REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def test_connections_beyond_the_limit_get_503_and_then_nothing() -> None:
    async with open_rig("[limits]\nconnections = 2\nshedding = 1\n") as rig:
        clients = [await rig.connect() for _ in range(2)]
        with pytest.raises(Rejected) as caught:
            await rig.connect()
        assert caught.value.status == 503
        assert "connection_limit_reached" in caught.value.headers["proxy-status"]

        # One that says nothing takes the one place there is for telling.
        await rig.open()
        while answer := await rig.ask(REQUEST):
            assert answer.startswith(b"HTTP/1.1 503 ")
        await clients.pop().close()
        # The silent one takes no place of those that are served, once the proxy knows of this end.
        while not (answer := await rig.ask(REQUEST)).startswith(b"HTTP/1.1 404 "):
            assert answer[:13] in (b"", b"HTTP/1.1 503 ")


async def test_a_bug_in_one_connection_is_logged_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig() as rig:
        first = await rig.connect()
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "run", explode)
            assert await rig.ask(REQUEST) == b""
        second = await rig.connect()

        assert [await challenge(client) for client in (first, second)] == [ACCEPT] * 2
        for client in (first, second):
            await client.close()
    assert "ZeroDivisionError" in caplog.text


async def explode(_: object) -> None:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


async def test_sessions_and_requests_leave_nothing_for_the_garbage_collector() -> None:
    """A process with thousands of sessions cannot have them walked again and again."""
    async with open_rig(records=[]) as rig:
        health = REQUEST.replace(b"/", b"/health-check", 1)
        for request in (b"", REQUEST, health):
            found = await garbage_of(rig, request)

            # Twenty of a kind: not one cycle each.
            assert found < 20, request


async def garbage_of(rig: Rig, request: bytes) -> int:
    """Serve twenty sessions, or requests, and count what only the collector could free."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            if request:
                await rig.ask(request)
            else:
                await (await rig.connect()).close()
        while rig.server.service.under_way.count:
            await trio.lowlevel.checkpoint()
        return gc.collect()
    finally:
        gc.enable()


async def test_end_says_goodbye_to_both_sides_and_waits() -> None:
    records: list[Record] = []
    async with open_rig(records=records) as rig:
        clients = [await rig.connect() for _ in range(5)]
        rig.server.shut_down()
        for client in clients:
            with pytest.raises(Closed) as caught:
                await client.receive()
            assert (caught.value.code, caught.value.reason) == (1012, "shutting down")
        await rig.server.stopped.wait()
    assert len(records) == 5
    for record in records:
        assert (record.ending, record.ended_by) == ("shutdown", "proxy")
        assert (record.close_to_client, record.close_from_client) == (1012, 1012)
        assert (record.close_to_node, record.close_from_node) == (1001, 1001)


async def test_node_is_drained_by_hand() -> None:
    template = TEMPLATE + "drain = {{ rate = 1000.0 }}\nhold = {{ timeout = 0.0 }}\n"
    records: list[Record] = []
    async with open_rig(template=template, records=records) as rig:
        server = rig.server
        (node,) = (node.name for node in server.service.upstreams["nodes"].nodes)
        clients = [await rig.connect() for _ in range(3)]
        assert server.drains() == []
        server.set_node("nodes", node, "drain")
        with pytest.raises(Closed) as caught:
            await clients[0].receive()
        assert (caught.value.code, caught.value.reason) == (1012, "node is drained")
        (progress,) = server.drains()
        assert (progress.what, progress.total) == (f"node {node}", 3)
        for client in clients[1:]:
            with pytest.raises(Closed):
                await client.receive()
        with pytest.raises(Rejected):
            await rig.connect()

        server.set_node("nodes", node, "ready")
        client = await rig.connect()
        assert await challenge(client) == ACCEPT
        await client.close()
    assert [record.ending for record in records].count("moved") == 3


async def test_node_that_is_not_known() -> None:
    async with open_rig() as rig:
        (node,) = (node.name for node in rig.server.service.upstreams["nodes"].nodes)
        with pytest.raises(KeyError, match="no upstream is called 'pool'; there are: 'nodes'"):
            rig.server.set_node("pool", node, "drain")
        with pytest.raises(KeyError, match=f"'nodes' has no node 'a:1'; it has: '{node}'"):
            rig.server.set_node("nodes", "a:1", "drain")
        with pytest.raises(ValueError, match="not 'drained'"):
            rig.server.set_node("nodes", node, "drained")  # type: ignore[arg-type]


async def test_unix_socket_file_goes_with_the_proxy(tmp_path: Path) -> None:
    for ending in ("drained", "cancelled"):
        async with open_rig(bind=f"unix:{tmp_path}/s") as rig:
            assert (tmp_path / "s").exists()
            if ending == "drained":
                rig.server.shut_down()
                await rig.server.stopped.wait()

        assert not (tmp_path / "s").exists()


async def test_errors_of_the_block_leave_as_they_are() -> None:
    config = parse_config(TEMPLATE.format(bind="127.0.0.1:0", nodes=["127.0.0.1:1"]))
    with trio.fail_after(LIMIT), pytest.raises(ValueError, match="mine"):
        async with open_proxy(config):
            raise ValueError("mine")
    async with open_rig() as rig:
        taken = attrs.evolve(
            config, listeners=(attrs.evolve(config.listeners[0], bind=rig.server.address()),)
        )
        with pytest.raises(OSError, match="cannot bind"):
            await open_proxy(taken).__aenter__()
        with pytest.raises(KeyError, match="nowhere"):
            rig.server.address("nowhere")


async def test_handshake_on_an_open_connection_during_the_end_gets_503() -> None:
    async with open_rig() as rig:
        waiting = await rig.open()
        await waiting.send_all(b"GET /deepstream HTTP/1.1\r\n")
        # Its first byte has come: the drain waits for the rest.
        while not rig.server.service.under_way.count:
            await trio.lowlevel.checkpoint()
        rig.server.shut_down()
        # It is drained when this is refused: nobody listens any more.
        while await is_listening(rig.port):
            await trio.lowlevel.checkpoint()
        await waiting.send_all(b"Host: a\r\n\r\n")

        assert (await waiting.receive_some()).startswith(b"HTTP/1.1 503 ")


async def is_listening(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


async def test_end_has_a_deadline() -> None:
    template = TEMPLATE.replace("deadline = 5.0", "deadline = 0.1")
    async with open_rig(template=template) as rig:
        client = await rig.connect()
        rig.server.shut_down()
        await rig.server.stopped.wait()

        # It has not answered the Close in that time; it is cut off all the same.
        with pytest.raises(Closed):
            await client.receive()


async def test_what_cannot_be_bound_is_said_before_anything_runs() -> None:
    async with open_rig() as rig:
        taken = str(rig.server.address())
        text = TEMPLATE.format(bind="127.0.0.1:0", nodes=["127.0.0.1:1"])
        config = parse_config(f'{text}\n[[listeners]]\nbind = "{taken}"\n')
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match=f"cannot bind {taken}") as caught:
                await nursery.start(partial(serve, config))

        assert caught.value.errno == errno.EADDRINUSE


async def test_unusable_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    more = """
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = { certificates = [ { cert_file = "empty.pem", key_file = "empty.pem" } ] }
    """
    text = TEMPLATE.format(bind="127.0.0.1:0", nodes=["127.0.0.1:1"])
    config = parse_config(text + more, folder=tmp_path)
    with pytest.raises(ConfigError):
        await serve(config)


class Doorkeeper:
    """Hooks of a program that lets people in by their cookie, each kind to nodes of its own."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_handshake(self, handshake: Handshake) -> Allow | Refuse:
        user = handshake.cookie("user")
        if user is None:
            return Refuse(401, [("WWW-Authenticate", "Cookie")], b"who are you?")
        await trio.lowlevel.checkpoint()
        return Allow(upstream="vip" if user == "ada" else None)

    async def on_open(self, session: SessionView) -> None:
        self.log.append(f"open {session.upstream}")

    async def on_message(self, session: SessionView, message: Message) -> Message:
        self.log.append("up" if message.from_client else "down")
        return message

    async def on_close(self, record: Record) -> None:
        # This outlasts the drain.
        await trio.sleep(0.05)
        self.log.append(f"close {record.ending}")

    def hooks(self) -> dict[str, Hooks]:
        names = ("on_handshake", "on_open", "on_close", "on_message")
        return {"/deepstream": Hooks(**{name: getattr(self, name) for name in names})}


async def test_hooks_over_the_whole_life_of_a_session(
    secure: str, tmp_path: Path, client_tls: ssl.SSLContext
) -> None:
    keeper = Doorkeeper()
    async with open_nodes("vip") as (vip,):
        more = f'{secure}\n[upstreams.vip]\nnodes = [ "{vip.address}" ]\n'
        async with open_rig(more, folder=tmp_path, hooks=keeper.hooks()) as rig:
            with pytest.raises(Rejected) as caught:
                await rig.connect()
            assert (caught.value.status, caught.value.headers["www-authenticate"]) == (
                401,
                "Cookie",
            )

            client = await rig.connect((b"Cookie", b"user=bob"))
            assert await challenge(client) == ACCEPT
            await client.close()
            stream = trio.SSLStream(
                await rig.open("secure"),
                client_tls,
                server_hostname="localhost",
                https_compatible=True,
            )
            cookie = [(b"Cookie", b"user=ada")]
            ada = await WebSocket.connect(stream, "localhost", "/deepstream", cookie)
            assert await challenge(ada) == ACCEPT
            rig.server.shut_down()
            with pytest.raises(Closed):
                await ada.receive()
            await rig.server.stopped.wait()

            assert sorted(keeper.log) == [
                "close client_closed",
                "close shutdown",
                "down",
                "down",
                "open nodes",
                "open vip",
                "up",
                "up",
            ]


async def test_hooks_for_a_route_that_is_none() -> None:
    config = parse_config(TEMPLATE.format(bind="127.0.0.1:0", nodes=["127.0.0.1:1"]))
    hooks = {"/deepsteam": Hooks()}
    for run in (
        serve(config, hooks=hooks),
        open_proxy(config, hooks=hooks).__aenter__(),
    ):
        with pytest.raises(ConfigError, match="'/deepsteam': no route is called that; there are: "):
            await run


async def test_shut_down_while_the_nodes_are_asked_for_the_first_time() -> None:
    """A node that never answers holds up the start, for a bounded time, and not the end."""
    silent = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with silent.socket:
        address = f"127.0.0.1:{silent.socket.getsockname()[1]}"
        text = TEMPLATE.format(bind="127.0.0.1:0", nodes=[address])
        text += 'probe = { kind = "deepstream", timeout = 60.0 }'
        server = Server(parse_config(text))
        with trio.fail_after(LIMIT / 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                asked = await silent.accept()
                server.shut_down()
            await asked.aclose()

        assert server.stopped.is_set()
