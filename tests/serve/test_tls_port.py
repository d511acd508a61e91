"""What comes to a port that speaks TLS: to a whole proxy, on real sockets."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from proxy import Record, Server, open_proxy, parse_config
from proxy.wire.alert import Alert, alert_record

LIMIT = 10.0
CONFIG = """
[timeouts]
handshake = {handshake}
linger = 5.0
[limits]
handshakes = {handshakes}
[[listeners]]
name = "public"
bind = "127.0.0.1:0"
mode = "{mode}"
tls = {{ certificates = [ {{ cert_file = "cert.pem", key_file = "key.pem" }} ] }}
{hsts}
[[routes]]
{route}
[upstreams.nodes]
nodes = [ "127.0.0.1:1" ]
"""
HTTP = 'prefix = "/"\nrespond = { body = "hello" }'
TCP = 'listener = "public"\nupstream = "nodes"'


@attrs.frozen
class Port:
    """A proxy's port that speaks TLS, and what it has recorded."""

    server: Server
    records: list[Record]
    folder: Path

    async def open(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.server.address().port)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send, in one segment each, and return what comes until the proxy has hung up."""
        async with await self.open() as stream:
            for piece in pieces:
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            received = b""
            # A reset would be an error.
            async for data in stream:
                received += data
        return received

    async def shake_hands(
        self, context: ssl.SSLContext, cut: Callable[[bytes], list[bytes]]
    ) -> ssl.SSLObject:
        """Shake hands with each flight cut into segments, and get "/"."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        async with await self.open() as stream:

            async def send() -> None:
                for piece in cut(outgoing.read()):
                    await stream.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()

            async def until_done(step: Callable[[], object]) -> object:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        await send()
                        incoming.write(await stream.receive_some())

            await until_done(tls.do_handshake)
            tls.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await send()
            answer = await until_done(tls.read)
        assert isinstance(answer, bytes)
        assert answer.startswith(b"HTTP/1.1 200 ")
        return tls


@asynccontextmanager
async def open_port(
    folder: Path,
    ca: trustme.CA,
    *,
    mode: str = "http",
    handshake: float = LIMIT,
    handshakes: int = 1000,
    hsts: str = "",
) -> AsyncIterator[Port]:
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    text = CONFIG.format(
        mode=mode,
        handshake=handshake,
        handshakes=handshakes,
        hsts=hsts,
        route=HTTP if mode == "http" else TCP,
    )
    records: list[Record] = []
    with trio.fail_after(LIMIT):
        config = parse_config(text, folder=folder)
        async with open_proxy(config, on_record=records.append) as server:
            yield Port(server, records, folder)


def pieces(size: int) -> Callable[[bytes], list[bytes]]:
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


REQUEST = b"GET /x?y HTTP/1.1\r\nHost: rt.example\r\n\r\n"


