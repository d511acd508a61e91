"""What comes before a request: whom it is for, TLS, and what the record says where that fails."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from proxy.config.address import Address
from proxy.config.model import ListenerProxyProtocol
from proxy.config.upstream import ProxyVersion
from proxy.io.handshakes import Handshakes
from proxy.io.server_tls import ServerTls
from proxy.io.transport import SocketTransport
from proxy.observe.record import Record
from proxy.serve.arrival import (
    GONE,
    describe,
    hangs_up,
    host_of,
    read_source,
    shake_hands,
)
from proxy.wire.proxy_protocol import AUTHORITY, SSL, UNIQUE_ID, Source, build
from tests.io.rig import LIMIT, socket_pair, tcp_pair


@pytest.fixture
def ends() -> Iterator[tuple[SocketTransport, SocketTransport]]:
    pair = socket_pair()
    yield pair
    for end in pair:
        end.sock.close()


async def test_a_client_shakes_hands(
    ends: tuple[SocketTransport, SocketTransport],
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    client = trio.SSLStream(ends[0], client_tls, server_hostname="localhost")
    record = Record(id="1", client="c")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            transport = await shake_hands(
                ends[1],
                ServerTls(server_tls),
                record,
                trio.current_time() + LIMIT,
                Handshakes(1, 1),
            )

        assert transport is not None
        assert record.tls_time is not None
        assert record.detail == ""
        await transport.send_all(b"hello")
        assert await client.receive_some() == b"hello"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "It hung up before its ClientHello was complete."),
        (b"\0\1", "It begins with 0x0001."),
        # Nothing that OpenSSL speaks: an empty list of ciphers.
        (b"\x16\x03\x01\0\x2a\x01\0\0\x26\3\3" + bytes(36), "no ciphers specified."),
    ],
)
async def test_what_is_no_handshake_is_told_to_the_record(
    sent: bytes,
    reason: str,
    ends: tuple[SocketTransport, SocketTransport],
    server_tls: ssl.SSLContext,
) -> None:
    record = Record(id="1", client="c")
    if sent:
        await ends[0].send_all(sent)
    await ends[0].aclose()

    now = trio.current_time()
    assert (
        await shake_hands(ends[1], ServerTls(server_tls), record, now + LIMIT, Handshakes(1, 1))
        is None
    )
    assert record.tls_time is None
    assert record.detail == f"The TLS handshake failed: {reason}"


@pytest.mark.parametrize(("overall", "of_tls"), [(0.01, LIMIT), (LIMIT, 0.01)])
async def test_a_handshake_has_its_time(
    overall: float,
    of_tls: float,
    ends: tuple[SocketTransport, SocketTransport],
    server_tls: ssl.SSLContext,
) -> None:
    record = Record(id="1", client="c")
    tls = ServerTls(server_tls, handshake_timeout=of_tls)

    now = trio.current_time()
    handshakes = Handshakes(1, 1)
    assert await shake_hands(ends[1], tls, record, now + overall, handshakes) is None
    assert record.detail == "The TLS handshake was not complete in time."


class Turns(trio.abc.Instrument):
    """Counts those of Trio's loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@pytest.mark.parametrize("width", [1, 2])
async def test_a_flood_leaves_everybody_their_turns(
    width: int, client_tls: ssl.SSLContext, ca: trustme.CA, autojump_clock: MockClock
) -> None:
    """A hundred clients whose bytes are all there: just so many steps of them in each turn."""
    turns, steps = Turns(), Counter[int]()

    class Counting(ssl.SSLObject):
        def do_handshake(self) -> None:
            steps[turns.count] += 1
            super().do_handshake()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    context.sslobject_class = Counting
    handshakes, done = Handshakes(100, width), list[bool]()

    async def serve(stream: SocketTransport) -> None:
        record = Record(id="1", client="c")
        transport = await shake_hands(stream, ServerTls(context), record, LIMIT, handshakes)
        done.append(transport is not None)

    pairs = [socket_pair() for _ in range(100)]
    async with trio.open_nursery() as nursery:
        for near, _ in pairs:
            client = trio.SSLStream(near, client_tls, server_hostname="localhost")
            nursery.start_soon(client.do_handshake)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(turns)
        for _, far in pairs:
            nursery.start_soon(serve, far)
    for pair in pairs:
        for end in pair:
            end.close()

    assert done == [True] * 100
    assert steps.total() == 200
    assert max(steps.values()) == width


LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n"
SOURCE = Source((Address("192.0.2.7", 5555), Address("198.51.100.1", 443)))
TRUSTING = ListenerProxyProtocol(trusted=("10.0.0.0/8", "unix"))


