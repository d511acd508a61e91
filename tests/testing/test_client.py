"""The stand-in client: its session, its events, and how it comes back."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from proxy.testing.client import StandInClient
from proxy.testing.node import StandInNode, open_nodes
from proxy.testing.websocket import Closed, Rejected


@attrs.define
class Door:
    """TLS in front of a node, relaying bytes; `slam` cuts all connections off."""

    port: int
    connections: set[trio.CancelScope] = attrs.field(factory=set)

    def slam(self) -> None:
        for connection in list(self.connections):
            connection.cancel()


async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    async for chunk in source:
        await sink.send_all(chunk)


@asynccontextmanager
async def open_door(node: StandInNode, tls: ssl.SSLContext) -> AsyncIterator[Door]:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with trio.CancelScope() as scope:
            door.connections.add(scope)
            async with await trio.open_tcp_stream("127.0.0.1", node.port) as inner:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(copy, stream, inner)
                        nursery.start_soon(copy, inner, stream)
                except* trio.BrokenResourceError:
                    pass
        door.connections.discard(scope)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, host="127.0.0.1", https_compatible=True),  # noqa: TID251
            serve,
            0,
            tls,
        )
        door = Door(listeners[0].transport_listener.socket.getsockname()[1])
        yield door
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_clients(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, *names: str
) -> AsyncIterator[tuple[Door, list[StandInClient]]]:
    """Run a node behind a door, and clients that are logged in."""
    with trio.fail_after(5):
        async with (
            open_nodes("anna") as [node],
            open_door(node, server_tls) as door,
            trio.open_nursery() as nursery,
        ):
            clients = [StandInClient(name, door.port, client_tls) for name in names]
            for client in clients:
                await nursery.start(client.run)
            yield door, clients
            nursery.cancel_scope.cancel()


async def test_logs_in(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with open_clients(server_tls, client_tls, "ada") as (door, [ada]):
        assert (ada.name, ada.logins, len(door.connections)) == ("ada", 1, 1)


async def test_events_arrive_in_order(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with open_clients(server_tls, client_tls, "ada", "bob") as (_, [ada, bob]):
        await ada.subscribe("tide")
        await ada.subscribe("wind")
        for event, data in [("tide", "in"), ("wind", "up"), ("rain", "no"), ("tide", "out")]:
            await bob.emit(event, data)

        assert [await ada.next_event() for _ in range(3)] == [
            ("tide", "in"),
            ("wind", "up"),
            ("tide", "out"),
        ]


async def test_comes_back_with_its_subscriptions(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with open_clients(server_tls, client_tls, "ada", "bob") as (door, [ada, bob]):
        await ada.subscribe("tide")
        door.slam()
        await ada.wait_logins(2)
        await bob.wait_logins(2)
        # The answer to this says that the node has also taken what ada sent before.
        await ada.subscribe("tide")
        await bob.emit("tide", "in")

        assert await ada.next_event() == ("tide", "in")
        assert (ada.logins, bob.logins) == (2, 2)


async def test_what_is_emitted_meanwhile_waits_for_the_login(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with open_clients(server_tls, client_tls, "ada", "bob") as (door, [ada, bob]):
        await ada.subscribe("tide")
        for login in (2, 3):
            door.slam()
            await ada.wait_logins(login)
            await bob.wait_logins(login)
            await ada.subscribe("tide")
            await bob.emit("tide", str(login))

            assert await ada.next_event() == ("tide", str(login))


async def test_login_that_was_waited_for_already(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with open_clients(server_tls, client_tls, "ada") as (_, [ada]):
        await ada.wait_logins(0)
        await ada.wait_logins(1)
        with trio.move_on_after(0) as scope:
            await ada.wait_logins(2)

        assert scope.cancelled_caught


async def run_against(
    data: bytes, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> BaseException:
    """Run a client against a server that gives one answer; return why it ended."""

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(data)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(trio.serve_ssl_over_tcp, host="127.0.0.1", https_compatible=True),  # noqa: TID251
                serve,
                0,
                server_tls,
            )
            port = listeners[0].transport_listener.socket.getsockname()[1]
            with pytest.raises((Closed, Rejected)) as caught:
                await StandInClient("ada", port, client_tls).run()
            nursery.cancel_scope.cancel()
    return caught.value


async def test_says_why_it_was_rejected(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    response = b"HTTP/1.1 500 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
    error = await run_against(response, server_tls, client_tls)

    assert isinstance(error, Rejected)
    assert (error.status, error.headers["retry-after"]) == (500, "3")


async def test_says_that_there_was_no_answer(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    error = await run_against(b"", server_tls, client_tls)

    assert isinstance(error, Closed)
    assert error.code == 1006


async def test_says_that_nobody_listens(client_tls: ssl.SSLContext) -> None:
    with trio.socket.socket() as reserved:
        await reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with trio.fail_after(5), pytest.raises(OSError):
            await StandInClient("ada", port, client_tls).run()


async def test_trusts_nobody_else(server_tls: ssl.SSLContext) -> None:
    error = await run_against(b"", server_tls, ssl.create_default_context())

    assert isinstance(error, Closed)
