"""A client's HTTP over memory streams: requests, their bodies, answers, and what comes early."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import (
    BadRequest,
    ClientGone,
    Denied,
    Full,
    HeadTooLarge,
    NoRoute,
    NotImplementedCoding,
    Refusal,
    WrongVersion,
)
from proxy.io.client_http import ClientHttp
from proxy.wire.headers import HeadLimits
from proxy.wire.refusal import REASONS

LIMITS = HeadLimits(head_bytes=1024, target_bytes=256, headers=20)
GET = b"GET /a?b HTTP/1.1\r\nHost: example.org\r\nX-Case: Kept\r\n\r\n"


def client() -> tuple[trio.testing.MemorySendStream, ClientHttp, trio.abc.Stream]:
    """Return what to send with, the side under test, and the stream to read answers from."""
    peer, stream = trio.testing.memory_stream_pair()
    return peer.send_stream, ClientHttp(stream, LIMITS), peer


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_reads_a_request_however_it_is_cut(size: int) -> None:
    send, http, _ = client()
    for start in range(0, len(GET), size):
        await send.send_all(GET[start : start + size])
    request = await http.read_request()

    assert request is not None
    assert (request.method, request.target) == (b"GET", b"/a?b")
    assert request.headers == [(b"Host", b"example.org"), (b"X-Case", b"Kept")]
    assert await http.read_body() == b""


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", BadRequest),
        (b"GET / HTTP/1.1\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadRequest),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
        (b"GET /\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", NotImplementedCoding),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1024, HeadTooLarge),
    ],
)
async def test_malformed_requests(data: bytes, error: type[Refusal]) -> None:
    send, http, _ = client()
    await send.send_all(data)
    with pytest.raises(error) as caught:
        await http.read_request()

    assert b"example" not in caught.value.detail.encode()


async def test_errors_do_not_quote_the_request() -> None:
    send, http, _ = client()
    await send.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\x01\r\n\r\n")
    with pytest.raises(BadRequest) as caught:
        await http.read_request()

    assert "secret" not in caught.value.detail


async def test_client_that_hangs_up_before_a_request() -> None:
    send, http, _ = client()
    await send.aclose()

    assert not await http.wait_request()


async def test_an_empty_line_is_no_beginning_of_a_request() -> None:
    send, http, _ = client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.wait_request)
        await send.send_all(b"\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not http.has_begun
        await send.send_all(b"\r\n" + GET)

    assert (await http.read_request()).target == b"/a?b"


async def test_client_that_hangs_up_within_a_head() -> None:
    send, http, _ = client()
    await send.send_all(GET[:10])
    await send.aclose()
    assert await http.wait_request()
    with pytest.raises(ClientGone):
        await http.read_request()


@pytest.mark.parametrize(
    "data",
    [
        b"HEAD / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    ],
)
async def test_malformed_head_requests_are_refused(data: bytes) -> None:
    send, http, peer = client()
    await send.send_all(data)
    with pytest.raises(BadRequest) as caught:
        await http.read_request()
    await http.refuse(caught.value, "id")

    assert (await peer.receive_some()).startswith(b"HTTP/1.1 400 ")


async def test_refusal_behind_a_head_request_has_a_body() -> None:
    send, http, peer = client()
    await send.send_all(GET.replace(b"GET", b"HEAD") + b"GET / HTTP/1.1\r\n\r\n")
    await http.read_request()
    await http.refuse(NoRoute(), "id")
    assert http.next_request()
    await peer.receive_some()
    with pytest.raises(BadRequest) as caught:
        await http.read_request()
    await http.refuse(caught.value, "id")
    await http.stream.aclose()
    answer = b""
    while data := await peer.receive_some():
        answer += data

    assert answer.endswith(b" (id)\n")


async def test_body_pieces_and_the_request_behind_it() -> None:
    send, http, _ = client()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await send.send_all(head + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n" + GET)
    assert await http.read_request() is not None
    body = b""
    while piece := await http.read_body():
        body += piece
    http.begin(204, b"", [], 0)
    await http.write(b"", last=True)

    assert body == b"abcdefg"
    assert http.next_request()
    request = await http.read_request()
    assert request is not None
    assert request.target == b"/a?b"


async def read_whole_body(http: ClientHttp) -> None:
    while await http.read_body():
        pass


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"3 \nabc\r\n"])
async def test_bad_chunks(chunk: bytes) -> None:
    send, http, _ = client()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await send.send_all(head + chunk + b"0\r\n\r\n")
    await send.aclose()
    assert await http.read_request() is not None
    with pytest.raises(BadRequest):
        await read_whole_body(http)


async def test_body_that_is_cut_short() -> None:
    send, http, _ = client()
    await send.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc")
    await send.aclose()
    assert await http.read_request() is not None
    assert await http.read_body() == b"abc"
    with pytest.raises(ClientGone):
        await http.read_body()


async def test_a_body_that_is_here_is_had_as_a_whole() -> None:
    send, http, _ = client()
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    await send.send_all(post + GET)
    await http.read_request()

    assert http.whole_body(2) is None
    assert http.whole_body(3) == b"abc"
    assert await http.read_body() == b""
    assert http.early_data() == GET


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_other_bodies_are_not(data: bytes) -> None:
    send, http, _ = client()
    await send.send_all(data)
    await http.read_request()

    assert http.whole_body(100) is None


@pytest.mark.parametrize(
    ("request_", "headers", "length", "sent"),
    [
        (GET, [], 3, b"\r\nContent-Length: 3\r\n\r\nabc"),
        (
            GET,
            [(b"content-LENGTH", b"3"), (b"X", b"y")],
            3,
            b"content-LENGTH: 3\r\nX: y\r\n\r\nabc",
        ),
        (GET, [(b"Content-Length", b"003")] * 2, 3, b"OK\r\nContent-Length: 3\r\n\r\nabc"),
        (GET, [], None, b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", [], None, b"OK\r\nConnection: close\r\n\r\nabc"),
        (
            GET.replace(b"GET", b"HEAD"),
            [(b"Content-Length", b"9")],
            0,
            b"Content-Length: 9\r\n\r\n",
        ),
        (
            GET.replace(b"X-Case: Kept", b"Connection: close"),
            [],
            3,
            b"Content-Length: 3\r\nConnection: close\r\n\r\nabc",
        ),
    ],
)
async def test_answers_are_framed(
    request_: bytes, headers: list[tuple[bytes, bytes]], length: int | None, sent: bytes
) -> None:
    send, http, peer = client()
    await send.send_all(request_)
    await http.read_request()
    http.begin(200, b"OK", headers, length)
    await http.write(b"abc", last=True)
    answer = bytes(await peer.receive_some())

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(sent)
    assert http.next_request() is (b"close" not in answer)


async def test_a_head_can_go_first_and_trailers_last() -> None:
    send, http, peer = client()
    await send.send_all(GET)
    await http.read_request()
    http.begin(200, b"OK", [], None)
    await http.write(b"")
    first = bytes(await peer.receive_some())
    await http.write(b"abc")
    assert not http.write_nowait(b"", last=True, trailers=[(b"X-Sum", b"1")])
    await http.flush()

    assert first == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await peer.receive_some() == b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"


REFUSALS = [NoRoute(), Full(retry_after=7), WrongVersion(), BadRequest("why")]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_refusals(refusal: Refusal) -> None:
    send, http, peer = client()
    await send.send_all(GET)
    await http.read_request()
    await http.refuse(refusal, "id-7")
    head, _, body = bytes(await peer.receive_some()).partition(b"\r\n\r\n")
    if not body:
        body = bytes(await peer.receive_some())
    lines = head.split(b"\r\n")

    assert lines[0] == b"HTTP/1.1 %d %s" % (refusal.status, REASONS[refusal.status])
    assert b"Cache-Control: no-store" in lines
    assert b"Proxy-Status: tidegate; error=" + refusal.token.encode() in lines
    assert body == b"%d %s: %s (id-7)\n" % (
        refusal.status,
        REASONS[refusal.status],
        refusal.detail.encode(),
    )
    for name, value in refusal.headers:
        assert name + b": " + value in lines
    assert (b"Connection: close" in lines) is refusal.closes
    assert http.next_request() is not refusal.closes


async def test_refusal_of_a_request_that_cannot_be_read() -> None:
    send, http, peer = client()
    await send.send_all(b"nonsense\r\n\r\n")
    with pytest.raises(BadRequest) as caught:
        await http.read_request()
    await http.refuse(caught.value, "id")

    assert (await peer.receive_some()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert not http.next_request()


async def test_refusal_with_an_unread_body_closes() -> None:
    send, http, peer = client()
    await send.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    await http.read_request()
    await http.refuse(NoRoute(), "id")

    assert b"Connection: close" in await peer.receive_some()
    assert not http.next_request()


async def test_refusal_of_a_head_request_has_no_body() -> None:
    send, http, peer = client()
    await send.send_all(GET.replace(b"GET", b"HEAD"))
    await http.read_request()
    await http.refuse(NoRoute(), "id")
    answer = bytes(await peer.receive_some())

    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: " in answer


@pytest.mark.parametrize(
    ("status", "line"),
    [(401, b"401 Unauthorized"), (302, b"302 Found"), (599, b"599 "), (403, b"403 Forbidden")],
)
async def test_refusal_with_an_answer_of_its_own(status: int, line: bytes) -> None:
    send, http, peer = client()
    await send.send_all(GET)
    await http.read_request()
    await http.refuse(Denied(status=status, headers=[(b"X-Why", b"so")], body=b"{}"), "id")
    answer = bytes(await peer.receive_some())

    assert answer == (
        b"HTTP/1.1 " + line + b"\r\nContent-Length: 2\r\n"
        b"Proxy-Status: tidegate; error=http_request_denied\r\nX-Why: so\r\n\r\n{}"
    )
    assert http.next_request()


async def test_no_second_answer() -> None:
    send, http, peer = client()
    await send.send_all(GET)
    await http.read_request()
    http.begin(200, b"OK", [], 9)
    await http.write(b"")
    await peer.receive_some()
    await http.refuse(BadRequest(), "id")

    await http.stream.aclose()
    assert await peer.receive_some() == b""


async def test_broken_streams_are_a_client_that_is_gone() -> None:
    _, http, peer = client()
    await trio.aclose_forcefully(peer)
    with pytest.raises(ClientGone):
        await http.refuse(NoRoute(), "id")


async def test_nothing_is_sent_after_a_send_that_was_cut_short() -> None:
    send, http, _ = client()
    await send.send_all(GET)
    await http.read_request()
    assert isinstance(http.stream, trio.StapledStream)
    http.stream.send_stream.send_all_hook = trio.sleep_forever
    http.begin(200, b"OK", [], None)
    with trio.move_on_after(0):
        await http.write(b"abc")
    with pytest.raises(ClientGone):
        await http.write(b"", last=True)


async def test_frames_behind_a_handshake_are_kept() -> None:
    send, http, _ = client()
    upgrade = GET.replace(b"X-Case: Kept", b"Connection: upgrade\r\nUpgrade: websocket")
    await send.send_all(upgrade + b"\x82\x80abcd")
    await http.read_request()

    assert http.early_data() == b"\x82\x80abcd"
