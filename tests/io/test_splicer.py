"""The splicer's own: one epoll, one task, many legs."""

from __future__ import annotations

import trio
import trio.testing

from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.wire.tunnel import Tunnel
from tests.wire.strategies import frame

from .rig import LIMIT, socket_pair

KEY = b"\x01\x02\x03\x04"


async def test_many_sessions_at_once() -> None:
    splicer = Splicer()
    ends = [(socket_pair(), socket_pair()) for _ in range(100)]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splicer.run)
            for client, node in ends:
                relay = Splice(splicer, client[1], node[0], Tunnel(), Terms(), Timers())
                nursery.start_soon(relay.run)
            await trio.testing.wait_all_tasks_blocked()
            assert len(splicer.legs) == 200
            for index, (client, node) in enumerate(ends):
                await client[0].send_all(frame(2, b"%d" % index, key=KEY))
                await node[1].send_all(frame(2, b"%d" % -index))
            for index, (client, node) in enumerate(ends):
                assert await client[0].receive_some() == frame(2, b"%d" % -index)
                assert await node[1].receive_some() == frame(2, b"%d" % index, key=KEY)
            nursery.cancel_scope.cancel()
    assert splicer.legs == {}
    for client, node in ends:
        for transport in (*client, *node):
            transport.close()
