"""Sessions whose bytes pass unseen, over every way of relaying."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from proxy.config.route import Route, SessionLimits
from proxy.io.splice import Splice
from proxy.io.terms import Terms
from proxy.io.transport import SocketTransport
from proxy.wire.closing import Ending
from proxy.wire.tunnel import Side

from . import rig as rig_module
from .actors import Actor
from .conftest import SOCKETS, OpenRig
from .rig import Peer, Rig, half_close, open_rig

#: Nothing of it is a frame.
NOISE = bytes(range(256)) * 400
SIDES = pytest.mark.parametrize("side", Side)
CLOSED: dict[Side, Ending] = {Side.CLIENT: "client_closed", Side.NODE: "node_closed"}


def opaque(close_timeout: float = 5.0, **keys: Any) -> Terms:
    route = Route(path="/", upstream="node", websocket=True, frames="tunnel", **keys)
    return Terms.of(route, close_timeout)


async def read(peer: Peer, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += await peer.stream.receive_some()
    return received


async def test_bytes_pass_both_ways_as_they_are(rig: OpenRig) -> None:
    async with rig(terms=opaque(), early=(b"early", b"bird")) as r:
        for sender, receiver, early in ((r.client, r.node, b"early"), (r.node, r.client, b"bird")):
            r.nursery.start_soon(sender.stream.send_all, NOISE)
            assert await read(receiver, len(early + NOISE)) == early + NOISE
        assert [scanner.bytes for scanner in r.tunnel.scanners] == [
            len(NOISE) + len(early) for early in (b"early", b"bird")
        ]
    assert r.tunnel.ending is None


@SIDES
async def test_an_end_of_stream_passes_and_the_other_direction_goes_on(
    side: Side, rig: OpenRig
) -> None:
    async with rig(terms=opaque()) as r:
        first, other = r.peer(side), r.peer(side.other)
        await first.stream.send_all(b"all I have")
        await half_close(first.stream)
        assert await other.read_to_end() == b"all I have"
        for _ in range(3):
            await other.stream.send_all(b"answer")
            assert await read(first, 6) == b"answer"
        assert not r.over.is_set()
        await other.stream.aclose()

        assert await first.read_to_end() == b""
        await r.over.wait()
    assert (r.tunnel.ending, r.tunnel.finished) == (CLOSED[side], True)


@SIDES
async def test_half_a_session_may_have_less_time_to_be_idle(side: Side, rig: OpenRig) -> None:
    async with rig(terms=opaque(half_close_timeout=0.05)) as r:
        await half_close(r.peer(side).stream)
        assert await r.peer(side.other).read_to_end() == b""
        await r.over.wait()

        assert await r.peer(side).read_to_end() == b""
    assert (r.tunnel.ending, r.tunnel.detail) == ("idle", "no data for 0.05 s")


@SIDES
@pytest.mark.parametrize(
    ("keys", "lives"),
    [
        ({"idle_timeout": 20.0, "half_close_timeout": 0.0}, 20.0),
        ({"idle_timeout": 20.0, "half_close_timeout": 7.0}, 7.0),
        ({"idle_timeout": 3.0, "half_close_timeout": 7.0}, 3.0),
        ({"idle_timeout": 0.0, "half_close_timeout": 7.0}, 7.0),
    ],
)
async def test_half_a_session_lives_while_the_other_side_sends(
    keys: dict[str, float],
    lives: float,
    side: Side,
    memory_rig: OpenRig,
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig_module, "LIMIT", 100.0)
        async with memory_rig(terms=opaque(**keys)) as r:
            await half_close(r.peer(side).stream)
            for _ in range(4):
                await trio.sleep(2.5)
                await r.peer(side.other).stream.send_all(b"more")
            last = trio.current_time()
            await r.over.wait()

            # One look every so often: it may be found out as late as that.
            assert lives <= trio.current_time() - last < 2 * lives
            assert await r.peer(side).read_to_end() == b"more" * 4
    assert r.tunnel.ending == "idle"


@SIDES
async def test_half_a_session_can_be_told_to_leave(side: Side, rig: OpenRig) -> None:
    async with rig(terms=opaque()) as r:
        await half_close(r.peer(side).stream)
        assert await r.peer(side.other).read_to_end() == b""
        r.relay.close("moved", 1012, 1001, "elsewhere")
        await r.over.wait()

        assert await r.peer(side).read_to_end() == b""
    assert r.tunnel.ending == "moved"


async def test_much_in_both_directions_is_not_cut_by_the_first_end(socket_rig: OpenRig) -> None:
    """What is still on its way when a side ends its stream arrives before the end does."""
    data = NOISE * 20
    async with socket_rig(terms=opaque()) as r:

        async def send(peer: Peer) -> None:
            await peer.stream.send_all(data)
            await half_close(peer.stream)

        async def receive(peer: Peer) -> None:
            assert await peer.read_to_end() == data

        async with trio.open_nursery() as nursery:
            for side in Side:
                nursery.start_soon(send, r.peer(side))
                nursery.start_soon(receive, r.peer(side))
        await r.over.wait()
    assert r.tunnel.finished


async def test_who_has_ended_its_stream_is_not_watched(open_kind: OpenRig) -> None:
    async with open_kind("splice", terms=opaque()) as r:
        assert isinstance(r.relay, Splice)
        await half_close(r.node.stream)
        assert await r.client.read_to_end() == b""
        assert [leg.events != 0 for leg in r.relay._legs] == [True, False]


async def is_told(r: Rig, client: Actor, node: Actor) -> None:
    r.relay.close("shutdown", 1012, 1001, "bye")


async def is_idle(r: Rig, client: Actor, node: Actor) -> None:
    return


async def is_too_fast(r: Rig, client: Actor, node: Actor) -> None:
    await client.say(2, bytes(1000))


async def is_reset(r: Rig, client: Actor, node: Actor) -> None:
    assert isinstance(node.stream, SocketTransport)
    node.stream.abort()


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize(
    ("play", "keys", "ending", "ends"),
    [
        (is_told, {}, "shutdown", ("FIN", "FIN")),
        (is_idle, {"idle_timeout": 0.03}, "idle", ("FIN", "FIN")),
        (
            is_too_fast,
            {"limits": SessionLimits(bytes_per_second=10, exceeded="close")},
            "client_limit",
            ("FIN", "FIN"),
        ),
        (is_reset, {}, "node_lost", ("RST", "-")),
    ],
)
async def test_it_ends_with_a_hang_up_and_no_word(
    play: Callable[[Rig, Actor, Actor], Awaitable[None]],
    keys: dict[str, Any],
    ending: Ending,
    ends: tuple[str, str],
    kind: str,
    exact_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    tls = (exact_tls, server_tls)
    async with open_rig(kind, tls, terms=opaque(**keys), tcp=True) as r:
        actors = [Actor(r.peer(side), side) for side in Side]
        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:
                for actor in actors:
                    actor.reads.set()
                    nursery.start_soon(actor.run)
                await trio.testing.wait_all_tasks_blocked()
                await play(r, *actors)
                await r.over.wait()

    assert [actor.seen for actor in actors] == [(1006, "", end) for end in ends]
    assert r.tunnel.ending == ending


@SIDES
async def test_who_is_stalled_is_reset_or_hung_up_on(
    side: Side, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    terms = opaque(write_stall=0.05, on_stall="abort")
    async with open_rig("splice", (exact_tls, server_tls), terms=terms, tcp=True) as r:
        actors = [Actor(r.peer(each), each) for each in Side]
        actors[side.other].reads.set()
        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:
                for actor in actors:
                    nursery.start_soon(actor.run)
                nursery.start_soon(actors[side.other].flood)
                await r.over.wait()
                actors[side].reads.set()

    assert actors[side].end == "RST"
    assert r.tunnel.ending == ("client_stalled" if side is Side.CLIENT else "node_stalled")
