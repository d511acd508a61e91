"""Everything that a session can do, over every way of relaying it: one suite, five drivers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from proxy.config.route import Route, SessionLimits
from proxy.io.terms import Terms
from proxy.wire.liveness import Patience
from proxy.wire.tunnel import Side
from tests.wire.strategies import frame

from .conftest import OpenRig
from .rig import half_close

KEY = b"\x01\x02\x03\x04"


def codes(event: Any) -> tuple[int, str]:
    assert isinstance(event, CloseConnection)
    return int(event.code), event.reason or ""


async def test_messages_pass_both_ways(rig: OpenRig) -> None:
    async with rig() as r:
        await r.client.send(TextMessage("hello"))
        await r.node.send(BytesMessage(b"\x00\x01" * 50))

        assert await r.node.receive() == TextMessage("hello")
        assert await r.client.receive() == BytesMessage(b"\x00\x01" * 50)
    assert [scanner.messages for scanner in r.tunnel.scanners] == [1, 1]


async def test_bytes_are_not_touched(rig: OpenRig) -> None:
    """Masks, fragments, reserved bits, pings: what comes out is what went in."""
    stream = (
        frame(2, b"x" * 70_000, key=KEY)
        + b"".join(frame(1, b"y" * n, key=b"abcd") for n in range(200))
        + frame(1, b"frag", fin=False, key=KEY)
        + frame(9, b"between", key=KEY)
        + frame(0, b"ment", key=KEY)
        + b"\xc2\x81abcd?"
    )
    async with rig(reserved=0x40) as r:
        r.nursery.start_soon(r.client.stream.send_all, stream)
        received = b""
        while len(received) < len(stream):
            received += await r.node.stream.receive_some()

        assert received == stream


@pytest.mark.parametrize("size", [1 << 20, (1 << 22) + 1])
async def test_large_messages_pass(size: int, rig: OpenRig) -> None:
    async with rig() as r:
        data = bytes(range(256)) * (size // 256 + 1)
        for sender, receiver in ((r.client, r.node), (r.node, r.client)):
            r.nursery.start_soon(sender.send, BytesMessage(data[:size]))
            received = b""
            while len(received) < size:
                event = await receiver.receive()
                assert isinstance(event, BytesMessage)
                received += event.data

            assert received == data[:size]


async def test_early_bytes_are_not_lost(rig: OpenRig) -> None:
    early = (frame(2, b"from the client", key=KEY), frame(1, b"from the no")[:8])
    async with rig(early=early) as r:
        assert await r.node.receive() == BytesMessage(b"from the client")
        await r.node.stream.send_all(frame(1, b"from the no")[8:])
        whole = b""
        while len(whole) < 13:
            whole += await r.client.stream.receive_some()
        assert whole == frame(1, b"from the no")


async def test_client_closes(rig: OpenRig) -> None:
    async with rig() as r:
        await r.client.send(CloseConnection(1000, "bye"))
        assert codes(await r.node.receive()) == (1000, "bye")
        await r.node.send(CloseConnection(1000, "bye"))

        assert codes(await r.client.receive()) == (1000, "bye")
        await r.over.wait()
    assert (r.tunnel.ending, r.tunnel.finished) == ("client_closed", True)


async def test_node_closes_and_is_let_go_at_once(rig: OpenRig) -> None:
    async with rig() as r:
        await r.node.send(CloseConnection(1001, "restart"))

        # The client has not answered: the node is answered and hung up on all the same.
        assert codes(await r.node.receive()) == (1001, "")
        assert await r.node.stream.receive_some() == b""
        assert not r.over.is_set()
        assert codes(await r.client.receive()) == (1001, "restart")
        await r.client.send(CloseConnection(1001))
        await r.over.wait()
    assert r.tunnel.ending == "node_closed"


async def test_node_is_lost(rig: OpenRig) -> None:
    async with rig() as r:
        await r.node.send(BytesMessage(b"last"))
        await r.node.stream.aclose()

        assert await r.client.receive() == BytesMessage(b"last")
        assert codes(await r.client.receive()) == (1011, "node lost")
        await r.client.send(CloseConnection(1011))
        await r.over.wait()
    assert r.tunnel.ending == "node_lost"


async def test_node_is_lost_within_a_frame(rig: OpenRig) -> None:
    async with rig() as r:
        torn = frame(2, b"x" * 100)[:50]
        await r.node.stream.send_all(torn)
        await r.node.stream.aclose()
        await r.over.wait()

        assert await r.client.read_to_end() == torn


async def test_client_is_lost(rig: OpenRig) -> None:
    async with rig() as r:
        await r.client.stream.aclose()
        await r.over.wait()

        assert await r.node.read_to_end() == b""
    assert r.tunnel.ending == "client_lost"


@pytest.mark.parametrize("side", Side)
async def test_protocol_errors(side: Side, rig: OpenRig) -> None:
    async with rig() as r:
        offender, other = r.peer(side), r.peer(side.other)
        await offender.stream.send_all(b"\x83\x80" + bytes(20))

        code = 1001 if side is Side.CLIENT else 1011
        assert codes(await other.receive()) == (code, "")
        await other.send(CloseConnection(code))
        assert codes(await offender.receive()) == (1002, "reserved opcode")
        await r.over.wait()


async def test_client_that_breaks_the_protocol_is_told_though_the_node_is_silent(
    rig: OpenRig,
) -> None:
    async with rig(close_timeout=0.05) as r:
        await r.client.stream.send_all(b"\x83\x80" + bytes(20))

        assert codes(await r.client.receive()) == (1002, "reserved opcode")
        await r.over.wait()
    assert r.tunnel.ending == "client_error"


async def test_close_from_here(rig: OpenRig) -> None:
    async with rig() as r:
        r.relay.close("shutdown", 1012, 1001, "shutting down")

        assert codes(await r.client.receive()) == (1012, "shutting down")
        assert codes(await r.node.receive()) == (1001, "")
        await r.client.send(CloseConnection(1012))
        await r.node.send(CloseConnection(1001))
        await r.over.wait()
    assert (r.tunnel.ending, r.tunnel.finished) == ("shutdown", True)


async def test_close_from_here_waits_for_the_frame(rig: OpenRig) -> None:
    async with rig() as r:
        whole = frame(2, b"x" * 100)
        await r.node.stream.send_all(whole[:50])
        await trio.testing.wait_all_tasks_blocked(0.01)
        r.relay.close("shutdown", 1012, 1001, "")
        await r.node.stream.send_all(whole[50:])

        received = b""
        while not received.endswith(b"\x88\x02\x03\xf4"):
            received += await r.client.stream.receive_some()
        assert received == whole + b"\x88\x02\x03\xf4"


async def test_a_client_that_has_ended_its_stream_behind_its_close_still_hears(
    rig: OpenRig,
) -> None:
    async with rig() as r:
        await r.client.send(CloseConnection(4001, "me"))
        await half_close(r.client.stream)
        assert codes(await r.node.receive()) == (4001, "me")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert r.tunnel.legs[Side.CLIENT].ended
        # The node takes its time, and has something to say before it goes.
        last = frame(2, b"last words") + frame(8, b"\x0f\xa1me")
        await r.node.stream.send_all(last)

        assert await r.client.read_to_end() == last
        await r.over.wait()
    assert (r.tunnel.ending, r.tunnel.finished) == ("client_closed", True)


async def test_a_client_that_has_ended_its_stream_and_is_not_answered_is_given_up_on(
    rig: OpenRig,
) -> None:
    async with rig(close_timeout=0.05) as r:
        await r.client.send(CloseConnection(4001, "me"))
        await half_close(r.client.stream)

        assert codes(await r.client.receive()) == (4001, "")
        await r.over.wait()
    assert r.tunnel.ending == "client_closed"


async def test_silent_peers_are_given_up_on(rig: OpenRig) -> None:
    async with rig(close_timeout=0.2) as r:
        r.relay.close("shutdown", 1012, 1001, "")
        await r.over.wait()

        assert (await r.client.read_to_end())[:4] == b"\x88\x02\x03\xf4"
        assert (await r.node.read_to_end())[:2] == b"\x88\x82"


async def test_client_that_closed_is_answered_though_the_node_is_not(rig: OpenRig) -> None:
    async with rig(close_timeout=0.05) as r:
        await r.client.send(CloseConnection(4001, "me"))
        await r.over.wait()

        assert codes(await r.client.receive()) == (4001, "")


async def test_pings_of_ours_stay_between_us(rig: OpenRig) -> None:
    async with rig(terms=Terms(patience=Patience(ping=(0.02, 0.02)))) as r:
        for peer in (r.client, r.node):
            ping = await peer.receive()
            assert isinstance(ping, Ping)
            assert ping.payload.startswith(b"tidegate")
            await peer.send(ping.response())
            await peer.send(Pong(b"unasked"))
        for peer in (r.node, r.client):
            while isinstance(event := await peer.receive(), Ping):
                pass
            assert event == Pong(b"unasked")
        assert all(pulse.rtt is not None for pulse in r.relay.liveness.legs)


async def test_stopped_reader_stops_the_sender(socket_rig: OpenRig) -> None:
    """What a session holds is bounded, and all of it arrives when the reader goes on."""
    async with socket_rig() as r:
        chunk = frame(2, b"x" * 16_000)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(4000):
                await r.node.stream.send_all(chunk)
                sent += len(chunk)

        r.nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        stuck = sent
        await trio.testing.wait_all_tasks_blocked(0.05)

        # 64 MB are waiting to be sent; the sockets' buffers and one chunk have been taken.
        assert sent == stuck < 20_000_000
        received = 0
        while received < 4000 * len(chunk):
            received += len(await r.client.stream.receive_some())
        assert received == 4000 * len(chunk)


async def test_sessions_leave_nothing_behind_when_cancelled(rig: OpenRig) -> None:
    async with rig() as r:
        await r.client.send(TextMessage("hello"))
        assert await r.node.receive() == TextMessage("hello")
        r.nursery.cancel_scope.cancel()
    assert r.tunnel.ending is None


async def test_what_comes_too_late_does_nothing(rig: OpenRig) -> None:
    async with rig() as r:
        await r.client.send(CloseConnection(1000))
        assert codes(await r.node.receive()) == (1000, "")
        await r.node.send(CloseConnection(1000))
        await r.over.wait()
        r.relay.close("shutdown", 1012, 1001, "")

        assert codes(await r.client.receive()) == (1000, "")
        assert await r.client.read_to_end() == frame(8, b"\x03\xe8")
    assert r.tunnel.ending == "client_closed"


async def test_what_has_ended_is_let_go_of(rig: OpenRig) -> None:
    """The timers, which outlive it, do not keep a session."""

    def watch() -> None: ...

    gone = weakref.ref(watch)
    limits = SessionLimits(messages_per_second=1)
    route = Route(path="/", upstream="node", websocket=True, limits=limits)
    async with rig(terms=Terms.of(route, 5.0)) as r:
        r.relay.on_ending = watch
        await r.client.stream.send_all(frame(1, b"too fast", key=KEY) * 10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        r.relay.close("shutdown", 1012, 1001, "")
        for side in Side:
            await r.peer(side).stream.aclose()
        await r.over.wait()
    timers = r.timers
    del r, watch
    gc.collect()

    assert len(timers) > 0
    assert gone() is None
