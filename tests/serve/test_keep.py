"""The tasks that look after an upstream, with probes and names that a test decides on."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing

from proxy.config.address import Address
from proxy.config.load import parse_config
from proxy.config.upstream import Discovery, Probe
from proxy.errors import DialRefused, DnsError
from proxy.io.dial import Header
from proxy.io.node_security import NodeSecurity
from proxy.io.resolve import Answer
from proxy.pool.upstream import Upstream
from proxy.serve import keep
from proxy.serve.keep import Keeper

from .world import ACCEPTED, UPGRADE, World, answering, open_world, read_head

Clock = trio.testing.MockClock

PROBE = 'probe = { kind = "tcp", interval = 2.0, down_interval = 0.5, rise = 2, fall = 2 }'
CONFIG = f"""
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
[upstreams.nodes]
nodes = [ "10.0.0.1:1", "10.0.0.2:1" ]
{PROBE}
hold = {{ timeout = 100.0, rate = 10.0 }}
"""
NAMED = CONFIG.replace('[ "10.0.0.1:1", "10.0.0.2:1" ]', '[ "nodes.example:1" ]')


#: Of a connection to a node.
ENDS = (Address("10.0.0.9", 9), Address("10.0.0.1", 1))


class Net:
    """Which nodes are well, what names stand for, and when each was asked."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.asked: dict[str, list[float]] = {}
        #: What the connections of probes began with.
        self.headers: set[bytes] = set()
        self.addresses: list[str] | None = []
        self.lookups: list[float] = []

    async def probe(
        self, _: Probe, address: Address, __: NodeSecurity | None, *, header: Header
    ) -> float:
        await trio.lowlevel.checkpoint()
        self.headers.add(header(ENDS) if callable(header) else header)
        self.asked.setdefault(address.host, []).append(trio.current_time())
        if address.host in self.dead:
            raise DialRefused(str(address))
        return 0.001

    async def resolve(self, name: Address, _: Discovery, __: Random) -> Answer:
        await trio.lowlevel.checkpoint()
        self.lookups.append(trio.current_time())
        if self.addresses is None:
            raise DnsError(str(name))
        found = tuple(Address(host=host, port=name.port) for host in self.addresses)
        return Answer(addresses=found, lifetime=5.0)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    net = Net()
    monkeypatch.setattr(keep, "probe", net.probe)
    monkeypatch.setattr(keep, "resolve", net.resolve)
    return net


@asynccontextmanager
async def kept(config: str) -> AsyncIterator[tuple[World, Upstream]]:
    async with open_world(config, resolve=False) as world:
        upstream = world.service.upstreams["nodes"]
        await world.nursery.start(Keeper(world.service, upstream).run)
        yield world, upstream


def states(upstream: Upstream) -> dict[str, str]:
    return {node.address.host: node.state(trio.current_time()) for node in upstream.nodes}


async def test_every_node_was_asked_before_the_start(net: Net, autojump_clock: Clock) -> None:
    net.dead = {"10.0.0.2"}
    async with kept(CONFIG) as (_, upstream):
        assert states(upstream) == {"10.0.0.1": "up", "10.0.0.2": "down"}


@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("", b""),
        ('proxy_protocol = "v1"', b"PROXY TCP4 10.0.0.9 10.0.0.1 9 1\r\n"),
        ('proxy_protocol = "v2"', b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ],
)
async def test_probes_are_for_nobody(
    version: str, header: bytes, net: Net, autojump_clock: Clock
) -> None:
    async with kept(CONFIG + version):
        assert net.headers == {header}


async def test_intervals(net: Net, autojump_clock: Clock) -> None:
    net.dead = {"10.0.0.2"}
    async with kept(CONFIG):
        await trio.sleep(100)

        up, down = net.asked["10.0.0.1"], net.asked["10.0.0.2"]
        assert 48 <= len(up) <= 54
        assert 190 <= len(down) <= 210
        gaps = [later - sooner for sooner, later in itertools.pairwise(up)][1:]
        assert 1.8 <= min(gaps) < 1.95
        assert 2.05 < max(gaps) <= 2.2


async def test_probes_are_spread(net: Net, autojump_clock: Clock) -> None:
    async with kept(CONFIG):
        await trio.sleep(3)

        assert abs(net.asked["10.0.0.1"][1] - net.asked["10.0.0.2"][1]) > 0.5


