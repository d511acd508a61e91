"""Requests that somebody, somewhere, has read in two ways.

Each is sent as it stands, with `BEHIND` after it: whoever ends a request too early, or too late,
loses that one, or finds one that is `HIDDEN` in a body.
"""

from __future__ import annotations

import attrs

#: Stands in bodies: that one must never be served.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h.example\r\n\r\n"
BEHIND = b"GET /behind HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n"
#: What reaches a node: method, target, body.
Request = tuple[bytes, bytes, bytes]
SECOND: Request = (b"GET", b"/behind", b"")
#: It is refused, and nothing behind it is looked at.
REFUSED = None
#: It may be refused or served, as long as everybody reads the same.
EITHER = ()
#: A number that a 64-bit counter takes for 3.
WRAPPED = 2**64 + 3


@attrs.frozen
class Vector:
    """What is sent, and which requests must reach a node (with `BEHIND`, if it goes on)."""

    name: str
    data: bytes
    wanted: tuple[Request, ...] | None


def head(*lines: bytes, method: bytes = b"POST", host: bytes = b"Host: a.example\r\n") -> bytes:
    return method + b" /api HTTP/1.1\r\n" + host + b"".join(b"%b\r\n" % x for x in lines) + b"\r\n"


def _post(body: bytes) -> tuple[Request, ...]:
    return ((b"POST", b"/api", body), SECOND)


CHUNKED = b"Transfer-Encoding: chunked"
_ABC = b"3\r\nabc\r\n0\r\n\r\n"


def _lengths() -> list[Vector]:
    """Content-Length that is no plain number, or not alone."""
    bad = [
        *(
            b"+3",
            b"-3",
            b"3 3",
            b"3, 3",
            b"3,4",
            b"0x3",
            b"3.0",
            b"3;",
            b'"3"',
            b"",
            b"\xb2",
            b"three",
        ),
        *(b"3\x00", b"\x0b3", b"1e1", b"3_0", b"%d" % WRAPPED, b"9" * 60, b"-0", b"\xef\xbc\x93"),
    ]
    twice = b"Content-Length: 3\r\n"
    return [
        *(Vector(f"length {x!r}", head(b"Content-Length: " + x) + b"abc", REFUSED) for x in bad),
        Vector("length with blanks", head(b"Content-Length: \t 3 \t ") + b"abc", _post(b"abc")),
        Vector("length with zeros", head(b"Content-Length: 0003") + b"abc", REFUSED),
        Vector("same length twice", head(twice + b"Content-Length: 3") + b"abc", EITHER),
        Vector("two lengths", head(twice + b"Content-Length: 44") + b"abc", REFUSED),
        Vector("two lengths, case", head(twice + b"content-length: 0") + b"abc", REFUSED),
        Vector("blank before colon", head(b"Content-Length : 3") + b"abc", REFUSED),
        Vector("tab before colon", head(b"Content-Length\t: 3") + b"abc", REFUSED),
        Vector("length folded", head(b"Content-Length:\r\n 3") + b"abc", REFUSED),
        Vector("length in a fold", head(b"X: y\r\n Content-Length: 3") + b"abc", REFUSED),
        Vector("length behind LF", head(b"X: y\nContent-Length: 3") + b"abc", REFUSED),
        Vector("length behind CR", head(b"X: y\rContent-Length: 3") + b"abc", REFUSED),
        Vector("length with an underscore", head(b"Content_Length: 3", method=b"GET"), EITHER),
    ]


