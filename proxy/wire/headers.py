"""HTTP heads: what is refused before h11 sees it, and what is sent on.

`find_head` and `check_head` look at raw bytes, `wire.head` makes a request of them.  Wherever RFC
9112 lets a parser be liberal (bare LF, folded lines, repeated lengths) two of them may read one
message differently, so all of that is refused, with the reason.

What goes on to the other side is rebuilt, never copied: hop-by-hop headers and those named by
`Connection` (RFC 9110 section 7.6.1) stay here, and the headers that tell a node about the client
are ours alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import attrs

from proxy.errors import BadRequest, HeadTooLarge, TargetTooLong

from .proxy_protocol import Source

Headers = list[tuple[bytes, bytes]]
#: The same where nobody adds to it.
Fields = Sequence[tuple[bytes, bytes]]
#: Headers to be set anew; None: to be left out.
Changes = tuple[tuple[bytes, bytes | None], ...]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te transfer-encoding upgrade".split()
)
#: A node believes these, so a client's own never reach it.
CLIENT_FACTS = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-real-ip x-request-id".split()
)
_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
#: Control characters, and a CR that ends no line.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_FOLDED = re.compile(rb"\r\n[ \t]")
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*(\d+[ \t]*(?=\r))?", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)


@attrs.frozen
class HeadLimits:
    """The largest request head that is read: bytes in all, bytes of target, number of headers."""

    head_bytes: int
    target_bytes: int
    headers: int


def find_head(buffer: bytes | bytearray, limits: HeadLimits) -> int | None:
    """Return the length of the request head at the start of `buffer`, None if it isn't whole yet.

    Raises:
        BadRequest: as soon as the bytes can no longer become an acceptable head.
    """
    end = buffer.find(_END, 0, limits.head_bytes)
    if end >= 0:
        return end + len(_END)
    if _BARE_LF.search(buffer, 0, limits.head_bytes):
        raise BadRequest("A line of the head ends in LF alone.")
    line_end = buffer.find(b"\r\n")
    if (line_end if line_end >= 0 else len(buffer)) > limits.target_bytes + 32:
        raise TargetTooLong
    if len(buffer) >= limits.head_bytes:
        raise HeadTooLarge
    if buffer and buffer[0] < 0x21:
        raise BadRequest("This is not HTTP; if it is TLS, it came to a plain port.")
    return None


def check_head(head: bytes, limits: HeadLimits) -> None:
    """Refuse a whole request head that two parsers could read differently.

    Raises:
        BadRequest: with the reason.
    """
    if _BARE_LF.search(head):
        raise BadRequest("A line of the head ends in LF alone.")
    if _CONTROL.search(head):
        raise BadRequest("The head holds a control character.")
    if _FOLDED.search(head):
        raise BadRequest("A header line is folded.")
    lengths = _LENGTH.findall(head)
    codings = len(_CODING.findall(head))
    if len(lengths) + codings > 1:
        raise BadRequest("The head gives more than one length for the body.")
    if lengths == [b""]:
        raise BadRequest("Content-Length is not a number.")
    if head.count(b"\r\n") - 2 > limits.headers:
        raise HeadTooLarge("The request has too many headers.")
    line = head[: head.index(b"\r\n")].split(b" ")
    if len(line) == 3 and len(line[1]) > limits.target_bytes:
        raise TargetTooLong


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of the first header called `name` (in lower case)."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the members of every comma-separated list under `name`, in lower case and order."""
    return [
        token
        for key, value in headers
        if key.lower() == name
        for part in value.lower().split(b",")
        if (token := part.strip())
    ]


def end_to_end(headers: Headers) -> Headers:
    """Return the headers without those meant for this hop only (RFC 9110 section 7.6.1)."""
    dropped = HOP_BY_HOP.union(tokens(headers, b"connection"))
    # Who lists these would have the next one misread where the body ends, or whom it serves.
    dropped -= {b"content-length", b"host"}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


#: What has to be known before a body is read, or whom and for what it is for: in a trailer it is
#: too late, and who merges it all the same is deceived (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS = (
    HOP_BY_HOP
    | CLIENT_FACTS
    | frozenset(
        b"authorization cache-control content-encoding content-length content-range content-type "
        b"cookie expect host if-match if-modified-since if-none-match if-range "
        b"if-unmodified-since max-forwards proxy-authenticate proxy-authorization range "
        b"set-cookie trailer via www-authenticate".split()
    )
)


def trailers_to_send(trailers: Fields) -> Headers:
    """Return those trailers that may go on."""
    return [pair for pair in trailers if pair[0].lower() not in _NOT_IN_TRAILERS]


@attrs.frozen
class ClientFacts:
    """What a node is told of the client."""

    address: str
    scheme: str
    port: int
    request_id: str
    #: What a PROXY header says of the connection: few nodes want one, so it is made when asked for.
    source: Callable[[], Source] = Source


def request_headers(headers: Headers, facts: ClientFacts) -> Headers:
    """Return the headers of a client's request as a node gets them."""
    host = get(headers, b"host") or b""
    kept = [pair for pair in end_to_end(headers) if pair[0].lower() not in CLIENT_FACTS]
    return [
        *kept,
        # One address: deepstream takes the whole value for the client's address, verbatim.
        (b"X-Forwarded-For", facts.address.encode()),
        (b"X-Forwarded-Proto", facts.scheme.encode()),
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Port", b"%d" % facts.port),
        (b"X-Request-Id", facts.request_id.encode()),
    ]


def changed(headers: Headers, changes: Changes) -> Headers:
    """Return headers where what is given under a name takes the place of all that stood there."""
    names = {name.lower() for name, _ in changes}
    kept = [pair for pair in headers if pair[0].lower() not in names]
    return kept + [(name, value) for name, value in changes if value is not None]
