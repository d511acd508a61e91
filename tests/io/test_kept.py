"""Connections between two requests: which is taken, which is not, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from proxy.io.kept import Kept
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport

from .rig import socket_pair

Ends = tuple[SocketTransport, SocketTransport]


@pytest.fixture
def pairs() -> Iterator[list[Ends]]:
    with ExitStack() as stack:
        made = [socket_pair() for _ in range(3)]
        for end in (end for pair in made for end in pair):
            stack.callback(end.sock.close)
        yield made


def take(kept: Kept, node: str = "a") -> SocketTransport | None:
    line = kept.take(node, trio.current_time())
    return None if line is None else line.leave()


async def test_the_last_one_is_taken_first(pairs: list[Ends]) -> None:
    kept = Kept(Timers())
    for near, _ in pairs:
        kept.keep("a", near, 10, trio.current_time() + 4.0, 0)

    assert take(kept, "b") is None
    assert [take(kept) for _ in range(4)] == [*(near for near, _ in reversed(pairs)), None]
    assert len(kept) == 0


async def test_no_more_than_so_many_of_a_node_are_kept(pairs: list[Ends]) -> None:
    kept = Kept(Timers())
    for near, _ in pairs:
        kept.keep("a", near, 2, trio.current_time() + 4.0, 0)

    assert len(kept) == 2
    assert pairs[2][0].sock.fileno() == -1


async def test_one_that_the_node_has_ended_is_not_taken(pairs: list[Ends]) -> None:
    kept = Kept(Timers())
    for near, _ in pairs:
        kept.keep("a", near, 10, trio.current_time() + 4.0, 0)
    pairs[2][1].close()
    await pairs[1][1].send_all(b"HTTP/1.1 408 You are late\r\n\r\n")

    assert take(kept) is pairs[0][0]
    assert [near.sock.fileno() for near, _ in pairs[1:]] == [-1, -1]


async def test_none_is_idle_for_too_long(
    pairs: list[Ends], autojump_clock: trio.testing.MockClock
) -> None:
    timers = Timers()
    kept = Kept(timers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        kept.keep("a", pairs[0][0], 10, trio.current_time() + 4.0, 0)
        await trio.sleep(3.0)
        kept.keep("b", pairs[1][0], 10, trio.current_time() + 4.0, 0)
        await trio.sleep(1.5)
        assert [near.sock.fileno() >= 0 for near, _ in pairs[:2]] == [False, True]
        await trio.sleep(3.0)
        assert len(kept) == 0
        assert pairs[1][0].sock.fileno() == -1
        nursery.cancel_scope.cancel()


async def test_one_that_is_late_is_not_taken_before_it_is_tidied_away(pairs: list[Ends]) -> None:
    kept = Kept(Timers())
    kept.keep("a", pairs[0][0], 10, trio.current_time() + 0.0, 0)

    assert take(kept) is None
    assert pairs[0][0].sock.fileno() == -1


async def test_all_can_be_closed(pairs: list[Ends]) -> None:
    kept = Kept(Timers())
    for name, (near, _) in zip("abc", pairs, strict=True):
        kept.keep(name, near, 10, trio.current_time() + 4.0, 0)
    kept.close()

    assert len(kept) == 0
    assert [near.sock.fileno() for near, _ in pairs] == [-1, -1, -1]