async def test_down_and_up_again(net: Net, autojump_clock: Clock) -> None:
    async with kept(CONFIG) as (_, upstream):
        net.dead = {"10.0.0.1"}
        await trio.sleep(5)
        assert states(upstream)["10.0.0.1"] == "down"
        net.dead = set()
        await trio.sleep(1.5)
        assert states(upstream)["10.0.0.1"] == "up"


async def frozen(stream: trio.abc.Stream) -> None:
    """A node that accepts a session and does nothing ever after."""
    await read_head(stream)
    await stream.send_all(ACCEPTED)
    await trio.sleep_forever()


async def test_sessions_on_a_node_that_is_found_down_are_asked(
    net: Net, autojump_clock: Clock
) -> None:
    """They do not wait for their next ping: the node may be frozen."""
    ping = "websocket = true\nping = { client = 0, node = 1000, timeout = 7 }"
    async with kept(CONFIG.replace("websocket = true", ping)) as (world, _):
        world.nursery.start_soon(world.service.timers.run)
        world.nodes = {"10.0.0.1": frozen, "10.0.0.2": frozen}
        clients = [world.connect() for _ in range(2)]
        for client in clients:
            await client.send_all(UPGRADE)
            await read_head(client)
        net.dead = {"10.0.0.1"}
        # Down within 2.5 s of probes, and no answer for 7 more.
        await trio.sleep(10)
        endings = {session.relay.tunnel.ending for session in world.service.sessions}
        assert endings == {"node_silent", None}

        # Its client does not answer either; the other session goes on.
        await trio.sleep(10)
        assert [record.node for record in world.records] == ["10.0.0.1:1"]
        assert len(world.service.sessions) == 1


async def test_suspect_is_asked_at_once_but_not_without_end(
    net: Net, autojump_clock: Clock
) -> None:
    async with kept(CONFIG) as (_, upstream):
        await trio.sleep(10)
        before = len(net.asked["10.0.0.1"])
        for _ in range(100):
            upstream.lost_by_node(upstream.nodes[0])
            await trio.sleep(0.01)

        assert 1 <= len(net.asked["10.0.0.1"]) - before <= 3


async def test_those_who_wait_are_let_go_at_a_pace(net: Net, autojump_clock: Clock) -> None:
    net.dead = {"10.0.0.1", "10.0.0.2"}
    async with kept(CONFIG) as (_, upstream):
        let_go: list[tuple[float, int]] = []

        for number in range(50):
            upstream.hold.join(lambda number=number: let_go.append((trio.current_time(), number)))  # type: ignore[misc]  # mypy takes no default of a lambda for a type
        upstream.changed()
        await trio.sleep(20)
        assert let_go == []
        net.dead = {"10.0.0.2"}
        began = trio.current_time()
        await trio.sleep(10)

        assert [number for _, number in let_go] == list(range(50))
        # Two good probes, half a second apart, and then ten a second.
        assert let_go[0][0] - began < 1.2
        for at, number in let_go:
            assert at - let_go[0][0] == pytest.approx(number / 10, abs=0.15)


async def test_rest_that_ends_lets_go_without_probes(net: Net, autojump_clock: Clock) -> None:
    config = CONFIG.replace(PROBE, "rest = { first = 3.0, longest = 3.0 }")
    async with kept(config) as (_, upstream):
        for node in upstream.nodes:
            node.failed(trio.current_time(), unreachable=True)
        began, let_go = trio.current_time(), trio.Event()
        upstream.hold.join(let_go.set)
        upstream.changed()
        await let_go.wait()

        assert trio.current_time() - began == pytest.approx(3.0)
        assert net.asked == {}


async def test_names_are_resolved_again(net: Net, autojump_clock: Clock) -> None:
    net.addresses = ["10.0.0.1"]
    async with kept(NAMED) as (_, upstream):
        assert states(upstream) == {"10.0.0.1": "up"}
        net.addresses = ["10.0.0.1", "10.0.0.3"]
        await trio.sleep(6)
        assert states(upstream) == {"10.0.0.1": "up", "10.0.0.3": "up"}
        assert upstream.nodes[1].share(trio.current_time()) < 1
        net.addresses = None
        await trio.sleep(20)
        assert states(upstream) == {"10.0.0.1": "up", "10.0.0.3": "up"}
        net.addresses = ["10.0.0.3"]
        lease = upstream.nodes[0].lease()
        # After failures it waits for up to eight seconds.
        await trio.sleep(9)
        assert states(upstream) == {"10.0.0.1": "gone", "10.0.0.3": "up"}
        lease.release()
        # That is the mover's part.
        upstream.forget_gone(trio.current_time())
        await trio.sleep(2)
        assert states(upstream) == {"10.0.0.3": "up"}
        asked = len(net.asked["10.0.0.1"])
        await trio.sleep(10)
        assert len(net.asked["10.0.0.1"]) <= asked + 1


