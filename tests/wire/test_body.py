"""Where bodies end: however they are cut, whatever stands behind them, and what is refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.body import (
    MAX_LINE,
    MAX_TRAILER_LINES,
    Body,
    BodyCutShort,
    BodyError,
    ChunkedBody,
    EndlessBody,
    SizedBody,
    chunk,
    last_chunk,
    request_body,
    response_body,
)
from proxy.wire.head import Request, Response
from proxy.wire.headers import Headers

from .strategies import cuts

BEHIND = b"GET / HTTP/1.1\r\n\r\n"
#: More than any string here that is not one line too many.
PLENTY = b"a" * (MAX_LINE - 4)


def read(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed a body; return its content, and what it has left of what came."""
    content, buffer = b"", b""
    for piece in pieces:
        buffer += piece
        while buffer and not body.done:
            taken, used = body.take(buffer)
            content, buffer = content + taken, buffer[used:]
            if not used:
                break
    return content, buffer


@given(st.binary(max_size=50), st.data())
def test_a_sized_body_however_it_is_cut(content: bytes, data: st.DataObject) -> None:
    body = SizedBody(len(content))
    pieces = data.draw(cuts(content + BEHIND))

    assert read(body, pieces) == (content, BEHIND)
    assert body.done


def test_an_endless_body_ends_with_the_stream() -> None:
    body = EndlessBody()

    assert read(body, [b"abc", b"def"]) == (b"abcdef", b"")
    assert not body.done
    with pytest.raises(BodyCutShort):
        body.end(clean=False)
    body.end()
    assert body.done


@pytest.mark.parametrize("body", [SizedBody(1), ChunkedBody()])
def test_others_are_cut_short_by_it(body: Body) -> None:
    with pytest.raises(BodyError, match="cut short"):
        body.end()


names = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,9}", fullmatch=True)
values = st.from_regex(rb"([!-~]([ -~]{0,9}[!-~])?)?", fullmatch=True)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=4),
    st.lists(st.tuples(names, values), max_size=3),
    st.sampled_from([b"", b" ", b";", b"; a=b", b' ;a="b\tc"', b";\xff"]),
    st.data(),
)
def test_a_chunked_body_however_it_is_cut(
    contents: list[bytes], trailers: Headers, extension: bytes, data: st.DataObject
) -> None:
    chunks = [b"%X%b\r\n%b\r\n" % (len(one), extension, one) for one in contents]
    wire = b"".join(chunks) + last_chunk(trailers)
    body = ChunkedBody()

    assert read(body, data.draw(cuts(wire + BEHIND))) == (b"".join(contents), BEHIND)
    assert body.done
    assert body.trailers == trailers


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=4))
def test_what_is_framed_here_is_read_by_h11(contents: list[bytes]) -> None:
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    conn.receive_data(b"".join(map(chunk, contents)) + last_chunk([(b"X-Sum", b"1")]))
    assert isinstance(conn.next_event(), h11.Request)
    read_by_h11 = b""
    while isinstance(event := conn.next_event(), h11.Data):
        read_by_h11 += event.data

    assert read_by_h11 == b"".join(contents)
    assert isinstance(event, h11.EndOfMessage)
    assert event.headers == [(b"x-sum", b"1")]


@pytest.mark.parametrize("way", ["whole", "bytes"])
@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"x\r\n",
        b"0x3\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3_0\r\n",
        b"\xef\xbc\x93\r\nabc\r\n",
        b"1000000000000000\r\n",
        b"3\nabc\r\n",
        b"3\rabc\r\n",
        b"3\r\r\nabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3;a\x00\r\nabc\r\n",
        b"3 a\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\rd",
        b"3\r\nabc0\r\n\r\n",
        b"3;" + PLENTY + b"aaa\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n: y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: y\x00\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER_LINES + 1) + b"\r\n",
        b"0\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 3 + b"\r\n",
    ],
)
def test_broken_chunks(wire: bytes, way: str) -> None:
    pieces = [wire] if way == "whole" else [wire[i : i + 1] for i in range(len(wire))]
    with pytest.raises(BodyError):
        read(ChunkedBody(), pieces)


@pytest.mark.parametrize("wire", [b"3;" + PLENTY + b"\r\nabc\r\n0\r\n\r\n", b"00\r\n\r\n"])
def test_odd_chunks(wire: bytes) -> None:
    body = ChunkedBody()
    read(body, [wire])

    assert body.done


def test_lines_that_never_end_are_not_waited_for() -> None:
    with pytest.raises(BodyError):
        read(ChunkedBody(), [b"3;" + b"a" * MAX_LINE])


@pytest.mark.parametrize(
    ("headers", "kind", "size"),
    [
        ([], SizedBody, 0),
        ([(b"Content-Length", b"007")], SizedBody, 7),
        ([(b"TRANSFER-ENCODING", b"chunked")], ChunkedBody, None),
    ],
)
def test_bodies_of_requests(headers: Headers, kind: type[Body], size: int | None) -> None:
    body = request_body(Request(b"POST", b"/", headers))

    assert type(body) is kind
    assert getattr(body, "size", None) == size
    assert body.done is (size == 0)


LENGTH = (b"Content-Length", b"7")
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("method", "status", "headers", "kind"),
    [
        (b"GET", 200, [LENGTH], SizedBody),
        (b"GET", 200, [CHUNKED], ChunkedBody),
        (b"GET", 200, [LENGTH, CHUNKED], ChunkedBody),
        (b"GET", 200, [], EndlessBody),
        (b"HEAD", 200, [LENGTH], SizedBody),
        (b"HEAD", 200, [CHUNKED], SizedBody),
        (b"GET", 204, [LENGTH], SizedBody),
        (b"GET", 304, [LENGTH], SizedBody),
        (b"GET", 101, [], SizedBody),
    ],
)
def test_bodies_of_answers(method: bytes, status: int, headers: Headers, kind: type[Body]) -> None:
    body = response_body(method, Response(status, b"", headers))

    assert type(body) is kind
    assert body.done is (method == b"HEAD" or status != 200)
