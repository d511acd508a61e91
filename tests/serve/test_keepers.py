"""Who looks after which upstream, and until when."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.config.load import parse_config
from proxy.io.contexts import make_contexts
from proxy.pool.upstream import Upstream
from proxy.serve import keep
from proxy.serve.keepers import Keepers

from .world import CONFIG, World, open_world

Clock = trio.testing.MockClock

OTHER = CONFIG.replace("[upstreams.nodes]", "[upstreams.other]").replace(
    'upstream = "nodes"', 'upstream = "other"'
)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def switch(world: World, text: str) -> None:
    """Have the service go by another configuration, without anybody new to look after."""
    config = parse_config(text)
    contexts = make_contexts(config)
    new = world.service.new_upstreams(config, contexts)
    world.service.reconfigure(config, contexts, new, trio.current_time())


async def start(world: World) -> tuple[Keepers, Upstream]:
    keepers = Keepers(world.service)
    await keepers.start(world.nursery, world.service.upstreams.values())
    await trio.testing.wait_all_tasks_blocked()
    return keepers, world.service.upstreams["nodes"]


async def test_upstream_that_left_is_looked_after_until_nobody_holds_on_to_it(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        before = tasks()
        keepers, upstream = await start(world)
        running = tasks()
        with upstream.nodes[0].lease():
            switch(world, OTHER)
            keepers.forget_left()
            await trio.testing.wait_all_tasks_blocked()
            assert tasks() == running
            assert world.service.removed == {"nodes": upstream}
        keepers.forget_left()
        await trio.testing.wait_all_tasks_blocked()

        assert tasks() == before
        assert world.service.removed == {}


async def test_upstream_that_comes_back_is_the_same(autojump_clock: Clock) -> None:
    async with open_world() as world:
        keepers, upstream = await start(world)
        running = tasks()
        with upstream.nodes[0].lease():
            switch(world, OTHER)
            keepers.forget_left()
            switch(world, CONFIG)
        keepers.forget_left()
        await trio.testing.wait_all_tasks_blocked()

        assert tasks() == running
        assert world.service.upstreams == {"nodes": upstream}
        assert world.service.removed == {}


async def test_start_that_is_cancelled_can_be_undone(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> float:
        await trio.sleep_forever()

    monkeypatch.setattr(keep, "probe", never)
    text = CONFIG.replace('"node-a:1", "node-b:1"', '"192.0.2.1:1"')
    async with open_world(f'{text}probe = {{ kind = "tcp" }}') as world:
        before = tasks()
        keepers = Keepers(world.service)
        upstreams = world.service.upstreams.values()
        with trio.move_on_after(1) as scope:
            await keepers.start(world.nursery, upstreams)
        keepers.stop(upstreams)
        await trio.testing.wait_all_tasks_blocked()

        assert scope.cancelled_caught
        assert tasks() == before
        keepers.stop(upstreams)
