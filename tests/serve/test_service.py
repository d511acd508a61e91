"""What connections share: the live sessions, and how they are drained."""

from __future__ import annotations

import select

import pytest
import trio
import trio.testing

from proxy.io.messages import MessageRelay
from proxy.io.pump import PumpRelay
from proxy.io.splice import Splice
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.serve.hooks import Hooks, SessionView
from proxy.wire.messages import Message
from proxy.wire.tunnel import Tunnel
from tests.io.rig import socket_pair

from .world import CONFIG, open_world

Clock = trio.testing.MockClock


class Goodbye(PumpRelay):
    """A relay that only notes when it is told to close, and then ends."""

    def __init__(self) -> None:
        streams = trio.testing.memory_stream_pair()
        super().__init__(*streams, Tunnel(), Terms(), Timers())
        self.told: list[tuple[float, int, int]] = []
        self.over = trio.Event()

    def close(self, ending: object, client_code: int, node_code: int, reason: str) -> None:
        self.told.append((trio.current_time(), client_code, node_code))
        self.over.set()


async def test_sessions_are_closed_at_an_even_pace(autojump_clock: Clock) -> None:
    async with open_world(CONFIG + "[shutdown]\nrate = 10.0\n") as world:
        relays = [Goodbye() for _ in range(100)]

        async def live(relay: Goodbye) -> None:
            with world.live(relay):
                await relay.over.wait()
                await trio.sleep(0.5)

        for relay in relays:
            world.nursery.start_soon(live, relay)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await world.service.drain()
        times = sorted(relay.told[0][0] - started for relay in relays)

        assert times == pytest.approx([n / 10 for n in range(100)])
        assert {relay.told[0][1:] for relay in relays} == {(1012, 1001)}
        # It has waited for the last closing handshake.
        assert trio.current_time() - started == pytest.approx(9.9 + 0.5)
        assert world.service.sessions == set()


async def test_session_that_begins_during_a_drain_is_closed_at_once(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.service.draining = True
        relay = Goodbye()
        with world.live(relay):
            assert len(relay.told) == 1


async def test_drain_waits_for_requests(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def request(seconds: float) -> None:
            with world.service.under_way:
                await trio.sleep(seconds)

        for seconds in (1.0, 3.0, 2.0):
            world.nursery.start_soon(request, seconds)
        await trio.testing.wait_all_tasks_blocked()
        await world.service.drain()

        assert trio.current_time() == pytest.approx(3)


async def test_drain_of_nothing_takes_no_time(autojump_clock: Clock) -> None:
    async with open_world() as world:
        await world.service.drain()

        assert trio.current_time() == 0


async def test_without_epoll_all_are_pumped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    async with open_world() as world:
        await world.service.run_splicer()
        sockets: tuple[SocketTransport, SocketTransport] = socket_pair()
        route = world.service.config.routes[0]

        assert isinstance(world.service.relay(*sockets, Tunnel(), route), PumpRelay)
        for transport in sockets:
            transport.close()


async def test_messages_for_a_hook_take_the_slow_way_whatever_the_streams() -> None:
    async def on_message(session: SessionView, message: Message) -> Message:
        return message

    async with open_world(hooks={"/deepstream": Hooks(on_message=on_message)}) as world:
        world.nursery.start_soon(world.service.run_splicer)
        await trio.testing.wait_all_tasks_blocked()
        sockets: tuple[SocketTransport, SocketTransport] = socket_pair()
        route, other = world.service.config.routes

        assert isinstance(world.service.relay(*sockets, Tunnel(), route), MessageRelay)
        assert isinstance(world.service.relay(*sockets, Tunnel(), other), Splice)
        for transport in sockets:
            transport.close()


async def test_ids_are_unique(autojump_clock: Clock) -> None:
    async with open_world() as one, open_world() as two:
        ids = {world.service.next_id() for world in (one, two) for _ in range(1000)}

        assert len(ids) == 2000
        assert {len(one) for one in ids} == {16}


async def test_sockets_are_spliced_and_other_streams_are_pumped() -> None:
    async with open_world() as world:
        world.nursery.start_soon(world.service.run_splicer)
        await trio.testing.wait_all_tasks_blocked()
        memory = trio.testing.memory_stream_pair()
        sockets: tuple[SocketTransport, SocketTransport] = socket_pair()
        route = world.service.config.routes[0]

        assert isinstance(world.service.relay(*sockets, Tunnel(), route), Splice)
        assert isinstance(world.service.relay(*memory, Tunnel(), route), PumpRelay)
        assert isinstance(world.service.relay(sockets[0], memory[0], Tunnel(), route), PumpRelay)
        for transport in sockets:
            transport.close()
