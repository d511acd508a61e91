"""What a spliced session does by itself; what all relays do is in test_relay."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from wsproto.events import CloseConnection

from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import Bytes, SocketTransport
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

from .conftest import OpenRig
from .rig import LIMIT, Explosion, Rig, open_rig, socket_pair

KEY = b"\x01\x02\x03\x04"


async def test_a_bug_ends_its_own_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    splicer = Splicer()
    pairs = [(socket_pair(), socket_pair()) for _ in range(2)]
    tunnels = [Tunnel(), Tunnel()]
    relays = [
        Splice(splicer, client[1], node[0], tunnel, Terms(), Timers())
        for (client, node), tunnel in zip(pairs, tunnels, strict=True)
    ]

    received = Tunnel.received

    def explode(self: Tunnel, side: Side, data: bytes) -> None:
        if self is tunnels[0]:
            raise Explosion
        received(self, side, data)

    monkeypatch.setattr(Tunnel, "received", explode)
    failed: list[BaseException] = []

    async def run(index: int) -> None:
        try:
            await relays[index].run()
        except Explosion as exc:
            failed.append(exc)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splicer.run)
            for index in range(2):
                nursery.start_soon(run, index)
            await trio.testing.wait_all_tasks_blocked()
            ping = frame(9, b"not plain", key=KEY)
            await pairs[0][0][0].send_all(ping)
            await pairs[1][0][0].send_all(ping)

            assert await pairs[1][1][1].receive_some() == ping
            await trio.testing.wait_all_tasks_blocked()
            assert len(failed) == 1
            assert len(splicer.legs) == 2
            nursery.cancel_scope.cancel()
    for pair in pairs:
        for transport in (*pair[0], *pair[1]):
            transport.close()


async def test_paused_leg_is_not_watched(open_kind: OpenRig) -> None:
    """A leg that may not be read costs nothing, even when its peer hangs up meanwhile."""
    async with open_kind("splice") as r:
        chunk = frame(2, b"x" * 60_000)
        r.nursery.start_soon(send_until_broken, r, chunk)
        await trio.testing.wait_all_tasks_blocked(0.05)
        splice = r.relay
        watched = [leg.events for leg in splice._legs]  # type: ignore[attr-defined]

        # The client's leg waits for room, and is read; the node's is out of the epoll.
        assert watched[1] == 0
        assert watched[0] != 0
        await r.node.stream.aclose()
        received = 0
        while data := await r.client._receive_some():
            received += len(data)
            if b"\x88" in data[-20:]:
                break
        assert received > len(chunk)


async def test_to_fail_on_one_side_is_told_to_the_other_at_once(
    monkeypatch: pytest.MonkeyPatch, open_kind: OpenRig
) -> None:
    async with open_kind("splice") as r:
        assert isinstance(r.relay, Splice)
        node, send = r.relay._legs[Side.NODE].transport, SocketTransport.send

        def fail(self: SocketTransport, data: Bytes) -> bool:
            if self is node:
                raise BrokenPipeError
            return send(self, data)

        monkeypatch.setattr(SocketTransport, "send", fail)
        assert r.tunnel.ping(Side.NODE, b"are you there?")
        r.relay._wake()
        with trio.fail_after(2):
            event = await r.client.receive()

        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1011, "node lost")


async def send_until_broken(rig: Rig, chunk: bytes) -> None:
    try:
        while True:
            await rig.node.stream.send_all(chunk)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def test_last_words_of_a_node_that_takes_nothing_more_arrive() -> None:
    """It has said goodbye and hung up, and the client had something on its way to it."""
    async with open_rig("splice", (), tcp=True) as r:  # type: ignore[arg-type]  # no TLS in it
        await trio.testing.wait_all_tasks_blocked()
        client, node = r.client.stream, r.node.stream
        assert isinstance(client, SocketTransport)
        assert isinstance(node, SocketTransport)
        last = frame(2, b"last words") + frame(8, b"\x03\xe9")
        # All of it before the splicer has its turn; what comes first is what it looks at first.
        client.send(frame(2, b"too late", key=KEY))
        node.send(last)
        node.abort()

        assert await client.receive_some() == last
    assert r.tunnel.ending == "node_closed"
