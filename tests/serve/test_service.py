"""What connections share: the live sessions, and how they are drained."""

from __future__ import annotations

import select
from collections.abc import Iterable

import pytest
import trio
import trio.testing

from proxy.config.load import parse_config
from proxy.io.contexts import make_contexts
from proxy.io.messages import MessageRelay
from proxy.io.pump import PumpRelay
from proxy.io.splice import Splice
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.serve.hooks import Hooks, SessionView
from proxy.serve.move import Mover
from proxy.wire.closing import Ending
from proxy.wire.messages import Message
from proxy.wire.tunnel import Tunnel
from tests.io.rig import socket_pair

from .world import ACCEPTED, CONFIG, UPGRADE, World, open_world, read_head, status

Clock = trio.testing.MockClock


class Goodbye(PumpRelay):
    """A relay that only notes when it is told to close, and then ends."""

    def __init__(self) -> None:
        streams = trio.testing.memory_stream_pair()
        super().__init__(*streams, Tunnel(), Terms(), Timers())
        self.told: list[tuple[float, int, int]] = []
        self.over = trio.Event()

    def close(self, ending: Ending, client_code: int, node_code: int, reason: str) -> None:
        self.told.append((trio.current_time(), client_code, node_code))
        self.tunnel.ending = ending
        self.over.set()


def shutdown(*keys: str) -> str:
    return CONFIG + "[shutdown]\n" + "\n".join(keys)


async def open_sessions(world: World, count: int) -> list[Goodbye]:
    """Have sessions, one after the other by a microsecond, which end soon after their goodbye."""
    relays = [Goodbye() for _ in range(count)]

    async def live(relay: Goodbye) -> None:
        with world.live(relay):
            await relay.over.wait()
            await trio.sleep(0.5)

    for relay in relays:
        world.nursery.start_soon(live, relay)
        await trio.sleep(1e-6)
    return relays


def times(relays: Iterable[Goodbye], started: float = 0.0) -> list[float]:
    """Return when each was told, which must have been once."""
    assert {len(relay.told) for relay in relays} == {1}
    return [relay.told[0][0] - started for relay in relays]


async def test_sessions_are_closed_at_an_even_pace(autojump_clock: Clock) -> None:
    async with open_world(shutdown("rate = 10.0", "jitter = 0.0")) as world:
        relays = await open_sessions(world, 100)
        started = trio.current_time()
        await world.service.drain()

        assert times(relays, started) == pytest.approx([n / 10 for n in range(100)])
        assert {relay.told[0][1:] for relay in relays} == {(1012, 1001)}
        # It has waited for the last closing handshake.
        assert trio.current_time() - started == pytest.approx(9.9 + 0.5)
        assert world.service.sessions == set()


@pytest.mark.parametrize(
    ("deadline", "close", "last"), [(25, 5, 20), (8, 5, 4), (10, 5, 5), (10, 4, 6), (2, 100, 1)]
)
async def test_all_are_told_so_early_that_they_can_answer(
    deadline: float, close: float, last: float, autojump_clock: Clock
) -> None:
    """Unless that would leave less than half the time to tell them."""
    config = shutdown(
        "rate = 0.01", "jitter = 1.0", f"deadline = {deadline}", f"[timeouts]\nclose = {close}"
    )
    async with open_world(config) as world:
        relays = await open_sessions(world, 200)
        relays[7].tunnel.scanners[0].left = 1
        started = trio.current_time()
        await world.service.drain()
        told = times(relays, started)

        # It is within a message, and told at the very end nevertheless.
        assert told.pop(7) == pytest.approx(last)
        assert max(told) == pytest.approx(last, rel=0.02)
        assert sum(time < last / 2 for time in told) == pytest.approx(100, abs=2)


