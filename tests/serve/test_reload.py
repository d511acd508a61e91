"""Another configuration while all goes on: what differs, what is refused, and who notices."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from proxy import ConfigError, Handshake, Hooks, NotRunning, Server, open_proxy, parse_config
from proxy.config.model import Config
from proxy.observe.record import Record
from proxy.serve.reload import Changes, Reloaded, difference
from proxy.testing.node import StandInNode, open_nodes
from proxy.testing.websocket import Closed, Rejected, WebSocket

LIMIT = 10.0

BASE = """
[shutdown]
rate = 1000000.0
[timeouts]
linger = 0.5
close = 0.5
[[listeners]]
name = "plain"
bind = "127.0.0.1:0"
"""


def route(path: str = "/deepstream", upstream: str = "nodes", more: str = "") -> str:
    """A route whose sessions stay when it goes."""
    kind = 'websocket = true\non_removed = "keep"'
    return f'[[routes]]\npath = "{path}"\nupstream = "{upstream}"\n{kind}\n{more}\n'


def pool(*nodes: str, name: str = "nodes", more: str = "") -> str:
    return f"[upstreams.{name}]\nnodes = [ {', '.join(map(repr, nodes))} ]\n{more}\n"


HTTP = '[[routes]]\nprefix = "/health-check"\nupstream = "nodes"\n'


class Rig:
    """A proxy in front of stand-in nodes, and its clients, which hang up when it is over."""

    def __init__(
        self,
        server: Server,
        nodes: list[StandInNode],
        resources: AsyncExitStack,
        folder: Path | None,
    ) -> None:
        self.server = server
        self.nodes = nodes
        self.folder = folder
        self._resources = resources

    async def reload(self, *parts: str) -> Reloaded:
        return await self.server.reload(self.parse(*parts), source="file")

    def parse(self, *parts: str) -> Config:
        return parse_config("".join((BASE, *parts)), folder=self.folder)

    def pool(self, *indices: int, name: str = "nodes", more: str = "") -> str:
        """An upstream of some of the nodes."""
        return pool(*(self.nodes[index].address for index in indices), name=name, more=more)

    async def open(self, listener: str = "plain") -> trio.SocketStream:
        address = self.server.address(listener)
        stream = await trio.open_tcp_stream(address.host, address.port)
        self._resources.push_async_callback(trio.aclose_forcefully, stream)
        return stream

    async def connect(self, host: str = "localhost") -> WebSocket:
        return await WebSocket.connect(await self.open(), host, "/deepstream")

    @property
    def removed(self) -> list[bool]:
        return [session.removed for session in self.server.service.sessions]


@asynccontextmanager
async def open_rig(
    *parts: str, folder: Path | None = None, records: list[Record] | None = None
) -> AsyncIterator[Rig]:
    """Begin with one upstream of one node, and the route to it, unless there are other `parts`."""
    on_record = None if records is None else records.append
    with trio.fail_after(LIMIT):
        async with open_nodes("anna", "bert") as nodes, AsyncExitStack() as resources:
            text = "".join((BASE, *(parts or (route(), HTTP, pool(nodes[0].address)))))
            config = parse_config(text, folder=folder)
            async with open_proxy(config, on_record=on_record) as server:
                yield Rig(server, nodes, resources, folder)


CHALLENGE = bytes.fromhex("0610021a020805")


async def is_alive(client: WebSocket) -> bool:
    """Ask as deepstream's clients do."""
    await client.send(CHALLENGE)
    return await client.receive() == bytes.fromhex("0610021a020804")


async def status(stream: trio.abc.Stream, path: str) -> int:
    """Ask on a connection that is kept."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return int(bytes(await stream.receive_some())[9:12])


async def text(stream: trio.abc.Stream, path: str) -> bytes:
    """Return the body of an answer, on a connection that is kept."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    received = b""
    while not (body := received.partition(b"\r\n\r\n")[2]):
        received += await stream.receive_some()
    return body


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  nobody tells
        await trio.sleep(0.01)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def tasks_now() -> int:
    """How many there are once those have begun that are about to."""
    await trio.testing.wait_all_tasks_blocked()
    return tasks()


# What differs.


def changes(*, added: str = "", changed: str = "", removed: str = "") -> Changes:
    return Changes(*(tuple(names.split()) for names in (added, changed, removed)))


