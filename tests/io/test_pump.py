"""What is the portable relay's own; what all relays do is in test_relay."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.io.pump import PumpRelay
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

KEY = b"\x01\x02\x03\x04"


async def test_a_reader_that_never_reads_cannot_hold_up_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client, near = trio.testing.lockstep_stream_pair()
    far, node = trio.testing.lockstep_stream_pair()
    relay = PumpRelay(near, far, Tunnel(), Terms(), Timers())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        nursery.start_soon(node.send_all, frame(2, b"nobody reads this"))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        relay.close("shutdown", 1012, 1001, "")
    took = trio.current_time() - started

    # The time for closing, and what the last word may take.
    assert 5 <= took <= 7
    assert relay.tunnel.finished
    await trio.aclose_forcefully(client)


async def test_what_one_side_sends_arrives_in_order_with_what_is_injected() -> None:
    """Both pumps and the waker send to the client; the lock keeps the tunnel's order."""
    client, near = trio.testing.lockstep_stream_pair()
    far, node = trio.testing.lockstep_stream_pair()
    relay = PumpRelay(near, far, Tunnel(), Terms(), Timers())
    expected = frame(2, b"first") + frame(9, b"ours") + frame(2, b"second")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            await node.send_all(frame(2, b"first"))
            await trio.testing.wait_all_tasks_blocked()
            assert relay.tunnel.ping(Side.CLIENT, b"ours")
            relay._wake()
            nursery.start_soon(node.send_all, frame(2, b"second"))
            await trio.testing.wait_all_tasks_blocked()
            received = b""
            while len(received) < len(expected):
                received += await client.receive_some()

            assert received == expected
            nursery.cancel_scope.cancel()


async def test_a_goodbye_without_room_does_not_hold_up_the_other_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, near = trio.testing.memory_stream_pair()
    far, node = trio.testing.memory_stream_pair()
    monkeypatch.setattr(near, "send_eof", trio.sleep_forever)
    relay = PumpRelay(near, far, OpaqueTunnel(), Terms(), Timers())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            await node.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            for number in range(3):
                await client.send_all(b"%d" % number)
                assert await node.receive_some() == b"%d" % number
            await client.send_eof()
            assert await node.receive_some() == b""
            nursery.cancel_scope.cancel()
