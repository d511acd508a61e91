"""HTTP heads: what is refused before h11 sees it, and what is sent on.

`find_head` and `check_head` look at raw bytes, `wire.head` makes a request of them.  Wherever RFC
9112 lets a parser be liberal (bare LF, folded lines, repeated lengths) two of them may read one
message differently, so all of that is refused, with the reason.

What goes on to the other side is rebuilt, never copied: hop-by-hop headers and those named by
`Connection` (RFC 9110 section 7.6.1) stay here, and the headers that tell a node about the client
are ours alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

import attrs

from proxy.config.forwarding import CertificateFact
from proxy.config.headers import HOP_BY_HOP
from proxy.errors import BadRequest, HeadTooLarge, TargetTooLong

from .client_certificate import ClientCertificate, certificate_headers, tells_of_certificates
from .edits import NO_EDITS, Edits
from .forwarded import UNKNOWN, Hop, addresses, elements, is_address
from .proxy_protocol import Source

Headers = list[tuple[bytes, bytes]]
#: The same where nobody adds to it.
Fields = Sequence[tuple[bytes, bytes]]
#: Headers to be set anew; None: to be left out.
Changes = tuple[tuple[bytes, bytes | None], ...]

#: A node believes these, so a client's own never reach it.
CLIENT_FACTS = frozenset(
    b"forwarded proxy true-client-ip x-client-ip x-forwarded x-forwarded-by x-forwarded-for "
    b"x-forwarded-host x-forwarded-port x-forwarded-prefix x-forwarded-proto x-forwarded-scheme "
    b"x-forwarded-server x-forwarded-ssl x-real-ip x-request-id".split()
)
_NOT_FOR_NODES = HOP_BY_HOP | CLIENT_FACTS
_NOT_TO_DISGUISE = _NOT_FOR_NODES | {b"host", b"content-length"}
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


def end_to_end(headers: Headers, dropped: frozenset[bytes] = HOP_BY_HOP) -> Headers:
    """Return the headers without those meant for this hop only (RFC 9110 section 7.6.1).

    `dropped` are the names to leave out besides those that `Connection` lists, in lower case.
    """
    kept = [pair for pair in headers if pair[0].lower() not in dropped]
    listed = tokens(headers, b"connection") if len(kept) < len(headers) else ()
    # Who lists these would have the next one misread where the body ends, or whom it serves; and
    # without Via no loop is found.
    if more := {*listed} - dropped - {b"content-length", b"host", b"via"}:
        kept = [pair for pair in kept if pair[0].lower() not in more]
    return kept


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
    """Return those trailers that may go on, also where `_` and `-` are one."""
    return [
        pair
        for pair in trailers
        if pair[0].lower().replace(b"_", b"-") not in _NOT_IN_TRAILERS
        and not tells_of_certificates(pair[0])
    ]


@attrs.frozen
class Heads:
    """How heads are made: what nodes are told of clients, and what a route changes then."""

    x_forwarded: bool = True
    forwarded: bool = False
    request_id: bool = True
    #: What nodes are told of clients' certificates; with anything, only that is believed.
    certificate: tuple[CertificateFact, ...] = ()
    #: How this process is called in Via, by nodes and by clients; empty: nothing is said.
    via_to_node: bytes = b""
    via_to_client: bytes = b""
    request: Edits = NO_EDITS
    response: Edits = NO_EDITS


@attrs.define
class ClientFacts:
    """Who a client is and what it wanted, as far as that can be believed, and what is told of it.

    `address` is an IP address, or another name for one who has none.
    """

    address: str
    scheme: str
    port: int
    request_id: str
    #: Where it wanted to go, if a trusted peer knows better than the Host header.
    host: str = ""
    #: What nodes are told of the way here; without it, that this is the first hop.
    hops: tuple[Hop, ...] = ()
    version: bytes = b"1.1"
    #: The value of Strict-Transport-Security for it.
    hsts: str = ""
    #: What it has shown, if it was asked.
    certificate: ClientCertificate | None = None
    #: As its route has them, once there is one.
    heads: Heads = Heads()
    #: What a PROXY header says of the connection: few nodes want one, so it is made when asked for.
    source: Callable[[], Source] = Source

    @property
    def node(self) -> str:
        """The address, or "unknown" (RFC 7239 section 6.2)."""
        return self.address if is_address(self.address) else UNKNOWN

    def known_addresses(self) -> bytes:
        """Return who was on the way here, the client first, as far as that is known."""
        if self.hops:
            return addresses(self.hops)
        return self.address.encode() if is_address(self.address) else b""

    def words(self) -> dict[str, str]:
        """Return what the placeholders of a route's headers stand for."""
        return {
            "client": self.node,
            "host": self.host,
            "request_id": self.request_id,
            "scheme": self.scheme,
        }