ONE, TWO = pool("10.0.0.1:1", "10.0.0.2:1"), pool("10.0.0.1:1")
LISTENER = BASE.partition("[[listeners]]")[2]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((route(), ONE), (route(), ONE), {}),
        ((route(), ONE), (route(), TWO), {"nodes": changes(removed="nodes/10.0.0.2:1")}),
        ((route(), TWO), (route(), ONE), {"nodes": changes(added="nodes/10.0.0.2:1")}),
        (
            (route(), TWO),
            (route(), TWO.replace("'10.0.0.1:1'", '{ address = "10.0.0.1:1", weight = 2 }')),
            {"nodes": changes(changed="nodes/10.0.0.1:1")},
        ),
        (
            (route(), ONE),
            (route(), pool("10.0.0.1:1", "10.0.0.2:1", more='balance = "round_robin"')),
            {"upstreams": changes(changed="nodes")},
        ),
        (
            (route(), TWO),
            (route("/b", "b"), pool("10.0.0.1:1", name="b")),
            {
                "routes": changes(added="/b", removed="/deepstream"),
                "upstreams": changes(added="b", removed="nodes"),
                "nodes": changes(added="b/10.0.0.1:1", removed="nodes/10.0.0.1:1"),
            },
        ),
        (
            (route(), TWO),
            (route(more="idle_timeout = 5.0"), TWO),
            {"routes": changes(changed="/deepstream")},
        ),
        (
            (route(), TWO),
            (route(), TWO, '[[listeners]]\nbind = "127.0.0.1:0"\n'),
            {"listeners": changes(added="127.0.0.1:0")},
        ),
        (
            (route(), TWO, '[[listeners]]\nbind = "unix:/s"\nname = "s"\n'),
            (route(), TWO, '[[listeners]]\nbind = "unix:/s"\nname = "t"\n'),
            {"listeners": changes(changed="t")},
        ),
        (
            (route(), TWO),
            (route(), TWO, "[limits]\nconnections = 5\n[log]\naccess = false\n"),
            {"settings": ("limits", "log")},
        ),
        (
            (route(), TWO),
            (route(), TWO, f"[error_pages]\n404 = '{__file__}'\n"),
            {"settings": ("error_pages",)},
        ),
        # One that is for other requests is another route.
        (
            ('[[routes]]\npath = "/x"\nupstream = "nodes"\nmethods = ["GET"]\n', TWO),
            ('[[routes]]\npath = "/x"\nupstream = "nodes"\n', TWO),
            {"routes": changes(added="/x", removed="/x")},
        ),
    ],
)
def test_difference(old: tuple[str, ...], new: tuple[str, ...], expected: dict[str, Any]) -> None:
    before, after = (parse_config(BASE + "".join(parts)) for parts in (old, new))
    found = difference(before, after)
    empty = Reloaded(Changes(), Changes(), Changes(), Changes(), ())

    assert found == attrs.evolve(empty, **expected)


def test_log_is_told_what_there_is() -> None:
    reloaded = Reloaded(
        listeners=Changes(),
        routes=changes(added="/a /b"),
        upstreams=changes(changed="u"),
        nodes=changes(removed="u/n:1"),
        settings=("limits", "log"),
        sessions=3,
    )

    assert reloaded.fields() == {
        "routes_added": "/a, /b",
        "upstreams_changed": "u",
        "nodes_removed": "u/n:1",
        "settings": "limits, log",
        "sessions": 3,
    }


# Who notices.


async def test_sessions_go_on_and_requests_go_by_the_new_routes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    async with open_rig() as rig:
        session, kept = await rig.connect(), await rig.open()
        assert await status(kept, "/health-check") == 200
        port = rig.server.address().port
        reloaded = await rig.reload(route(more='host = "other"'), rig.pool(0))

        assert rig.server.address().port == port
        assert await is_alive(session)
        # The connection is an old one, its requests are not.
        assert await status(kept, "/health-check") == 404
        with pytest.raises(Rejected):
            await rig.connect()
        assert await is_alive(await rig.connect("other"))
        assert reloaded.routes == Changes(
            added=("other/deepstream",), removed=("/deepstream", "/health-check*")
        )
        (told,) = [record for record in caplog.records if record.message == "reloaded"]
        assert told.__dict__["routes_added"] == "other/deepstream"
        assert told.__dict__["sessions"] == 1


