"""HTTP heads: what is refused before h11 sees it, and what is sent on.

h11 parses; it is liberal where RFC 9112 lets it be (bare LF, folded lines, repeated lengths), and
every such liberty is a way for two parsers to read one message differently.  `check_head` refuses
those from the raw bytes, so that what h11 then understands is all that can be understood.

What goes on to the other side is rebuilt, never copied: hop-by-hop headers and those named by
`Connection` (RFC 9110 section 7.6.1) stay here, and the headers that tell a node about the client
are ours alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import attrs

from proxy.errors import (
    BadRequest,
    HeadTooLarge,
    MethodNotAllowed,
    TargetTooLong,
    VersionNotSupported,
)

Headers = list[tuple[bytes, bytes]]
#: The same where nobody adds to it.
Fields = Sequence[tuple[bytes, bytes]]
#: Headers to be set anew; None: to be left out.
Changes = tuple[tuple[bytes, bytes | None], ...]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
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
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::\d{0,5})?")
_ABSOLUTE = re.compile(rb"(?:http|ws)s?://([^/?#]*)(.*)", re.IGNORECASE)
#: "." and ".." as path segments, also percent-encoded: a node may resolve them, a route does not.
_DOT_SEGMENT = re.compile(rb"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


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
    if _BARE_LF.search(buffer, 0, end if end >= 0 else limits.head_bytes):
        raise BadRequest("A line of the head ends in LF alone.")
    if end >= 0:
        return end + len(_END)
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


def check_request(method: bytes, target: bytes, version: bytes, headers: Headers) -> bytes:
    """Check what h11 made of a head and return the target in origin form (RFC 9112 section 3.2).

    Raises:
        BadRequest, MethodNotAllowed, VersionNotSupported: with the reason.
    """
    if version not in (b"1.1", b"1.0"):
        raise VersionNotSupported
    if method in (b"CONNECT", b"TRACE"):
        raise MethodNotAllowed(
            headers=[(b"Allow", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")]
        )
    if version == b"1.0" and get(headers, b"transfer-encoding") is not None:
        raise BadRequest("HTTP/1.0 has no transfer codings.")
    host = get(headers, b"host")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest("The Host header is not a host.")
    if absolute := _ABSOLUTE.fullmatch(target):
        if host is not None and absolute[1].lower() != host.lower():
            raise BadRequest("The target and the Host header name different hosts.")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if not target.startswith(b"/") or b"#" in target:
        raise BadRequest("The request target is not a path.")
    if _DOT_SEGMENT.search(target.partition(b"?")[0]):
        raise BadRequest("The path has dot segments.")
    return target


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
        b"set-cookie via www-authenticate".split()
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
