"""Mutated requests: each is answered or hung up on, none is a bug, and nothing is left."""

from __future__ import annotations

import logging

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from .world import ACCEPTED, UPGRADE, Recorder, answering, open_world, read_all, read_head

REQUESTS = [
    UPGRADE,
    b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HEAD /api?x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /api HTTP/1.0\r\n\r\n",
]
PIECES = [
    *(b"\r\n", b"\n", b"\0", b" ", b":", b"\xff", b"\r\n\r\n", b"%2e%2e/", b"HEAD "),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\n", b"\x82\x85abcdhello", b"\x88\x80abcd", b"\x88\x82abcd", b"\x89\xfe"),
]


async def slow_reader(stream: trio.abc.Stream) -> None:
    """Answer the head and never read the body."""
    await read_head(stream)
    await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    await trio.sleep(1)


NODES = [Recorder(), answering(ACCEPTED), answering(), slow_reader, read_all]


class Errors(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 12))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)))
        data = data[:place] + piece + data[place + cut :]
    return data


@settings(max_examples=300)
@given(mutated(), st.integers(0, 10_000), st.sampled_from(NODES), st.booleans(), st.booleans())
def test_mutated_requests(data: bytes, cut: int, node: object, stays: bool, vanishes: bool) -> None:
    handler = Errors()

    async def run() -> None:
        async with open_world() as world:
            world.nodes = {"node-a": node, "node-b": node}  # type: ignore[dict-item]  # as drawn
            client = world.connect()
            try:
                await client.send_all(data[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(data[cut:])
                if vanishes:
                    await trio.aclose_forcefully(client)
                elif not stays:
                    await client.send_stream.aclose()
                with trio.move_on_after(1000):
                    await read_all(client)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            await trio.aclose_forcefully(client)
            await trio.sleep(1000)

            assert world.records
            assert world.service.under_way.count == 0
            assert [one.sessions for one in world.service.upstreams["nodes"].nodes] == [0, 0]

    logging.getLogger("tidegate").addHandler(handler)
    try:
        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.getLogger("tidegate").removeHandler(handler)
    assert handler.seen == []