async def test_sessions_know_whether_their_route_is_there() -> None:
    async with open_rig() as rig:
        first = await rig.connect()
        assert rig.removed == [False]
        # Another upstream for the same requests is no other route.
        await rig.reload(route(), rig.pool(0), rig.pool(1, name="more"))
        await rig.reload(route(upstream="more"), rig.pool(0), rig.pool(1, name="more"))
        assert rig.removed == [False]
        assert (await rig.reload(route("/other"), rig.pool(0))).sessions == 1
        assert rig.removed == [True]
        assert (await rig.reload(route("/third"), rig.pool(0))).sessions == 0
        await rig.reload(route(), rig.pool(0))
        assert rig.removed == [False]
        # Without the upstream there is nobody to go on with, whatever the route is.
        assert (await rig.reload(route(upstream="more"), rig.pool(1, name="more"))).sessions == 1
        assert rig.removed == [True]
        assert await is_alive(first)


async def test_node_that_went_affects_its_sessions() -> None:
    async with open_rig(route(), pool("127.0.0.1:1", more="slow_start = 0.0")) as rig:
        await rig.reload(route(), rig.pool(0, 1, more="slow_start = 0.0"))
        clients = [await rig.connect() for _ in range(2)]
        assert (await rig.reload(route(), rig.pool(1))).sessions == 1
        (upstream,) = rig.server.service.upstreams.values()
        sessions = rig.server.service.sessions

        assert sorted(session.node.gone for session in sessions) == [False, True]
        assert {node.sessions for node in upstream.nodes} == {1}
        # It may be back before its sessions have left.
        await rig.reload(route(), rig.pool(0, 1))
        assert [session.node.gone for session in sessions] == [False, False]
        assert [await is_alive(client) for client in clients] == [True, True]


async def test_upstream_that_went_lives_until_its_last_session_has_left() -> None:
    async with open_rig() as rig:
        service = rig.server.service
        running = await tasks_now()
        first, second = [await rig.connect() for _ in range(2)]
        upstream = service.upstreams["nodes"]
        await rig.reload(route(upstream="b"), rig.pool(1, name="b"))
        assert service.removed == {"nodes": upstream}
        third = await rig.connect()
        # Nobody knows but those who are there.
        assert [node.sessions for node in upstream.nodes] == [2]
        await first.close()
        await rig.reload(route(upstream="b"), rig.pool(1, name="b"))
        assert service.removed
        assert await is_alive(second)
        await second.close()
        await until(lambda: not service.removed)
        await third.close()
        await until(lambda: not service.sessions)

        await until(lambda: tasks() <= running)


async def test_sessions_leave_where_their_route_says_so() -> None:
    drain = "drain = { rate = 1000.0 }"
    leaves = route(more='host = "leaves"').replace("keep", "drain")
    async with open_rig(route(), leaves, pool("127.0.0.1:1")) as rig:
        await rig.reload(route(), leaves, rig.pool(0, more=drain))
        stays, goes = await rig.connect(), await rig.connect("leaves")
        # It is the node that goes first, then the route, the upstream last.
        await rig.reload(route(), leaves, rig.pool(1, more=drain))
        assert await close_of(goes) == (1012, "node was removed")
        goes = await rig.connect("leaves")
        await rig.reload(route(), rig.pool(1, more=drain))
        assert await close_of(goes) == (1012, "route was removed")
        await rig.reload(route(), leaves, rig.pool(1, more=drain))
        goes = await rig.connect("leaves")
        others = route(upstream="b"), route(upstream="b", more='host = "leaves"')
        await rig.reload(*others, rig.pool(1, name="b"))
        assert await close_of(goes) == (1012, "upstream was removed")

        assert await is_alive(stays)


async def close_of(client: WebSocket) -> tuple[int, str]:
    with pytest.raises(Closed) as caught:
        await client.receive()
    return caught.value.code, caught.value.reason


async def test_handshake_that_waits_is_served_and_knows_what_became_of_its_route() -> None:
    async with open_rig(route(), pool("127.0.0.1:1")) as rig:
        answers: list[WebSocket] = []

        async def connect() -> None:
            answers.append(await rig.connect())

        (upstream,) = rig.server.service.upstreams.values()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connect)
            await until(lambda: len(upstream.hold) == 3)
            await rig.reload(route("/other"), pool("127.0.0.1:1", more="hold = { waiting = 1 }"))
            assert len(upstream.hold) == 3
            await rig.reload(route("/other"), rig.pool(0))

        assert [await is_alive(client) for client in answers] == [True] * 3
        assert rig.removed == [True] * 3