async def arrive(
    stream: SocketTransport, peer: str = "unix:", seconds: float = LIMIT
) -> tuple[Source | None, str]:
    """Return what has come of it, and what the record says of that."""
    record = Record(id="1", client=peer)
    deadline = trio.current_time() + seconds
    source = await read_source(stream, TRUSTING, peer, record, deadline)
    return source, record.detail


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_header_is_taken_and_nothing_else(
    version: ProxyVersion, size: int, ends: tuple[SocketTransport, SocketTransport]
) -> None:
    tlvs = ((0xE0, b"x"), (0x20, bytes(5))) if version == "v2" else ()
    source = attrs.evolve(SOURCE, tlvs=tlvs)
    header = build(version, source)
    found: list[tuple[Source | None, str]] = []

    async def receive() -> None:
        found.append(await arrive(ends[1]))

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for start in range(0, len(header + b"GET /"), size):
                await wait_all_tasks_blocked()
                await ends[0].send_all((header + b"GET /")[start : start + size])
        await ends[0].send_eof()

        assert found == [(source, "")]
        rest = b""
        while data := await ends[1].receive_some():
            rest += data
        assert rest == b"GET /"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.1.2.3:5", True), ("unix:", True), ("192.0.2.1:5", False), ("[::1]:5", False)],
)
async def test_header_of_a_stranger(
    peer: str, trusted: bool, ends: tuple[SocketTransport, SocketTransport]
) -> None:
    await ends[0].send_all(LINE)
    refused = (None, "This address is not trusted to send a PROXY header.")

    assert await arrive(ends[1], peer) == ((SOURCE, "") if trusted else refused)


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "It does not begin with a PROXY header."),
        (b"\x16\x03\x01\x02\x00", "It does not begin with a PROXY header."),
        (b"PROXY TCP4\r\n", "The PROXY line is malformed."),
        (LINE[:-1], "It hung up within the PROXY header."),
        # A look whether we are there.
        (b"", ""),
    ],
)
async def test_no_header(
    sent: bytes, detail: str, ends: tuple[SocketTransport, SocketTransport]
) -> None:
    if sent:
        await ends[0].send_all(sent)
    await ends[0].aclose()

    assert await arrive(ends[1]) == (None, detail)


@pytest.mark.parametrize("sent", [b"", LINE[:-1]])
async def test_header_has_its_time(
    sent: bytes, ends: tuple[SocketTransport, SocketTransport]
) -> None:
    if sent:
        await ends[0].send_all(sent)

    late = "The PROXY header was not complete in time."
    assert await arrive(ends[1], seconds=0.01) == (None, late)


async def test_look_that_ends_with_a_reset() -> None:
    for peer in ("10.0.0.1:5", GONE):
        near, far = tcp_pair()
        SocketTransport(near).abort()
        stream = SocketTransport(far)

        assert await arrive(stream, peer) == (None, "")
        assert await hangs_up(stream, trio.current_time() + LIMIT)
        stream.close()


async def test_who_hangs_up_before_the_first_byte(
    ends: tuple[SocketTransport, SocketTransport],
) -> None:
    assert not await hangs_up(ends[1], trio.current_time() + 0.01)
    await ends[0].send_all(b"x")
    await ends[0].send_eof()

    assert not await hangs_up(ends[1], trio.current_time() + LIMIT)
    assert await ends[1].receive_some() == b"x"
    assert await hangs_up(ends[1], trio.current_time() + LIMIT)


async def test_what_a_node_is_told() -> None:
    near, far = map(SocketTransport, tcp_pair())
    client, here = far.sock.getpeername(), far.sock.getsockname()
    own = (Address(*client), Address(*here)), ((UNIQUE_ID, b"id-1"),)

    assert describe(far, None, str(own[0][0]), "id-1") == Source(*own)
    # A header that is for nobody leaves the connection its peer's.
    assert describe(far, Source(), str(own[0][0]), "id-1") == Source(*own)
    came = attrs.evolve(SOURCE, tlvs=((UNIQUE_ID, b"0"), (0xE0, b"x")))
    told = attrs.evolve(SOURCE, tlvs=((UNIQUE_ID, b"id-1"), (0xE0, b"x")))
    assert describe(far, came, "192.0.2.7:5555", "id-1") == told
    assert describe(far, None, GONE, "id-1").ends is None
    near.close()
    far.close()


async def test_what_a_node_is_told_of_tls(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    near, far = map(SocketTransport, tcp_pair())
    client = trio.SSLStream(near, client_tls, server_hostname="localhost")
    record = Record(id="1", client="c")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            transport = await shake_hands(
                far, ServerTls(server_tls), record, trio.current_time() + LIMIT, Handshakes(1, 1)
            )
    assert transport is not None
    told = describe(transport, attrs.evolve(SOURCE, tlvs=((SSL, b"theirs"),)), "c:1", "id-1")

    assert told.over_tls
    assert dict(told.tlvs).keys() == {AUTHORITY, UNIQUE_ID, SSL}
    assert dict(told.tlvs)[AUTHORITY] == b"localhost"
    assert b"TLSv1.3" in dict(told.tlvs)[SSL]
    near.close()
    far.close()


async def test_what_a_node_is_told_of_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as near:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        near.connect(str(tmp_path / "s"))
        far = SocketTransport(listener.accept()[0])

        told = describe(far, None, "unix:", "id-1")
        assert told.ends == (Address(), Address(path=str(tmp_path / "s")))
        far.close()


@pytest.mark.parametrize(
    ("client", "host"),
    [("192.0.2.7:5", "192.0.2.7"), ("[::1]:5", "::1"), ("unix:", "unix"), (GONE, "gone")],
)
def test_host_of(client: str, host: str) -> None:
    assert host_of(client) == host