async def test_who_is_quiet_is_known_when_the_end_comes(autojump_clock: Clock) -> None:
    """From the first one on: though nothing was to be moved before, somebody has looked."""
    async with open_world(shutdown("rate = 1.0", "jitter = 0.0")) as world:
        world.nursery.start_soon(Mover(world.service).run)
        relays = await open_sessions(world, 6)
        talking = relays[:3]

        async def talk() -> None:
            while True:
                for relay in talking:
                    relay.tunnel.scanners[1].bytes += 10
                await trio.sleep(0.7)

        world.nursery.start_soon(talk)
        await trio.sleep(10.3)
        # This one was busy until some seconds ago.
        talking.remove(relays[0])
        await trio.sleep(4)
        started = trio.current_time()
        await world.service.drain()

        assert times(relays, started) == pytest.approx([0, 4, 5, 1, 2, 3])


async def test_progress_of_a_shutdown(autojump_clock: Clock) -> None:
    async with open_world(shutdown("rate = 10.0", "jitter = 0.0")) as world:
        await open_sessions(world, 100)
        started = trio.current_time()
        assert world.service.drains() == []
        world.nursery.start_soon(world.service.drain)
        await trio.sleep(5.05)

        (progress,) = world.service.drains()
        # 51 were told, 46 of them half a second ago.
        assert (progress.what, progress.total, progress.left) == ("shutdown", 100, 54)
        assert progress.rate == pytest.approx(10)
        assert (progress.started, progress.deadline) == pytest.approx((started, started + 20))
        await trio.sleep(10)
        assert world.service.drains() == []


async def test_shutdown_comes_before_all_that_has_sessions_moved(autojump_clock: Clock) -> None:
    config = shutdown("rate = 1.0", "jitter = 0.0").replace(
        "[upstreams.nodes]", "[upstreams.nodes]\ndrain = { rate = 2.0, jitter = 0.0 }"
    )
    async with open_world(config) as world:
        upstream = world.service.upstreams["nodes"]
        relays = await open_sessions(world, 20)
        upstream.set_admin(upstream.nodes[0], "drain", trio.current_time())
        world.nursery.start_soon(Mover(world.service).run)
        await trio.sleep(3.2)
        assert [progress.what for progress in world.service.drains()] == ["node node-a:1"]
        started = trio.current_time()
        world.nursery.start_soon(world.service.drain)
        await trio.sleep(1)
        assert [progress.what for progress in world.service.drains()] == ["shutdown"]
        await world.service.under_way.wait_none()

        endings = [relay.tunnel.ending for relay in relays]
        assert endings == ["moved"] * 7 + ["shutdown"] * 13
        assert times(relays[7:], started) == pytest.approx(range(13))


