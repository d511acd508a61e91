"""One wake-up of the splicer, from Trio's turn to the last byte sent, in this process."""

from __future__ import annotations

import socket
import statistics
import time

import trio
import trio.testing

from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.wire.tunnel import Side, Tunnel

__all__ = ["wakeup_time"]

_TURNS = 300
_FRAME = b"\x82\xfe\x00\x80mask" + bytes(128)


def _pair() -> tuple[socket.socket, SocketTransport]:
    far, near = socket.socketpair()
    far.setblocking(False)
    near.setblocking(False)
    return far, SocketTransport(near)


async def _measure(ready: int) -> float:
    splicer = Splicer()
    tunnels: list[Tunnel] = []
    clients: list[socket.socket] = []
    nodes: list[socket.socket] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splicer.run)
        for _ in range(ready):
            (client, near), (node, far) = _pair(), _pair()
            tunnels.append(Tunnel())
            relay = Splice(splicer, near, far, tunnels[-1], Terms(), Timers())
            nursery.start_soon(relay.run)
            clients.append(client)
            nodes.append(node)
        await trio.testing.wait_all_tasks_blocked()
        times = []
        for turn in range(1, _TURNS + 1):
            for client in clients:
                client.send(_FRAME)
            began = time.perf_counter()
            while any(tunnel.scanners[Side.CLIENT].messages < turn for tunnel in reversed(tunnels)):
                await trio.lowlevel.checkpoint()
            times.append(time.perf_counter() - began)
            for node in nodes:
                node.recv(4096)
        nursery.cancel_scope.cancel()
    for end in (*clients, *nodes):
        end.close()
    return statistics.median(times)


def wakeup_time(ready: int) -> float:
    """Return the seconds of a wake-up that finds `ready` legs with a message each."""
    return trio.run(_measure, ready)