def _codings() -> list[Vector]:
    """Transfer-Encoding that one side may miss, or not alone."""
    te = b"Transfer-Encoding: "
    bad = [
        *(
            te + b"xchunked",
            te + b"chunkedx",
            te + b"identity",
            te + b"gzip",
            te + b"gzip, chunked",
        ),
        *(
            te + b"chunked, identity",
            te + b"chunked, chunked",
            te + b'"chunked"',
            te + b"chunked;q=1",
        ),
        *(te + b"\x0bchunked", te + b"\x00chunked", te + b"chunked\x00", te + b"chu nked", te),
        *(te + b"chunked\r\n" + te + b"identity", te + b"\r\n chunked", b"X: y\r\n " + CHUNKED),
        *(b"Transfer-Encoding : chunked", b"Transfer-Encoding\x0b: chunked", b" " + CHUNKED),
        *(b"\x00" + CHUNKED, b"X: y\n" + CHUNKED, b"X: y\r" + CHUNKED, CHUNKED + b"\r\n" + CHUNKED),
        *(b"Transfer Encoding: chunked", b"Transfer-Encoding chunked", te + b"chunked, ,"),
    ]
    whole = len(_ABC)
    return [
        *(Vector(f"coding {x!r}", head(x) + _ABC, REFUSED) for x in bad),
        Vector("coding in capitals", head(b"TRANSFER-ENCODING:\tCHUNKED  ") + _ABC, _post(b"abc")),
        Vector("CL.TE", head(b"Content-Length: %d" % whole, CHUNKED) + b"0\r\n\r\nGET /x", REFUSED),
        Vector("TE.CL", head(CHUNKED, b"Content-Length: 3") + _ABC, REFUSED),
        Vector("TE.CL=0", head(CHUNKED, b"Content-Length: 0") + _ABC, REFUSED),
        Vector("TE.TE and CL", head(te + b"x", b"Content-Length: 3") + b"abc", REFUSED),
        Vector("1.0", head(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + _ABC, REFUSED),
        Vector("listed", head(b"Connection: transfer-encoding", CHUNKED) + _ABC, _post(b"abc")),
    ]


def _chunks() -> list[Vector]:
    """Chunks whose size, line ends or trailers are not what they should be."""
    sizes = [
        *(
            b"0x3",
            b"+3",
            b"-3",
            b"3_",
            b"0_3",
            b"g",
            b"",
            b" 3",
            b"3,",
            b"\x003",
            b"3\x00",
            b"3\x0b",
            b"3.0",
        ),
        *(
            b"%x" % WRAPPED,
            b"f" * 40,
            b"3\n",
            b"3\r",
            b"3;a\nb",
            b"3;a\rb",
            b"3;\x00",
            b'3;a="\r\n"',
        ),
    ]
    fine = [b"03", b"3;", b"3;a", b"3;a=b", b'3;a="b;c"', b"3 ;a", b"3 ", b"3\t", b"0" * 30 + b"3"]
    ends = [b"", b"X", b"\n", b"\r", b"\r\r\n", b" \r\n", b"abc", b"\n\r\n", b"\r\n\r\n"]
    last = [
        b"0\n\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\r\r\n\r\n",
        b"0\r\n\r",
        b"-0\r\n\r\n",
        b"0\r\nX\r\n\r\n",
    ]
    trailers = [
        b"X: y\n",
        b"X : y\r\n",
        b"X: y\r\n z\r\n",
        b"X: y\x00\r\n",
        b"X: y\rZ: z\r\n",
        b": y\r\n",
    ]
    unfit = [
        b"Host: x",
        b"Content-Length: 9",
        CHUNKED,
        b"X-Forwarded-For: 1.2.3.4",
        b"Authorization: x",
    ]
    start = head(CHUNKED)
    return [
        *(Vector(f"size {x!r}", start + x + b"\r\nabc\r\n0\r\n\r\n", REFUSED) for x in sizes),
        *(Vector(f"fine size {x!r}", start + x + b"\r\nabc\r\n0\r\n\r\n", EITHER) for x in fine),
        *(
            Vector(f"chunk end {x!r}", start + b"3\r\nabc" + x + b"0\r\n\r\n", REFUSED)
            for x in ends
        ),
        *(Vector(f"last chunk {x!r}", start + b"3\r\nabc\r\n" + x, REFUSED) for x in last),
        *(Vector(f"trailer {x!r}", start + b"0\r\n" + x + b"\r\n", REFUSED) for x in trailers),
        *(Vector(f"trailer {x!r}", start + b"0\r\n" + x + b"\r\n\r\n", EITHER) for x in unfit),
        Vector("trailers", start + b"0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", _post(b"")),
        Vector("endless trailers", start + b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", REFUSED),
        Vector(
            "endless extension", start + b"3;" + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n", REFUSED
        ),
        Vector("LF alone", start.replace(b"\r\n", b"\n") + b"0\n\n", REFUSED),
    ]


def _heads() -> list[Vector]:
    """Request lines and header lines."""
    lines = [
        *(
            b"GET  /api HTTP/1.1",
            b"GET /api  HTTP/1.1",
            b"GET\t/api HTTP/1.1",
            b"GET /api HTTP/1.1 ",
        ),
        *(
            b"GET /api http/1.1",
            b"GET /api HTTP/1.2",
            b"GET /api HTTP/2.0",
            b"GET /api HTTP/0.9",
            b"GET /api",
        ),
        *(
            b"GET /api HTTP/11",
            b"GET /api HTTP/1.10",
            b"GET /api HTTP/1.",
            b" GET /api HTTP/1.1",
            b"GET /a b HTTP/1.1",
        ),
        *(
            b"GET /\xff HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
            b"G(T /api HTTP/1.1",
            b"GET api HTTP/1.1",
        ),
        *(
            b"GET * HTTP/1.1",
            b"GET /api#x HTTP/1.1",
        ),
        *(
            b"GET http://other.example/api HTTP/1.1",
            b"GET http://x@a.example/api HTTP/1.1",
            b"GET /a/../b HTTP/1.1",
        ),
        *(
            b"GET http:/api HTTP/1.1",
            b"GET ftp://a.example/ HTTP/1.1",
            b"GET /%2e%2e/b HTTP/1.1",
            b"PRI * HTTP/2.0",
        ),
    ]
    fields = [
        *(
            b"X Y: 1",
            b"X : 1",
            b": 1",
            b"X",
            b"X\xff: 1",
            b"X\x00: 1",
            b"X: \x00",
            b"X: a\x0bb",
            b"X: a\rb",
            b"X: a\nb",
        ),
        *(
            b"X: a\r\n b",
            b"X: a\r\n\tb",
            b" X: a",
            b"\tX: a",
            b"Host: a.example",
            b"Host: b.example",
            b"hOST: b.example",
        ),
        *(b"X: \x7f", b"X: \x1b[2J", b'"X": a', b"X;: a", b"(X): a", b"X@: a", b"X\r: a"),
    ]
    hosts = [
        b"a b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a\tb",
        b"[a",
        b"a:1:2",
        b"a?b",
        b"a#b",
        b"a\\b",
    ]
    get = (b"GET", b"/api", b"")
    tail = b"\r\nHost: a.example\r\n\r\n"
    one = [b"GET http://a.example/api HTTP/1.1", b"GET HTTP://A.EXAMPLE/api HTTP/1.1"]
    return [
        *(Vector(f"line {x!r}", x + tail, REFUSED) for x in lines),
        *(Vector(f"line {x!r}", x + tail, (get, SECOND)) for x in one),
        *(Vector(f"field {x!r}", head(x, method=b"GET"), REFUSED) for x in fields),
        *(
            Vector(f"host {x!r}", head(method=b"GET", host=b"Host: " + x + b"\r\n"), REFUSED)
            for x in hosts
        ),
        Vector("no host", head(method=b"GET", host=b""), REFUSED),
        Vector("empty host", head(method=b"GET", host=b"Host:\r\n"), EITHER),
        Vector("asterisk", b"OPTIONS * HTTP/1.1" + tail, EITHER),
        Vector("CONNECT", b"CONNECT a.example:443 HTTP/1.1" + tail, (SECOND,)),
        Vector("TRACE", b"TRACE /api HTTP/1.1" + tail, (SECOND,)),
        Vector("0.9", b"GET /api\r\n", REFUSED),
        Vector("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", REFUSED),
        Vector("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", REFUSED),
        Vector("empty lines", b"\r\n\r\n" + head(method=b"GET"), EITHER),
        Vector("LF before", b"\n" + head(method=b"GET"), REFUSED),
        Vector("PROXY", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head(method=b"GET"), REFUSED),
    ]


def _meanings() -> list[Vector]:
    """Well-formed, but somebody gives them another meaning."""
    hidden, size = HIDDEN, len(HIDDEN)
    length = b"Content-Length: %d" % size
    websocket = (b"Connection: Upgrade", b"Upgrade: websocket")
    get = ((b"GET", b"/api", b""), SECOND)
    listed = [
        b"host",
        b"content-length",
        b"authorization",
        b"x-forwarded-for",
        b"close, host",
        b"expect",
    ]
    return [
        *(
            Vector(
                f"hidden behind a {name}",
                line + head(length)[len(b"POST /api HTTP/1.1") :] + hidden,
                EITHER,
            )
            for name, line in (
                ("405", b"TRACE /api HTTP/1.1"),
                ("426", b"POST /deepstream HTTP/1.1"),
            )
        ),
        Vector("hidden in a body", head(length) + hidden, _post(hidden)),
        *(
            Vector(
                f"hidden, {m!r}", head(length, method=m) + hidden, ((m, b"/api", hidden), SECOND)
            )
            for m in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
        ),
        Vector(
            "hidden in a chunk",
            head(CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (size, hidden),
            _post(hidden),
        ),
        *(
            Vector(
                f"listed {x!r}",
                head(b"Connection: " + x, b"Authorization: x", b"Content-Length: 3") + b"abc",
                EITHER,
            )
            for x in listed
        ),
        Vector(
            "closed behind",
            head(b"Connection: close", b"Content-Length: 3") + b"abc",
            ((b"POST", b"/api", b"abc"),),
        ),
        Vector(
            "h2c",
            head(
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABk",
                method=b"GET",
            ),
            get,
        ),
        Vector("foo", head(b"Connection: Upgrade", b"Upgrade: foo", method=b"GET"), get),
        Vector("websocket, no such route", head(*websocket, method=b"GET"), EITHER),
        Vector("websocket, POST", head(*websocket, b"Content-Length: 3") + b"abc", EITHER),
        Vector("websocket with a body", head(*websocket, length, method=b"GET") + hidden, EITHER),
        Vector(
            "expect", head(b"Expect: 100-continue", b"Content-Length: 3") + b"abc", _post(b"abc")
        ),
        Vector("expect nothing", head(b"Expect: 100-continue", method=b"GET"), get),
        *(
            Vector(f"expect {x!r}", head(b"Expect: " + x, b"Content-Length: 3") + b"abc", EITHER)
            for x in (b"100-continue, x", b"200-ok", b"", b"100-Continue")
        ),
        Vector("too large", head(b"Content-Length: 2000000") + b"x" * 2_000_000, REFUSED),
        Vector(
            "too large in chunks",
            head(CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (2_000_000, b"x" * 2_000_000),
            REFUSED,
        ),
        Vector("forged", head(b"X-Forwarded-For: 1.2.3.4", b"X-Request-Id: 1", method=b"GET"), get),
        Vector("forged by CGI's name", head(b"X_Forwarded_For: 1.2.3.4", method=b"GET"), EITHER),
        Vector(
            "1.0 kept",
            head(b"Connection: keep-alive", method=b"GET").replace(b"1.1", b"1.0"),
            EITHER,
        ),
    ]


VECTORS = [*_lengths(), *_codings(), *_chunks(), *_heads(), *_meanings()]