async def test_session_that_begins_during_a_drain_is_closed_at_once(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.service.draining = True
        relay = Goodbye()
        with world.live(relay):
            assert len(relay.told) == 1


CLOSE_ANSWERED = b"\x88\x82\0\0\0\0\x03\xf4"


async def node_that_says_goodbye(stream: trio.abc.Stream) -> None:
    await read_head(stream)
    await stream.send_all(ACCEPTED)
    # Masked, as a client's.
    assert (await stream.receive_some())[:2] == b"\x88\x82"
    await stream.send_all(b"\x88\x02\x03\xe9")


@pytest.mark.parametrize(("silent", "end"), [(0, 5.0), (1, 5.5), (2, 6.0)])
async def test_session_that_does_not_answer_its_close_is_cut(
    silent: int, end: float, autojump_clock: Clock
) -> None:
    """The drain ends when its time for that is over, and the record says who said what."""
    config = shutdown("rate = 2.0", "jitter = 0.0", "[timeouts]", "close = 5.0")
    async with open_world(config) as world:
        world.nodes = dict.fromkeys(("node-a", "node-b"), node_that_says_goodbye)
        clients = []
        for _ in range(3):
            client = world.connect()
            clients.append(client)
            await client.send_all(UPGRADE)
            assert status(await read_head(client)) == 101
            await trio.sleep(10)
        started = trio.current_time()

        async def answer(index: int) -> None:
            close = await clients[index].receive_some()
            assert close == b"\x88\x0f\x03\xf4shutting down"
            assert trio.current_time() - started == pytest.approx(index / 2)
            if index != silent:
                await clients[index].send_all(CLOSE_ANSWERED)
            assert await clients[index].receive_some() == b""

        async with trio.open_nursery() as nursery:
            for index in range(3):
                nursery.start_soon(answer, index)
            await world.service.drain()
        ended = trio.current_time() - started

    assert ended == pytest.approx(end)
    *_, cut = world.records
    assert len(world.records) == 3
    for record in world.records:
        assert (record.ended_by, record.ending) == ("proxy", "shutdown")
        assert (record.close_to_client, record.close_to_node) == (1012, 1001)
        assert record.close_from_node == 1001
        assert record.close_from_client == (None if record is cut else 1012)


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


def reconfigure(world: World, text: str) -> int:
    config = parse_config(text)
    contexts = make_contexts(config)
    new = world.service.new_upstreams(config, contexts)
    return world.service.reconfigure(config, contexts, new, trio.current_time())


async def test_tls_towards_a_node_is_the_same_until_the_next_reload() -> None:
    """It has the session that is taken up again, by probes too."""
    text = CONFIG + "tls = { server_name = 'node' }\n"
    async with open_world(text) as world:
        service, upstream = world.service, world.service.upstreams["nodes"]
        node, _ = upstream.nodes
        security = service.security(upstream, node)
        assert security is not None
        assert security.reuse
        assert service.security(upstream, node) is security

        assert reconfigure(world, text) == 0
        after = service.security(upstream, node)
        assert after is not None
        assert after is not security
        assert after.context is not security.context
        assert service.security(upstream, node) is after

        reconfigure(world, text.replace("'node'", "'other', session_reuse = false"))
        other = service.security(upstream, node)
        assert other is not None
        assert (other.server_name, other.reuse) == ("other", False)


async def test_new_sessions_have_the_new_terms_whoever_asks(autojump_clock: Clock) -> None:
    async with open_world() as world:
        for seconds in range(1, 50):
            # Routes come and go, and with them their places in memory.
            idle = f"websocket = true\nidle_timeout = {seconds}.0"
            text = CONFIG.replace("websocket = true", idle)
            reconfigure(world, f"timeouts.close = {seconds}.0\n{text}")
            terms = world.service.terms(world.service.config.routes[0])

            assert (terms.patience.idle, terms.close_timeout) == (seconds, seconds)


async def test_session_knows_its_place_in_the_configuration(autojump_clock: Clock) -> None:
    other = CONFIG.replace('"/deepstream"', '"/other"')
    elsewhere = CONFIG.replace("nodes]", "more]").replace('"nodes"', '"more"')
    async with open_world() as world:
        service, told = world.service, list[bool]()
        with world.live(Goodbye()) as session:
            upstream, node = session.upstream, session.node
            for text, affected in [
                (CONFIG, 0),
                (other, 1),
                (other, 0),
                (CONFIG, 0),
                (elsewhere, 1),
            ]:
                assert reconfigure(world, text) == affected
                told.append(session.removed)
            # One that was on its way is told when it begins.
            late = service.live(Goodbye(), session.record, session.route, upstream, node)

        assert told == [False, True, True, False, True]
        assert late.removed
        assert service.removed == {"nodes": upstream}
        assert service.security(upstream, node) is None


async def test_the_splicer_has_a_turn_after_each_step_of_a_handshake() -> None:
    async with open_world() as world:
        turnstile = world.service.handshakes.turnstile
        before = turnstile.between
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.service.run_splicer)
            await trio.testing.wait_all_tasks_blocked()
            assert world.service.splicer is not None
            assert turnstile.between == world.service.splicer.turn
            nursery.cancel_scope.cancel()
        assert turnstile.between == before