def _is_disguised(name: bytes) -> bool:
    """Whether a node behind CGI, WSGI or the like would take it for one that is not a client's.

    There `_` and `-` are one.
    """
    return b"_" in name and name.lower().replace(b"_", b"-") in _NOT_TO_DISGUISE


def for_nodes(headers: Headers) -> Headers:
    """Return what of a client's headers may go on, whoever the client is."""
    kept = end_to_end(headers, _NOT_FOR_NODES)
    if b"_" in b"".join([name for name, _ in kept]):
        kept = [pair for pair in kept if not _is_disguised(pair[0])]
    return kept


def request_headers(headers: Headers, facts: ClientFacts, kept: Headers | None = None) -> Headers:
    """Return the headers of a client's request as a node gets them; `kept` may be `for_nodes`'."""
    heads = facts.heads
    if kept is None:
        kept = for_nodes(headers)
    if heads.certificate:
        kept = [pair for pair in kept if not tells_of_certificates(pair[0])]
        kept += certificate_headers(facts.certificate, heads.certificate)
    host = facts.host or (get(headers, b"host") or b"").decode("latin-1")
    if heads.x_forwarded:
        before, behind = _x_forwarded(facts.known_addresses(), facts.scheme, facts.port)
        kept += before
        if host:
            kept.append((b"X-Forwarded-Host", host.encode("latin-1")))
        kept += behind
    if heads.forwarded:
        hops = facts.hops or (Hop(facts.node, facts.scheme, host),)
        kept.append((b"Forwarded", elements(hops)))
    if heads.request_id:
        kept.append((b"X-Request-Id", facts.request_id.encode()))
    if heads.via_to_node:
        kept.append((b"Via", facts.version + b" " + heads.via_to_node))
    return heads.request.apply(kept, facts.words)


@functools.lru_cache(maxsize=1000)
def _x_forwarded(known: bytes, scheme: str, port: int) -> tuple[Headers, Headers]:
    """Return what stands before and behind the host: the same for all of a connection's requests.

    Of a unix socket's peer no address is known: a word would be taken for one.
    """
    before = [(b"X-Forwarded-For", known)] if known else []
    before.append((b"X-Forwarded-Proto", scheme.encode()))
    return before, [(b"X-Forwarded-Port", b"%d" % port)]


def response_headers(
    headers: Headers, facts: ClientFacts, version: bytes = b"1.1", kept: Headers | None = None
) -> Headers:
    """Return the headers of a node's answer, which is of this version, as the client gets them.

    `kept` may be those that `end_to_end` has left.
    """
    if kept is None:
        kept = end_to_end(headers)
    if facts.heads.via_to_client:
        kept.append((b"Via", version + b" " + facts.heads.via_to_client))
    return own_headers(kept, facts)


def interim_headers(headers: Headers, facts: ClientFacts) -> Headers:
    """Return the headers of a node's 1xx as the client gets them: nothing of ours is added."""
    return facts.heads.response.apply(end_to_end(headers), facts.words)


def own_headers(headers: Headers, facts: ClientFacts) -> Headers:
    """Return the headers of an answer that is made here, as the client gets them."""
    if facts.hsts:
        headers = changed(headers, ((b"Strict-Transport-Security", facts.hsts.encode()),))
    return facts.heads.response.apply(headers, facts.words)


def changed(headers: Headers, changes: Changes) -> Headers:
    """Return headers where what is given under a name takes the place of all that stood there."""
    names = {name.lower() for name, _ in changes}
    kept = [pair for pair in headers if pair[0].lower() not in names]
    return kept + [(name, value) for name, value in changes if value is not None]
