"""What happens to the nodes.

A scenario is a script of events, drawn before the run, so that it is the same for each balancer.
In all of them 1 % of the clients leave each minute, and new ones come in their places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from .world import World

__all__ = ["SCENARIOS", "Scenario"]

#: When it begins; until then all is well.
_START: Final = 10.0
#: What follows after the last fault: nodes have this long to become even.
_AFTER: Final = 300.0
#: From a process's exit to its listening again.
_RESTART: Final = 3.0


@attrs.frozen
class Scenario:
    """`script` sets the events and returns when the last fault is over."""

    letter: str
    name: str
    title: str
    script: Callable[[World], float]

    def until(self, calm: float) -> float:
        return calm + _AFTER


def _rolling(world: World) -> float:
    return _interrupt_all(world, every=10.0, zombie=0.0)


def _rolling_zombies(world: World) -> float:
    return _interrupt_all(world, every=40.0, zombie=30.0)


def _interrupt_all(world: World, *, every: float, zombie: float) -> float:
    time = _START
    for count, node in enumerate(world.nodes):
        time = _START + every * count
        world.clock.at(time, lambda node=node: node.interrupt(zombie=zombie, start=_RESTART))
    return time + zombie + _RESTART + 1.0


def _flapping(world: World) -> float:
    """Crash a quarter of the nodes, again and again, for five minutes."""
    random, clock, over = world.random("script"), world.clock, _START + 300.0
    last = over
    for node in random.sample(world.nodes, max(1, len(world.nodes) // 4)):
        time = _START + random.uniform(0.0, 5.0)
        while time < over:
            clock.at(time, node.exit)
            time += random.uniform(2.0, 6.0)
            clock.at(time, node.start)
            last = max(last, time)
            time += random.uniform(5.0, 15.0)
    return last


def _slow(world: World) -> float:
    """Freeze some nodes and make one slow, a seventh of all in all, for three minutes."""
    random, clock, over = world.random("script"), world.clock, _START + 180.0
    count = max(2, len(world.nodes) * 3 // 20)
    slow, *frozen = random.sample(world.nodes, count)
    clock.at(_START, slow.slow_down, 5.0)
    clock.at(over, slow.speed_up)
    for node in frozen:
        clock.at(_START, node.freeze)
        clock.at(over, node.thaw)
    return over


def _failover(world: World) -> float:
    return _all_die(world, 20.0)


def _long_failover(world: World) -> float:
    return _all_die(world, 60.0)


def _all_die(world: World, away: float) -> float:
    """Have Redis away: all nodes exit at once, and start within 5 s of its return."""
    random, clock = world.random("script"), world.clock
    last = 0.0
    for node in world.nodes:
        clock.at(_START, node.exit)
        time = _START + away + random.uniform(0.0, 5.0)
        clock.at(time, node.start)
        last = max(last, time)
    return last


def _mass_close(world: World) -> float:
    """Have every node close all its sessions at once, and live on.

    That is what healthy nodes do when no message has come through for a minute, because the network
    or the machine of the balancer stood still.
    """
    for node in world.nodes:
        world.clock.at(_START, node.close_all)
    return _START + 1.0


def _wrong_paths(world: World) -> float:
    """Ask for a wrong path each second, for five minutes."""
    for second in range(300):
        world.clock.at(_START + second, world.ask_wrong_path)
    return _START + 300.0


SCENARIOS = (
    Scenario("a", "rolling", "rolling restart by SIGINT, a node every 10 s", _rolling),
    Scenario("b", "zombies", "the same, each node a zombie for 30 s", _rolling_zombies),
    Scenario("c", "flapping", "a quarter of the nodes flap for 5 minutes", _flapping),
    Scenario("d", "frozen", "nodes frozen and slow for 3 minutes", _slow),
    Scenario("e", "failover", "all nodes die for 20 s: Redis failover", _failover),
    Scenario("f", "wrong-path", "a wrong path each second for 5 minutes", _wrong_paths),
    Scenario("g", "long-failover", "all nodes die for 60 s", _long_failover),
    Scenario("h", "mass-close", "healthy nodes close all sessions at once", _mass_close),
)