async def test_nodes_of_a_new_upstream_are_asked_before_anybody_is_sent_there() -> None:
    async with open_rig() as rig:
        probe = 'probe = { kind = "deepstream" }\nhold = { timeout = 0.0 }'
        await rig.reload(route(upstream="b"), rig.pool(1, name="b", more=probe))

        assert await is_alive(await rig.connect())


async def test_all_nodes_are_others_and_no_handshake_is_refused() -> None:
    more = 'probe = { kind = "deepstream" }\nhold = { timeout = 0.0 }'
    async with open_rig() as rig:
        for index in (0, 1, 0):
            await rig.reload(route(), rig.pool(index, more=more))
            assert await is_alive(await rig.connect())


async def test_limits_are_for_new_connections() -> None:
    async with open_rig() as rig:
        first = await rig.connect()
        await rig.reload(route(), rig.pool(0), "[limits]\nconnections = 1\n")
        with pytest.raises(Rejected) as caught:
            await rig.connect()
        assert caught.value.status == 503
        await rig.reload(route(), rig.pool(0))

        assert await is_alive(first)
        assert await is_alive(await rig.connect())


SECURE = """
[[listeners]]
name = "secure"
bind = "127.0.0.1:0"
tls = { certificates = [ { cert_file = "both.pem", key_file = "both.pem" } ] }
"""


async def open_tls(rig: Rig, ca: trustme.CA) -> tuple[WebSocket, bytes]:
    """Return a session over TLS, and the certificate that it was shown."""
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    stream = trio.SSLStream(
        await rig.open("secure"), trust, server_hostname="localhost", https_compatible=True
    )
    client = await WebSocket.connect(stream, "localhost", "/deepstream")
    return client, stream.getpeercert(binary_form=True)


async def test_renewed_certificate_is_shown_to_those_who_come_then(
    tmp_path: Path, ca: trustme.CA
) -> None:
    file = tmp_path / "both.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
    async with open_rig(folder=tmp_path) as rig:
        parts = route(), rig.pool(0), SECURE
        await rig.reload(*parts)
        first, shown = await open_tls(rig, ca)
        ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
        nothing = Reloaded(Changes(), Changes(), Changes(), Changes(), ())
        reloaded = await rig.reload(*parts)
        assert reloaded == attrs.evolve(nothing, certificates=("secure",))
        assert reloaded.fields() == {"certificates": "secure", "sessions": 0}
        second, shown_then = await open_tls(rig, ca)

        assert shown != shown_then
        assert await is_alive(first)
        assert await is_alive(second)


# What is refused.


async def test_refused_one_changes_nothing_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "both.pem").write_text("")
    (tmp_path / "ca.pem").write_text("")
    tls = 'tls = { ca_file = "ca.pem" }'
    async with open_rig(folder=tmp_path) as rig:
        before, bound, running = rig.server.config, rig.server.bound, await tasks_now()
        extra = f'[[listeners]]\nbind = "unix:{tmp_path}/s"\n'
        taken = f'[[listeners]]\nbind = "{rig.server.address()}"\n'
        with pytest.raises(ConfigError):
            await rig.reload(route("/other"), rig.pool(1, name="nodes", more=tls), SECURE, extra)
        with pytest.raises(OSError, match="cannot bind 127"):
            await rig.reload(route("/other"), rig.pool(1), extra, taken)

        assert rig.server.config is before
        assert rig.server.bound == bound
        await until(lambda: tasks() <= running)
        assert not (tmp_path / "s").exists()
        assert await is_alive(await rig.connect())
    reasons = [r.__dict__["reason"] for r in caplog.records if r.message == "reload refused"]
    assert len(reasons) == 3
    assert reasons[0].startswith("file: listeners[1].tls.certificates[0].cert_file: ")
    assert reasons[1].startswith("file: upstreams.nodes.tls.ca_file: ")
    assert reasons[2].startswith("cannot bind 127.0.0.1:")
    assert {r.levelname for r in caplog.records if r.message == "reload refused"} == {"ERROR"}


async def test_hooks_for_no_route_are_refused() -> None:
    """Whoever was asked about handshakes before would be asked no more, and nobody know."""
    config = parse_config(f"{BASE}{route()}{pool('127.0.0.1:1')}")
    async with open_proxy(config, hooks={"/deepstream": Hooks()}) as server:
        other = parse_config(f"{BASE}{route('/other')}{pool('127.0.0.1:1')}")
        with pytest.raises(ConfigError, match="no route is called that"):
            await server.reload(other)
        await server.reload(attrs.evolve(config, routes=config.routes + other.routes))


