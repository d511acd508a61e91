"""One node that is asked for an upgrade; what a client sees of it is in test_connection."""

from __future__ import annotations

import h11
import pytest
import trio.testing

from proxy.errors import BadUpgradeResponse, NodeUnwilling, Refusal, ResponseTimeout
from proxy.observe.record import Record
from proxy.serve.reach import Attempt
from proxy.serve.upgrade import ask_node
from proxy.wire.handshake import check_upgrade
from proxy.wire.headers import ClientFacts

from .world import ACCEPTED, UPGRADE, Serve, World, answering, open_world, silent

Clock = trio.testing.MockClock
FACTS = ClientFacts("192.0.2.7", "https", 443, "id-1")


async def ask(world: World, serve: Serve, *, others: bool = False) -> tuple[int, Record]:
    """Ask the first node, which serves so; return the status of its answer."""
    world.nodes["node-a"] = serve
    upstream = world.service.upstreams["nodes"]
    node, record = upstream.nodes[0], Record(id="1", client="c")
    attempt = Attempt(world.service, upstream, node.lease(), node, record, 100.0, lambda: others)
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(UPGRADE)
    request = conn.next_event()
    assert isinstance(request, h11.Request)
    headers = request.headers.raw_items()
    upgrade = check_upgrade(b"GET", request.target, b"1.1", headers, None)
    try:
        _, answer = await ask_node(attempt, upgrade, FACTS)
        return answer.status_code, record
    finally:
        await attempt.release()


async def test_yes(autojump_clock: Clock) -> None:
    async with open_world() as world:
        status, record = await ask(world, answering(ACCEPTED))

        assert status == 101
        assert record.upgrade_time is not None


@pytest.mark.parametrize("status", [200, 401, 500, 503])
async def test_no(status: int, autojump_clock: Clock) -> None:
    async with open_world() as world:
        answer = answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

        assert (await ask(world, answer))[0] == status


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (silent, ResponseTimeout),
        (answering(ACCEPTED.replace(b"xOo", b"xxx")), BadUpgradeResponse),
        (answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), NodeUnwilling),
    ],
)
async def test_no_answer(serve: Serve, error: type[Refusal], autojump_clock: Clock) -> None:
    async with open_world() as world:
        with pytest.raises(error):
            await ask(world, serve, others=True)
