"""A thousand sessions leave at the pace that was asked for, each with a clean goodbye.

Real sockets, one process: the proxy, the node that stands in, and the clients, which do no more
than such a test needs.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from proxy import Server, open_proxy, parse_config
from proxy.observe.record import Record
from proxy.testing.node import open_nodes
from tests.serve.world import UPGRADE, read_all, read_head, status

SESSIONS = 1000
RATE = 100
#: A client's end, two of the proxy's, the node's; and what the test runner has open.
FILES = 4 * SESSIONS + 200
#: The reason is "shutting down"; the answer is masked, as a client's has to be.
CLOSE = b"\x88\x0f\x03\xf4shutting down"
ANSWER = b"\x88\x82\0\0\0\0\x03\xf4"

CONFIG = f"""
[shutdown]
rate = {RATE}.0
deadline = 25.0
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/deepstream"
websocket = true
ping = {{{{ client = 0, node = 0 }}}}
upstream = "nodes"
[upstreams.nodes]
nodes = [ "{{node}}" ]
"""


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Have this process allowed so many open files, for the length of a block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"only {hard} open files are allowed here, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def client(server: Server, told: list[float], *, task_status: trio.TaskStatus[None]) -> None:
    """Have a session until the proxy ends it; note when that was."""
    address = server.address()
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(UPGRADE)
        assert status(await read_head(stream)) == 101
        task_status.started()
        close = bytes(await stream.receive_some())
        told.append(trio.current_time())
        assert close == CLOSE
        await stream.send_all(ANSWER)
        # A reset would be an error.
        assert await read_all(stream) == b""


async def test_drain_of_a_thousand_takes_ten_seconds() -> None:
    records: list[Record] = []
    told: list[float] = []
    with open_files(FILES), trio.fail_after(60):
        async with open_nodes("a") as (node,), trio.open_nursery() as clients:
            config = parse_config(CONFIG.format(node=node.address))
            async with open_proxy(config, on_record=records.append) as server:
                for _ in range(SESSIONS):
                    await clients.start(client, server, told)
                assert len(server.service.sessions) == SESSIONS
                started = trio.current_time()
                server.shut_down()
                await server.stopped.wait()
                ended = trio.current_time()

    assert 9 < told[-1] - told[0] <= ended - started < 12
    assert len(told) == len(records) == SESSIONS
    # Evenly: half of them in half the time, and in no second much more than in another.
    for second in range(9):
        inside = sum(second <= time - started < second + 1 for time in told)
        assert 0.7 * RATE < inside < 1.3 * RATE, second
    assert {(r.ending, r.close_to_client, r.close_from_client) for r in records} == {
        ("shutdown", 1012, 1012)
    }