@asynccontextmanager
async def open_silent() -> AsyncIterator[tuple[str, trio.SocketListener]]:
    """A node that accepts, and never answers."""
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with silent:
        yield f"127.0.0.1:{silent.socket.getsockname()[1]}", silent


SLOW_PROBE = 'probe = { kind = "deepstream", timeout = 60.0 }'


@pytest.mark.parametrize("how", ["cancelled", "shut down"])
async def test_one_that_is_broken_off_leaves_nothing(how: str, tmp_path: Path) -> None:
    async with open_rig() as rig, open_silent() as (address, silent):
        session, before, running = await rig.connect(), rig.server.config, await tasks_now()
        extra = f'[[listeners]]\nbind = "unix:{tmp_path}/s"\n'
        parts = route(upstream="b"), pool(address, name="b", more=SLOW_PROBE), extra
        refused: list[NotRunning] = []

        async def reload() -> None:
            try:
                await rig.reload(*parts)
            except NotRunning as exc:
                refused.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            asked = await silent.accept()
            assert (tmp_path / "s").exists()
            # Whoever waits for its turn is told too.
            nursery.start_soon(reload)
            if how == "cancelled":
                nursery.cancel_scope.cancel()
            else:
                rig.server.shut_down()
        await asked.aclose()

        assert rig.server.config is before
        assert not (tmp_path / "s").exists()
        if how == "cancelled":
            await until(lambda: tasks() <= running)
            assert await is_alive(session)
            assert refused == []
        else:
            await rig.server.stopped.wait()
            assert [str(exc) for exc in refused] == ["the proxy is shutting down"] * 2


async def test_cancelled_proxy_does_not_wait_for_a_reload() -> None:
    async with open_silent() as (address, silent):
        server = Server(parse_config(f"{BASE}{route()}{pool(address)}"))
        config = parse_config(BASE + route(upstream="b") + pool(address, name="b", more=SLOW_PROBE))
        with trio.fail_after(LIMIT / 2):
            async with trio.open_nursery() as outer:

                async def reload() -> None:
                    with pytest.raises(NotRunning):
                        await server.reload(config)

                async with trio.open_nursery() as inner:
                    await inner.start(server.run)
                    outer.start_soon(reload)
                    asked = await silent.accept()
                    inner.cancel_scope.cancel()
            await asked.aclose()

        assert server.stopped.is_set()


async def test_proxy_that_does_not_run_is_not_reloaded(caplog: pytest.LogCaptureFixture) -> None:
    config = parse_config(f"{BASE}{route()}{pool('127.0.0.1:1')}")
    server = Server(config)
    with pytest.raises(NotRunning, match="not started yet"):
        await server.reload(config)
    async with open_proxy(config) as other:
        pass
    with pytest.raises(NotRunning, match="shutting down"):
        await other.reload(config)

    assert caplog.messages == ["reload refused"] * 2


async def test_one_waits_for_the_other() -> None:
    async with open_rig() as rig, open_silent() as (address, silent):
        slow = "probe = { kind = 'deepstream', timeout = 0.2 }\nhold = { timeout = 0.0 }"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reload, route(upstream="b"), pool(address, name="b", more=slow))
            async with await silent.accept():
                await rig.reload(route("/last"), rig.pool(1))
                assert rig.server.config.routes[0].path == "/last"

        assert rig.server.config.routes[0].path == "/last"
        assert rig.server.service.removed == {}


# In the long run.


async def test_nothing_is_left_of_many(tmp_path: Path, ca: trustme.CA) -> None:
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    async with open_rig(folder=tmp_path, records=[]) as rig:
        base = route(), rig.pool(0)
        others = [
            (route(), rig.pool(0, 1, more='probe = { kind = "tcp" }')),
            (route(), route("/b", "b"), rig.pool(0), rig.pool(1, name="b"), SECURE),
            (route("/c"), rig.pool(0, more="max_session_age = 1000.0")),
            (route(upstream="b"), rig.pool(1, name="b")),
        ]
        session = await rig.connect()
        for parts in (*others, base):
            await rig.reload(*parts)
        running = await tasks_now()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                for parts in (*others, base):
                    await rig.reload(*parts)
            await until(lambda: tasks() <= running)
            garbage = gc.collect()
        finally:
            gc.enable()

        assert await is_alive(session)
        assert garbage < 100, garbage


