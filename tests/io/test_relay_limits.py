"""What the terms of a session mean to it, over every way of relaying: limits, pace, liveness."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong

from proxy.config.route import Ping as PingKeys
from proxy.config.route import Route, SessionLimits
from proxy.io.terms import Terms
from proxy.wire.closing import Ending
from proxy.wire.liveness import LegView
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

from .actors import Actor
from .conftest import OpenRig
from .rig import Explosion, Peer, Rig

KEY = b"\0\0\0\0"
EMPTY = frame(2, b"", key=KEY)
#: Sooner than any wait for who does not answer would be over.
SOON = 3.0


def terms(**keys: Any) -> Terms:
    return Terms.of(Route(path="/", upstream="node", websocket=True, **keys), 2 * SOON)


def limited(**limits: Any) -> Terms:
    return terms(limits=SessionLimits(**limits))


def codes(event: Any) -> tuple[int, str]:
    assert isinstance(event, CloseConnection)
    return int(event.code), event.reason or ""


async def read(peer: Peer, size: int) -> bytes:
    """Return so many bytes as they come."""
    received = b""
    while len(received) < size:
        received += await peer.stream.receive_some()
    return received


@pytest.mark.parametrize(
    ("limits", "offence", "close"),
    [
        ({"message_bytes": 125}, frame(2, bytes(126), key=KEY), (1009, "message too big")),
        ({"frame_bytes": 125}, frame(2, bytes(126), key=KEY), (1009, "frame too big")),
        (
            {"fragments": 2},
            frame(2, b"", fin=False, key=KEY) + 2 * frame(0, b"", fin=False, key=KEY),
            (1008, "too many fragments"),
        ),
    ],
)
async def test_nothing_passes_of_what_is_beyond_a_limit(
    limits: dict[str, int], offence: bytes, close: tuple[int, str], rig: OpenRig
) -> None:
    good = frame(2, bytes(125), key=KEY)
    async with rig(terms=limited(**limits)) as r:
        await r.client.stream.send_all(good * 3 + offence + good)

        for _ in range(3):
            assert await r.node.receive() == BytesMessage(bytes(125))
        # Of a message that began well, the beginning has passed.
        while isinstance(event := await r.node.receive(), Message):
            assert (event.data, event.message_finished) == (b"", False)
        assert codes(event) == (1001, "")
        await r.node.send(CloseConnection(1001))
        assert codes(await r.client.receive()) == close


async def test_what_is_at_the_limits_passes(rig: OpenRig) -> None:
    limits = limited(message_bytes=125, fragments=1, controls_per_second=10, burst=1)
    data = frame(2, bytes(125), key=KEY) * 20 + frame(9, b"", key=KEY) * 10
    async with rig(terms=limits) as r:
        await r.client.stream.send_all(data)

        assert await read(r.node, len(data)) == data
    assert r.tunnel.ending is None


async def test_a_flood_of_control_frames_ends_the_session(rig: OpenRig) -> None:
    async with rig(terms=limited(controls_per_second=10, burst=1)) as r:
        await r.client.stream.send_all(frame(10, b"", key=KEY) * 100)

        while isinstance(event := await r.node.receive(), Pong):
            pass
        assert codes(event) == (1001, "")
        await r.node.send(CloseConnection(1001))
        assert codes(await r.client.receive()) == (1008, "too many control frames")
    assert r.tunnel.ending == "client_limit"


async def test_a_nodes_control_frames_and_pace_are_its_own_affair(rig: OpenRig) -> None:
    limits = limited(controls_per_second=1, messages_per_second=1, bytes_per_second=100)
    async with rig(terms=limits) as r:
        data = (frame(10, b"") + frame(2, bytes(100))) * 100
        await r.node.stream.send_all(data)

        assert await read(r.client, len(data)) == data
    assert r.tunnel.ending is None


async def test_who_is_too_fast_is_slowed_and_all_arrives(socket_rig: OpenRig) -> None:
    rate, burst, message = 1_000_000, 0.05, frame(2, bytes(9_992), key=KEY)
    assert len(message) == 10_000
    total, received = 30 * len(message), 0
    async with socket_rig(terms=limited(bytes_per_second=rate, burst=burst)) as r:
        started = trio.current_time()

        async def send() -> None:
            for _ in range(30):
                await r.client.stream.send_all(message)

        r.nursery.start_soon(send)
        while received < total:
            received += len(await r.node.stream.receive_some())
            passed = trio.current_time() - started
            # One read is let through; of TLS it may be somewhat larger.
            assert received <= rate * (passed + burst) + 100_000
        took = trio.current_time() - started

    assert received == total
    assert took >= (total - 100_000) / rate - burst
    assert r.tunnel.ending is None


async def test_messages_are_counted_one_by_one(
    autojump_clock: trio.testing.MockClock, memory_rig: OpenRig
) -> None:
    arrived: list[float] = []
    async with memory_rig(terms=limited(messages_per_second=2, burst=1)) as r:

        async def send() -> None:
            for _ in range(8):
                await r.client.stream.send_all(EMPTY)
                await trio.testing.wait_all_tasks_blocked()

        r.nursery.start_soon(send)
        while len(arrived) < 8:
            count = len(await r.node.stream.receive_some()) // len(EMPTY)
            arrived += [trio.current_time()] * count

    # Two at once, and the one that was too many; all that came meanwhile, and its price.
    assert arrived == pytest.approx([0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("limits", "late"),
    [
        ({"controls_per_second": 1}, frame(10, b"", key=KEY)),
        ({"messages_per_second": 1, "exceeded": "close"}, EMPTY),
    ],
    ids=["controls", "messages"],
)
async def test_who_has_been_told_goodbye_is_not_measured_any_more(
    limits: dict[str, Any], late: bytes, rig: OpenRig
) -> None:
    """What was on its way is dropped, and the answer behind it understood."""
    async with rig(terms=limited(**limits)) as r:
        r.relay.close("shutdown", 1012, 1001, "")
        await r.client.stream.send_all(late * 100)
        while r.tunnel.scanners[Side.CLIENT].bytes < 100 * len(late):
            await trio.lowlevel.checkpoint()
        await r.client.stream.send_all(frame(8, b"\x03\xf4", key=KEY))
        assert codes(await r.node.receive()) == (1001, "")
        await r.node.send(CloseConnection(1001))
        await r.over.wait()
    assert r.tunnel.legs[Side.CLIENT].received == 1012


async def paused(r: Rig) -> None:
    """Have the client pay for long for what it has sent: for so much as one small read brings."""
    await r.client.stream.send_all(EMPTY * 1000)
    count = r.relay.terms.chunk // len(EMPTY)
    assert count == 42
    r.node.protocol.receive_data(await read(r.node, count * len(EMPTY)))
    assert len(list(r.node.protocol.events())) == count
    await trio.testing.wait_all_tasks_blocked()


PAUSE = limited(messages_per_second=1)


async def test_a_pause_does_not_keep_a_close_of_ours(rig: OpenRig) -> None:
    async with rig(terms=PAUSE) as r:
        await paused(r)
        await r.client.send(BytesMessage(b"not read now"))
        r.relay.close("shutdown", 1012, 1001, "bye")
        with trio.fail_after(SOON):
            for peer, expected in ((r.client, (1012, "bye")), (r.node, (1001, ""))):
                event = await peer.receive()
                assert codes(event) == expected
                assert isinstance(event, CloseConnection)
                await peer.send(event.response())
            await r.over.wait()
    assert r.tunnel.finished


async def test_a_pause_does_not_keep_a_nodes_close(rig: OpenRig) -> None:
    async with rig(terms=PAUSE) as r:
        await paused(r)
        await r.node.send(CloseConnection(1001, "restart"))
        with trio.fail_after(SOON):
            assert codes(await r.node.receive()) == (1001, "")
            event = await r.client.receive()
            assert codes(event) == (1001, "restart")
            assert isinstance(event, CloseConnection)
            await r.client.send(event.response())
            await r.over.wait()


async def test_a_pause_is_of_one_direction(rig: OpenRig) -> None:
    async with rig(terms=PAUSE) as r:
        await paused(r)
        await r.node.send(BytesMessage(b"for you"))

        assert await r.client.receive() == BytesMessage(b"for you")


async def test_early_messages_are_counted_too(rig: OpenRig) -> None:
    fast = limited(messages_per_second=1, exceeded="close")
    async with rig(early=(EMPTY * 10, b""), terms=fast) as r:
        while isinstance(await r.node.receive(), Message):
            pass
        await r.node.send(CloseConnection(1001))
        assert codes(await r.client.receive()) == (1008, "too fast")
    assert r.tunnel.scanners[Side.CLIENT].messages == 10


async def answer(peer: Peer, pings: list[float]) -> None:
    """Answer pings, and note when they came."""
    while isinstance(event := await peer.receive(), Ping):
        pings.append(trio.current_time())
        await peer.send(event.response())


async def test_pings_come_at_their_interval_though_an_answer_may_take_longer(
    autojump_clock: trio.testing.MockClock, memory_rig: OpenRig
) -> None:
    pings: tuple[list[float], list[float]] = ([], [])
    async with memory_rig(terms=terms(ping=PingKeys(client=1, node=2, timeout=60))) as r:
        for side in Side:
            r.nursery.start_soon(answer, r.peer(side), pings[side])
        await trio.sleep(4.5)

    assert pings == ([1, 2, 3, 4], [2, 4])


async def test_a_ping_that_is_due_at_once_is_sent_at_once(rig: OpenRig) -> None:
    async with rig(terms=terms(ping=PingKeys(client=30, node=30)), stagger=0.0) as r:
        for peer in (r.client, r.node):
            assert isinstance(await peer.receive(), Ping)


@pytest.mark.parametrize("side", Side)
async def test_silence_is_found_when_it_should_be(
    side: Side, autojump_clock: trio.testing.MockClock, memory_rig: OpenRig
) -> None:
    keys = PingKeys(client=2, node=2, timeout=3)
    async with memory_rig(terms=terms(ping=keys)) as r:
        r.nursery.start_soon(answer, r.peer(side.other), [])
        assert isinstance(await r.peer(side).receive(), Ping)
        assert codes(await r.peer(side).receive())[0] == 1001
        assert trio.current_time() == 5
    assert r.tunnel.ending == ("client_silent" if side is Side.CLIENT else "node_silent")
    assert r.tunnel.detail == "no answer to a ping for 3 s"


async def stall(r: Rig, side: Side) -> None:
    """Have the other side send more than this one takes, which does not read."""
    r.nursery.start_soon(Actor(r.peer(side.other), side.other).flood)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert r.relay.held(side)


@pytest.mark.parametrize("side", Side)
async def test_a_relay_knows_who_does_not_take_what_it_is_sent(
    side: Side, socket_rig: OpenRig
) -> None:
    async with socket_rig() as r:
        await trio.testing.wait_all_tasks_blocked()
        assert [r.relay.view(each) for each in Side] == [LegView(), LegView()]
        await stall(r, side)
        stuck = r.relay.view(side)

        assert stuck.reads
        assert stuck.backlog is not None
        # Whose bytes it does not take is not read meanwhile.
        assert r.relay.view(side.other) == LegView(reads=False)
        assert r.relay.view(side) == stuck
        while r.relay.view(side) == stuck:
            await r.peer(side).stream.receive_some()


@pytest.mark.parametrize("side", Side)
async def test_who_does_not_read_is_read_all_the_same(side: Side, socket_rig: OpenRig) -> None:
    async with socket_rig() as r:
        await stall(r, side)
        sender = Actor(r.peer(side), side)
        for number in range(3):
            await sender.say(2, b"%d" % number)
            with trio.fail_after(SOON):
                assert await r.peer(side.other).receive() == BytesMessage(b"%d" % number)


@pytest.mark.parametrize("side", Side)
async def test_who_does_not_read_holds_up_no_goodbye_to_the_other(
    side: Side, socket_rig: OpenRig
) -> None:
    async with socket_rig() as r:
        await stall(r, side)
        r.relay.close("shutdown", 1012, 1001, "")
        with trio.fail_after(SOON):
            event = await r.peer(side.other).receive()

        assert codes(event) == (1012 if side is Side.NODE else 1001, "")
        assert not r.over.is_set()


async def test_a_bug_in_early_bytes_is_told(rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise Explosion

    monkeypatch.setattr(Tunnel, "received", explode)
    ended: list[Ending | None] = []
    async with rig(early=(EMPTY, b"")) as r:
        r.relay.on_ending = lambda: ended.append(r.tunnel.ending)

        assert codes(await r.client.receive()) == (1011, "")
        assert codes(await r.node.receive()) == (1001, "")
        await r.over.wait()
    assert ended == ["bug"]