async def test_name_that_cannot_be_resolved_at_the_start(net: Net, autojump_clock: Clock) -> None:
    net.addresses = None
    async with kept(NAMED) as (_, upstream):
        assert upstream.nodes == []
        net.addresses = ["10.0.0.1"]
        await trio.sleep(2)

        assert states(upstream) == {"10.0.0.1": "up"}


async def test_a_thousand_clients_wait_out_an_outage(net: Net, autojump_clock: Clock) -> None:
    """All nodes die for a minute; when they are back, connects come at the rate, not at once."""
    net.dead = {"10.0.0.1", "10.0.0.2"}
    config = CONFIG.replace("rate = 10.0", "rate = 100.0")
    async with open_world(config, resolve=False) as world:
        upstream = world.service.upstreams["nodes"]
        await world.nursery.start(Keeper(world.service, upstream).run)
        world.nodes = {host: answering(ACCEPTED) for host in net.dead}
        answers: list[bytes] = []

        async def ask() -> None:
            client = world.connect()
            await client.send_all(UPGRADE)
            answers.append(await read_head(client))
            await client.aclose()

        async with trio.open_nursery() as clients:
            for _ in range(1000):
                clients.start_soon(ask)
            await trio.sleep(60)
            assert len(upstream.hold) == 1000
            assert world.dial_times == []
            net.dead = set()
            back = trio.current_time()

        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 101"] * 1000
        assert len(world.dial_times) == 1000
        for index, at in enumerate(world.dial_times):
            # A hundred for each of two nodes.
            assert at >= back + (index - 11) / 200
        assert world.dial_times[-1] - back < 7


async def test_a_bug_ends_nothing(
    net: Net,
    autojump_clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with kept(CONFIG) as (_, upstream):
        release, calls = upstream.release, list[float]()

        def broken(now: float) -> float:
            calls.append(now)
            if len(calls) == 1:
                raise RuntimeError("oops")
            return release(now)

        monkeypatch.setattr(upstream, "release", broken)
        let_go = trio.Event()
        upstream.hold.join(let_go.set)
        upstream.changed()
        await let_go.wait()

        assert "oops" in caplog.text


async def test_states_are_told_whoever_has_found_out(
    net: Net, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidegate")
    async with kept(CONFIG) as (_, upstream):
        node = upstream.nodes[0]
        upstream.note(node, DialRefused(node.name), trio.current_time())
        upstream.note(node, DialRefused(node.name), trio.current_time())

        told = [r.__dict__["state"] for r in caplog.records if r.__dict__.get("node") == node.name]
        assert told == ["up", "down"]


# Another configuration.


@asynccontextmanager
async def reconfigurable(text: str) -> AsyncIterator[tuple[Keeper, Callable[..., None]]]:
    """A keeper of a running upstream, and what has it follow `text` with replacements."""
    async with open_world(text, resolve=False) as world:
        upstream = world.service.upstreams["nodes"]
        keeper = Keeper(world.service, upstream)
        await world.nursery.start(keeper.run)

        def reconfigure(*replacements: tuple[str, str]) -> None:
            changed = text
            for old, new in replacements:
                assert old in changed
                changed = changed.replace(old, new)
            config = parse_config(changed).upstreams["nodes"]
            upstream.reconfigure(config, trio.current_time())
            keeper.follow()

        yield keeper, reconfigure


SECOND = ', "10.0.0.2:1"'
THIRD = (SECOND, f'{SECOND}, "10.0.0.3:1"')


async def test_new_node_is_probed_at_once_and_the_others_in_their_turn(
    net: Net, autojump_clock: Clock
) -> None:
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        await trio.sleep(5)
        before = {host: len(times) for host, times in net.asked.items()}
        now = trio.current_time()
        reconfigure(THIRD)
        await trio.sleep(0.001)

        assert net.asked["10.0.0.3"] == [now]
        assert {host: len(net.asked[host]) for host in before} == before
        await trio.sleep(2.3)
        assert all(len(net.asked[host]) > before[host] for host in before)
        assert states(keeper.upstream)["10.0.0.3"] == "up"


async def test_node_that_went_is_probed_no_more(net: Net, autojump_clock: Clock) -> None:
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        await trio.sleep(5)
        tasks = trio.lowlevel.current_statistics().tasks_living
        reconfigure((SECOND, ""))
        asked = len(net.asked["10.0.0.2"])
        await trio.sleep(5)

        assert len(net.asked["10.0.0.2"]) == asked
        assert states(keeper.upstream) == {"10.0.0.1": "up"}
        assert trio.lowlevel.current_statistics().tasks_living == tasks - 1


async def test_probes_follow_their_settings_without_a_burst(
    net: Net, autojump_clock: Clock
) -> None:
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        net.dead = {"10.0.0.2"}
        await trio.sleep(5)
        before = {host: len(times) for host, times in net.asked.items()}
        reconfigure(("interval = 2.0", "interval = 100.0"))
        await trio.sleep(1)
        # What was known of them is.
        assert {host: len(net.asked[host]) for host in before} == before
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "down"}
        await trio.sleep(1000)

        assert 8 <= len(net.asked["10.0.0.1"]) - before["10.0.0.1"] <= 13


async def test_probes_may_end_and_begin(net: Net, autojump_clock: Clock) -> None:
    net.dead = {"10.0.0.2"}
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        reconfigure((PROBE, ""))
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "up"}
        asked = sum(map(len, net.asked.values()))
        await trio.sleep(100)
        assert sum(map(len, net.asked.values())) == asked
        reconfigure()
        await trio.sleep(10)

        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "down"}