def called(name: str) -> str:
    """One route, of the one listener, which is called so."""
    return f'name = "{name}"\n' + route(more=f'listener = "{name}"').replace("keep", "drain")


async def test_listener_that_is_called_otherwise_is_the_same_one() -> None:
    base = BASE.replace('name = "plain"\n', "").replace(":0", ":{port}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        base = base.format(port=taken.getsockname()[1])
    async with open_nodes("anna") as [node], AsyncExitStack() as resources:
        nodes = pool(node.address)
        async with open_proxy(parse_config(base + called("a") + nodes)) as server:
            rig = Rig(server, [node], resources, None)
            client, early = (
                await WebSocket.connect(await rig.open(""), "h", "/deepstream"),
                await rig.open(""),
            )
            await trio.testing.wait_all_tasks_blocked(0.01)
            done = await server.reload(parse_config(base + called("b") + nodes))

            # Whoever has come in before it asks by the routes of now.
            late = await WebSocket.connect(early, "h", "/deepstream")
            assert await is_alive(late)
            assert await is_alive(client)
            assert (done.routes, done.sessions) == (Changes(), 0)
            assert rig.removed == [False, False]


async def test_handshake_that_a_hook_thinks_about_while_its_upstream_goes() -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def think(handshake: Handshake) -> None:
        asked.set()
        await go_on.wait()

    leaves = route().replace("keep", "drain")
    async with open_nodes("anna", "bert") as nodes, AsyncExitStack() as resources:
        config = parse_config(BASE + leaves + pool(nodes[0].address))
        hooks = {"/deepstream": Hooks(on_handshake=think)}
        async with open_proxy(config, hooks=hooks) as server, trio.open_nursery() as nursery:
            rig = Rig(server, nodes, resources, None)
            gone: list[int] = []

            async def connect() -> None:
                client = await rig.connect()
                gone.append((await close_of(client))[0])

            nursery.start_soon(connect)
            await asked.wait()
            other = route(upstream="b").replace("keep", "drain")
            await server.reload(parse_config(BASE + other + pool(nodes[1].address, name="b")))
            go_on.set()
            with trio.fail_after(LIMIT):
                await until(lambda: gone and not server.statistics().sessions)

            # It came to the upstream that it was meant for, and had to leave it.
            assert gone == [1012]


async def test_hooks_go_with_their_routes() -> None:
    config = parse_config(BASE + route() + pool("127.0.0.1:1"))
    other = parse_config(BASE + route("/other") + pool("127.0.0.1:1"))
    async with open_proxy(config, hooks={"/deepstream": Hooks()}) as server:
        with pytest.raises(ConfigError, match="no route is called that"):
            await server.reload(other)
        await server.reload(other, hooks={"/other": Hooks()})
        assert list(server.service.hooks) == ["/other"]
        with pytest.raises(ConfigError, match="no route is called that"):
            await server.reload(config, hooks={"/other": Hooks()})
        assert list(server.service.hooks) == ["/other"]
        await server.reload(config, hooks={})
        assert not server.service.hooks


# Pages.


async def test_a_page_is_as_the_last_reload_has_read_it(tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_text("one")
    async with open_rig(folder=tmp_path) as rig:
        parts = (BASE, route(), HTTP, pool(rig.nodes[0].address))
        config = "".join((*parts, '[error_pages]\n404 = "sorry.html"\n'))
        await rig.server.reload(parse_config(config, folder=tmp_path))
        client = await rig.open()
        assert await text(client, "/none") == b"one"
        page.write_text("two")
        assert await text(client, "/none") == b"one"
        reloaded = await rig.server.reload(parse_config(config, folder=tmp_path))

        assert reloaded.settings == ("error_pages",)
        assert await text(client, "/none") == b"two"


async def test_what_a_client_has_used_up_a_reload_does_not_give_back() -> None:
    limited = HTTP.rstrip() + "\nrequests = { per_second = 0.001, burst = 1 }\n"
    async with open_rig() as rig:
        path = HTTP.partition('prefix = "')[2].partition('"')[0]
        for number in range(2):
            config = "".join((BASE, route(), limited, pool(rig.nodes[0].address)))
            config += f"[limits]\nheaders = {50 + number}\n"
            await rig.server.reload(parse_config(config))
            answer = await status(await rig.open(), path)
            assert (answer == 429) is bool(number)
