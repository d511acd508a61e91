"""What both sides of HTTP/1.1 share: sending at once where nothing has to wait."""

from __future__ import annotations

import pytest
import trio

from proxy.errors import ClosedEarly
from proxy.io.node_http import NodeHttp

from .rig import LIMIT, socket_pair, tcp_transports

ASKED = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_what_a_socket_takes_is_sent_at_once() -> None:
    near, far = socket_pair()
    http = NodeHttp(near, "node:1")
    with trio.CancelScope() as scope:
        # Whoever has something to send to somebody who takes it needs no turn for that.
        scope.cancel()
        await http.ask(b"GET", b"/", [(b"Host", b"a")])

    assert await far.receive_some() == ASKED
    assert http.sent
    near.close()
    far.close()


async def test_what_it_does_not_take_is_waited_for() -> None:
    near, far = tcp_transports()
    http = NodeHttp(near, "node:1")
    data, received = bytes(8 * 2**20), 0
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.send, data)
            while received < len(data):
                received += len(await far.receive_some())
    near.close()
    far.close()


async def test_nothing_went_out_to_who_is_gone() -> None:
    near, far = socket_pair()
    far.close()
    http = NodeHttp(near, "node:1")
    with pytest.raises(ClosedEarly):
        await http.ask(b"GET", b"/", [(b"Host", b"a")])

    assert not http.sent
    near.close()