async def test_states_are_not_told_again(
    net: Net, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidegate")
    net.dead = {"10.0.0.2"}
    async with reconfigurable(CONFIG) as (_, reconfigure):
        assert len(caplog.records) == 2
        reconfigure(("interval = 2.0", "interval = 3.0"), THIRD)
        await trio.sleep(10)

        told = [record.__dict__["node"] for record in caplog.records[2:]]
        assert told == ["10.0.0.3:1"]


async def test_names_come_and_go(net: Net, autojump_clock: Clock) -> None:
    net.addresses = ["10.0.0.1", "10.0.0.7"]
    name = ('"10.0.0.1:1", "10.0.0.2:1"', '"nodes.example:1"')
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        first = keeper.upstream.nodes[0]
        reconfigure(name)
        # Nobody goes while nobody knows what the name stands for.
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "up"}
        await trio.sleep(0.001)
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.7": "up"}
        assert keeper.upstream.nodes[0] is first
        # Its settings are another's now: the answer, which has changed, is not waited for.
        net.addresses = ["10.0.0.1"]
        reconfigure(name, ("hold =", "discovery = { longest = 9.0 }\nhold ="))
        await trio.sleep(0.001)
        assert states(keeper.upstream) == {"10.0.0.1": "up"}
        lookups = len(net.lookups)
        reconfigure()
        await trio.sleep(20)

        assert len(net.lookups) == lookups
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "up"}


async def test_name_that_cannot_be_resolved_takes_nobody_away(
    net: Net, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    net.addresses = None
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        reconfigure(('"10.0.0.1:1", "10.0.0.2:1"', '"nodes.example:1"'))
        await trio.sleep(100)
        assert states(keeper.upstream) == {"10.0.0.1": "up", "10.0.0.2": "up"}
        assert "name not resolved" in caplog.text
        net.addresses = ["10.0.0.2"]
        await trio.sleep(10)

        assert states(keeper.upstream) == {"10.0.0.2": "up"}


async def test_queue_follows(net: Net, autojump_clock: Clock) -> None:
    net.dead = {"10.0.0.1", "10.0.0.2"}
    async with reconfigurable(CONFIG) as (keeper, reconfigure):
        let_go: list[float] = []
        for _ in range(10):
            keeper.upstream.hold.join(lambda: let_go.append(trio.current_time()))
        keeper.upstream.changed()
        net.dead = set()
        reconfigure(("rate = 10.0", "rate = 1.0"))
        await trio.sleep(20)

        assert len(let_go) == 10
        # Two a second: one for each node.
        assert let_go[-1] - let_go[0] == pytest.approx(4.5, abs=1)


async def test_stopped_one_leaves_no_task_and_tells_nobody(net: Net, autojump_clock: Clock) -> None:
    async with open_world(CONFIG, resolve=False) as world:
        before = trio.lowlevel.current_statistics().tasks_living
        keeper = Keeper(world.service, world.service.upstreams["nodes"])
        await world.nursery.start(keeper.run)
        keeper.stop()
        await trio.testing.wait_all_tasks_blocked()

        assert trio.lowlevel.current_statistics().tasks_living == before
        keeper.upstream.changed()
        keeper.follow()
        await trio.sleep(10)
        assert len(net.asked["10.0.0.1"]) == 1