@pytest.mark.parametrize("size", [1, 100])
async def test_http_in_the_clear_is_told_so(size: int, tmp_path: Path, ca: trustme.CA) -> None:
    """By a 400 that it can read: nothing of it is a reset, though more has come than was read."""
    more = b"POST /2 HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    async with open_port(tmp_path, ca, hsts="hsts = { max_age = 1000 }") as port:
        answer = await port.ask(*pieces(size)(REQUEST), more)

    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    (record,) = port.records
    assert status == "HTTP/1.1 400 Bad Request"
    assert body == (
        f"400 Bad Request: This port speaks TLS: use https:// or wss://. ({record.id})\n".encode()
    )
    assert "Proxy-Status: tidegate; error=http_request_error" in headers
    assert "Connection: close" in headers
    assert not any(line.startswith("Strict-Transport-Security") for line in headers)
    assert (record.status, record.token, record.target) == (400, "http_request_error", "/x?y")
    assert record.detail == "This port speaks TLS: use https:// or wss://."
    assert record.tls_time is None


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"HEAD / HTTP/1.1", 400), (b"PRI * HTTP/2.0", 505), (b"EHLO mail.example", 400)],
)
async def test_what_looks_like_http(
    request_line: bytes, status: int, tmp_path: Path, ca: trustme.CA
) -> None:
    async with open_port(tmp_path, ca) as port:
        answer = await port.ask(request_line + b"\r\nHost: x\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert port.records[0].status == status


async def test_http_in_the_clear_has_the_same_time(tmp_path: Path, ca: trustme.CA) -> None:
    async with open_port(tmp_path, ca, handshake=0.1) as port:
        answer = await port.ask(b"GET / HT")

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_in_tcp_mode_it_is_refused_and_recorded(tmp_path: Path, ca: trustme.CA) -> None:
    """What is spoken there is not known to be HTTP: there is nobody to answer it."""
    async with open_port(tmp_path, ca, mode="tcp") as port, await port.open() as stream:
        await stream.send_all(REQUEST)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

    (record,) = port.records
    assert (record.token, record.ended_by) == ("http_request_error", "proxy")
    assert record.detail == "This port speaks TLS: use https:// or wss://."


@pytest.mark.parametrize(
    ("sent", "alert", "reason"),
    [
        (b"\x10\x0c\0\x04MQTT", Alert.PROTOCOL_VERSION, "It begins with 0x100c00044d515454."),
        (b"\0" * 50_000, Alert.PROTOCOL_VERSION, f"It begins with 0x{'00' * 16}."),
        (b"SSH-2.0-x\r\n", Alert.PROTOCOL_VERSION, "It begins with SSH."),
        (
            b"\x80\x2e\x01\x03\x01\0\x15",
            Alert.PROTOCOL_VERSION,
            "It begins with a ClientHello in the format of SSL 2.",
        ),
        (
            b"\x16\x03\x01\0\x09\x01\0\0\x05" + bytes(5),
            Alert.DECODE_ERROR,
            "The ClientHello ends within a field.",
        ),
        (
            b"\x16\x03\x01\x40\0\x01\0\xff\xff" + bytes(20_000),
            Alert.ILLEGAL_PARAMETER,
            "The ClientHello is longer than 16384 bytes.",
        ),
    ],
)
async def test_what_is_no_handshake_gets_an_alert(
    sent: bytes, alert: Alert, reason: str, tmp_path: Path, ca: trustme.CA
) -> None:
    async with open_port(tmp_path, ca) as port:
        assert await port.ask(sent) == alert_record(alert)

    (record,) = port.records
    assert record.token == "tls_protocol_error"
    assert record.detail == f"The TLS handshake failed: {reason}"


async def test_what_openssl_refuses_gets_its_alert(tmp_path: Path, ca: trustme.CA) -> None:
    context = ssl.create_default_context()
    # Of keys that the certificate does not have.
    context.set_ciphers("AES128-SHA")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_port(tmp_path, ca) as port:
        with pytest.raises(ssl.SSLError, match="alert handshake failure"):
            await port.shake_hands(context, pieces(1000))

    assert "no shared cipher" in port.records[0].detail


def with_small_records(flight: bytes) -> list[bytes]:
    """Cut the records of a flight into ones of 100 bytes, as far as they are in the clear."""
    cut, at = b"", 0
    while at < len(flight):
        size = int.from_bytes(flight[at + 3 : at + 5], "big")
        step = 100 if flight[at] == 22 else size
        payload = flight[at + 5 : at + 5 + size]
        for part in pieces(step)(payload):
            cut += flight[at : at + 3] + len(part).to_bytes(2, "big") + part
        at += 5 + size
    return [cut]


@pytest.mark.parametrize("cut", [pieces(1), pieces(200), with_small_records])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_hello_in_whatever_pieces(
    version: ssl.TLSVersion, cut: Callable[[bytes], list[bytes]], tmp_path: Path, ca: trustme.CA
) -> None:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    if version is ssl.TLSVersion.TLSv1_2 and cut is with_small_records:
        # Its Finished is of the same type, and is encrypted: it cannot be cut.
        flights = itertools.chain([cut], itertools.repeat(pieces(1000)))
        async with open_port(tmp_path, ca) as port:
            tls = await port.shake_hands(context, lambda data: next(flights)(data))
    else:
        async with open_port(tmp_path, ca) as port:
            tls = await port.shake_hands(context, cut)

    assert tls.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("goodbye", [True, False])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /deepstream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501),
    ],
)
async def test_how_a_connection_ends(
    request_head: bytes,
    status: int,
    version: ssl.TLSVersion,
    goodbye: bool,
    tmp_path: Path,
    ca: trustme.CA,
    exact_tls: ssl.SSLContext,
) -> None:
    """We say close_notify whatever the answer is; a client need not, HTTP shows where it ends."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.options = exact_tls.options
    context.minimum_version = context.maximum_version = version
    async with open_port(tmp_path, ca) as port, await port.open() as stream:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await stream.send_all(outgoing.read())
                incoming.write(await stream.receive_some())
        tls.write(request_head)
        if goodbye:
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
        await stream.send_all(outgoing.read())
        await stream.send_eof()
        async for data in stream:
            incoming.write(data)
        incoming.write_eof()

        assert tls.read(10_000).startswith(b"HTTP/1.1 %d " % status)
        # Where ours was not the first one, Python raises; a bare end would be an SSLEOFError.
        with suppress(ssl.SSLZeroReturnError):
            assert tls.read(1) == b""

    assert [record.status for record in port.records] == [status]


async def test_slow_handshakes_end_in_time(tmp_path: Path, ca: trustme.CA) -> None:
    """One that is silent, one that stops within its hello, one that stops when it has its answer.

    A byte now and then wins nothing: the deadline is that of the whole.
    """
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), out := ssl.MemoryBIO(), server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = out.read()

    async def drip(port: Port, data: bytes) -> None:
        async with await port.open() as stream:
            with suppress(trio.BrokenResourceError):
                for byte in data:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.01)

    async with open_port(tmp_path, ca, handshake=0.3) as port:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.ask)
            nursery.start_soon(drip, port, hello[:-1])
            nursery.start_soon(port.ask, hello)
        assert len(port.records) == 3
        assert len(port.server.service.handshakes) == 0

    late = "The TLS handshake was not complete in time."
    assert [record.detail for record in port.records] == [late] * 3


async def test_of_too_many_unfinished_handshakes_the_oldest_goes(
    tmp_path: Path, ca: trustme.CA
) -> None:
    """Clients that hold their places keep nobody out who means it."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with open_port(tmp_path, ca, handshakes=5) as port:
        slow = []
        for _ in range(5):
            slow.append(await port.open())
            await slow[-1].send_all(b"\x16\x03\x01")
            await trio.testing.wait_all_tasks_blocked()
        for gone in range(3):
            await port.shake_hands(context, pieces(1000))
            assert await slow[gone].receive_some() == b""
            await slow[gone].aclose()
            slow[gone] = await port.open()
            await trio.testing.wait_all_tasks_blocked()
        for stream in slow:
            await stream.aclose()

    given_up = [record for record in port.records if "given up" in record.detail]
    assert len(given_up) >= 3


@pytest.mark.parametrize("requests", [1, 2])
async def test_a_client_that_says_goodbye_with_its_request_is_answered_and_left(
    requests: int, tmp_path: Path, ca: trustme.CA
) -> None:
    """It waits for us to close, and that not for `timeouts.keepalive`."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with open_port(tmp_path, ca) as port, await port.open() as stream:

        async def read(step: Callable[[], object]) -> object:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    await stream.send_all(outgoing.read())
                    incoming.write(await stream.receive_some())

        await read(tls.do_handshake)
        for last in [False, True][-requests:]:
            tls.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if last:
                with suppress(ssl.SSLWantReadError):
                    tls.unwrap()
            answer = await read(tls.read)
            assert isinstance(answer, bytes)
            assert answer.endswith(b"hello")
        while await stream.receive_some():
            pass
        assert len(port.records) == requests
