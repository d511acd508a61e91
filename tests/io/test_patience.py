"""Who waits in one queue gives up when its time has come, first come first served."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.io.patience import Patience
from proxy.io.timers import Timers

Clock = trio.testing.MockClock


class Waiter:
    def __init__(self) -> None:
        self.gave_up: list[float] = []

    def give_up(self) -> None:
        self.gave_up.append(trio.current_time())


async def test_each_gives_up_in_its_time(autojump_clock: Clock) -> None:
    timers = Timers()
    patience = Patience(timers, 2.0)
    one, other, third = Waiter(), Waiter(), Waiter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        began = trio.current_time()
        patience.begin(one, began)
        await trio.sleep(0.5)
        patience.begin(other, began + 0.5)
        patience.begin(third, began + 0.5)
        patience.end(third)
        patience.end(third)
        assert len(patience) == 2
        await trio.sleep(5)
        nursery.cancel_scope.cancel()

    assert one.gave_up == [pytest.approx(began + 2.0)]
    assert other.gave_up == [pytest.approx(began + 2.5)]
    assert third.gave_up == []
    assert len(patience) == 0


async def test_it_can_wait_again(autojump_clock: Clock) -> None:
    timers = Timers()
    patience = Patience(timers, 2.0)
    one = Waiter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for _ in range(3):
            patience.begin(one, trio.current_time())
            await trio.sleep(1.5)
            patience.end(one)
        assert one.gave_up == []
        patience.begin(one, began := trio.current_time())
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert one.gave_up == [pytest.approx(began + 2.0)]
