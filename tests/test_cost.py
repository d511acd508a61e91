"""What a message and a session cost, counted in Python's own steps.

Counts of bytecode instructions and of calls depend on the interpreter's version and on nothing
else: no machine's mood, no neighbour.  The limits leave a quarter for that; whoever comes up
against one has made the way of every message or of every session longer.  Times, beside other
proxies, are measured in bench/.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
import trustme

from proxy import open_proxy, parse_config
from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.wire.frames import Scanner
from proxy.wire.tunnel import Tunnel

from .io.rig import LIMIT, socket_pair, tls_pair
from .serve.world import ACCEPTED, UPGRADE

FROM_CLIENT = b"\x82\xfe\x00\x80mask" + bytes(128)
FROM_NODE = b"\x82\x7e\x00\x80" + bytes(128)


CONFIG = """
[[listeners]]
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{pem}", key_file = "{pem}" }} ] }}
[[routes]]
path = "/deepstream"
websocket = true
upstream = "node"
[upstreams.node]
nodes = [ "127.0.0.1:{port}" ]
"""


class Count:
    """Bytecode instructions, and calls of Python and C functions."""

    instructions = 0
    calls = 0


@contextmanager
def counting() -> Iterator[Count]:
    """Count what is done within the block, in this thread."""
    count = Count()

    def trace(frame: FrameType, event: str, _arg: object) -> Callable[..., Any]:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count.instructions += event == "opcode"
        return trace

    def profile(_frame: FrameType, event: str, _arg: object) -> None:
        count.calls += event in ("call", "c_call")

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])


class Legs:
    """A session in a splicer that nobody runs: its legs are made ready by hand."""

    def __init__(self, client: SocketTransport, node: SocketTransport) -> None:
        self.splicer = Splicer()
        self.tunnel = Tunnel()
        relay = Splice(self.splicer, client, node, self.tunnel, Terms(), Timers())
        self.client, self.node = relay._legs
        relay.rearm()

    def close(self) -> None:
        for leg in (self.client, self.node):
            self.splicer.watch(leg, 0)
            leg.transport.close()
            del leg.peer, leg.splice
        self.splicer._epoll.close()


async def test_message_through_the_splicer(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, near = await tls_pair(client_tls, server_tls)
        far, node = socket_pair()
        legs = Legs(near, far)
        await client.send_all(FROM_CLIENT)
        await trio.lowlevel.wait_readable(near.sock)
        with counting() as up:
            legs.client.ready(select.EPOLLIN)
            legs.splicer.flush()

        assert await node.receive_some() == FROM_CLIENT
        await node.send_all(FROM_NODE)
        with counting() as down:
            legs.node.ready(select.EPOLLIN)
            legs.splicer.flush()

        assert await client.receive_some() == FROM_NODE
        legs.close()
        await trio.aclose_forcefully(client)
        node.close()

    # Decrypt, look at the header, send; the same with encryption.
    assert up.instructions < 490
    assert up.calls < 38
    assert down.instructions < 315
    assert down.calls < 26


@pytest.mark.parametrize(
    ("sizes", "limit"),
    [
        pytest.param([128] * 400, 4, id="alike"),
        pytest.param([100, 120] * 200, 110, id="short"),
        pytest.param([200, 300] * 200, 140, id="medium"),
    ],
)
def test_frame_among_many_in_a_chunk(sizes: list[int], limit: int) -> None:
    """What is counted is instructions for each frame."""
    chunk = bytearray(b"".join(frame(size) for size in sizes))
    scanner = Scanner(masked=False)
    with counting() as count:
        assert scanner.plain(chunk, len(chunk))

    assert scanner.messages == len(sizes)
    assert count.instructions / len(sizes) < limit


async def test_new_session(ca: trustme.CA, client_tls: ssl.SSLContext, tmp_path: Path) -> None:
    """From accept to the last close, the scheduler's turns included; one message each way."""
    issued = ca.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    sessions = 20
    with trio.fail_after(LIMIT), socket.create_server(("127.0.0.1", 0)) as node:
        text = CONFIG.format(pem=tmp_path / "both.pem", port=node.getsockname()[1])
        async with open_proxy(parse_config(text), on_record=lambda record: None) as proxy:
            address = proxy.address()

            def drive(count: int) -> None:
                """Be client and node, in a thread, whose steps are not counted."""
                for _ in range(count):
                    one_session(client_tls, (address.host, address.port), node)

            await trio.to_thread.run_sync(drive, 2)
            with counting() as count:
                await trio.to_thread.run_sync(drive, sessions)

    assert count.calls / sessions < 3400
    assert count.instructions / sessions < 46000


def one_session(tls: ssl.SSLContext, proxy: tuple[str, int], node: socket.socket) -> None:
    with (
        socket.create_connection(proxy) as raw,
        tls.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        client.sendall(UPGRADE)
        far, _ = node.accept()
        with far:
            assert far.recv(4096).startswith(b"GET /deepstream")
            far.sendall(ACCEPTED)
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
            client.sendall(FROM_CLIENT)
            assert far.recv(4096) == FROM_CLIENT
            far.sendall(FROM_NODE)
            assert client.recv(4096) == FROM_NODE
            client.sendall(b"\x88\x80mask")
            assert far.recv(4096) == b"\x88\x80mask"
            far.sendall(b"\x88\x00")
            assert client.recv(4096) == b"\x88\x00"


def frame(size: int) -> bytes:
    head = bytes((0x82, size)) if size < 126 else b"\x82\x7e" + size.to_bytes(2, "big")
    return head + bytes(size)
