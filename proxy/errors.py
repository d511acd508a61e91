"""Everything that goes wrong here by design, and what the client is told about it.

Each error knows its answer: the HTTP status while nothing has been answered yet, and the token of
RFC 9209 section 2.3 that stands in `Proxy-Status`, in the access record and in the metrics.  One
`except Refusal` per connection therefore answers all of them.

    TidegateError
     +-- ConfigError                      a configuration file, never a connection
     +-- NotRunning                       a proxy that is asked to reload, never a connection
     +-- ClientGone                       nobody is left to answer
     +-- Refusal                          one answer, made here
          +-- BadRequest        400       malformed, or readable in two ways
          |    +-- RequestTimeout         408
          |    +-- BodyTooLarge           413
          |    +-- TargetTooLong          414
          |    +-- HeadTooLarge           431
          |    +-- NotImplementedCoding   501
          |    +-- VersionNotSupported    505
          +-- BadUpgrade        400       a WebSocket handshake that breaks RFC 6455
          |    +-- WrongVersion           426
          +-- OriginDenied      403
          +-- AddressDenied     403
          +-- Denied            403       by a hook, which has made the answer
          +-- RouteAnswer       200       as its route says: a redirect, or a fixed response
          +-- NoRoute           404
          +-- MethodNotAllowed  405
          +-- UpgradeRequired   426       a plain request on a WebSocket route
          +-- NotNow            503       we chose not to serve
          |    +-- Draining, Full, HoldFull, RouteFull
          |    +-- TooMany        429     of this client address
          +-- NoNode            500       nobody to ask
          +-- InternalError     500       a bug here
          +-- NodeError         502       a node was asked and is broken
               +-- DialError              nothing was sent: the next node may be asked
               |    +-- DialRefused, DialTimeout, NodeTlsError, DnsError
               +-- ClosedEarly            no response byte: the next node may be asked
               +-- NodeUnwilling          it answered the upgrade with 502, 503 or 504
               +-- BadResponse            garbage, truncated or oversized
               +-- BadUpgradeResponse     a 101 that does not answer this handshake
               +-- ResponseTimeout   504  a node was asked and is slow
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

Headers = Sequence[tuple[bytes, bytes]]


class TidegateError(Exception):
    """The root of the tree."""


class ConfigError(TidegateError):
    """A configuration that cannot be served.

    `problems` holds every fault of the file, each as `file: path.to.key: reason`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class NotRunning(TidegateError):
    """The proxy has not started yet, or is shutting down."""


class ClientGone(TidegateError):
    """The client hung up, or stopped reading, while it was being served."""


class Refusal(TidegateError):
    """A request that is answered by the proxy itself.

    `detail` is one sentence for the operator and, in the body, for the client; it never holds
    anything secret.  `body` is the answer's; None: one that tells the detail.
    """

    status: int = 500
    #: RFC 9209 section 2.3, the `error` parameter.
    token: ClassVar[str] = "proxy_internal_error"
    #: Whether this connection can carry another request after the answer.
    closes: ClassVar[bool] = False
    summary: ClassVar[str] = "The proxy could not serve this request."

    def __init__(
        self,
        detail: str = "",
        *,
        status: int = 0,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> None:
        super().__init__(detail or self.summary)
        self.status = status or self.status
        self.headers = tuple(headers)
        self.body = body

    @property
    def detail(self) -> str:
        return str(self)


class BadRequest(Refusal):
    """The request cannot be understood in one way only; the connection ends with it."""

    status = 400
    token = "http_request_error"
    closes = True
    summary = "The request is malformed."


class RequestTimeout(BadRequest):
    status = 408
    summary = "The request was not complete in time."


class BodyTooLarge(BadRequest):
    status = 413
    summary = "The request body is too large."


class TargetTooLong(BadRequest):
    status = 414
    summary = "The request target is too long."


class HeadTooLarge(BadRequest):
    status = 431
    summary = "The request head is too large."


class NotImplementedCoding(BadRequest):
    status = 501
    summary = "The transfer coding is not supported; chunked is."


class VersionNotSupported(BadRequest):
    status = 505
    summary = "The HTTP version is not supported; HTTP/1.1 is."


class BadUpgrade(Refusal):
    """A WebSocket handshake that breaks RFC 6455 section 4.2.1."""

    status = 400
    token = "http_request_error"
    summary = "The WebSocket handshake is malformed."


class WrongVersion(BadUpgrade):
    status = 426
    summary = "Only version 13 of the WebSocket protocol is supported."

    def __init__(self) -> None:
        super().__init__(headers=[(b"Sec-WebSocket-Version", b"13")])


class OriginDenied(Refusal):
    status = 403
    token = "http_request_denied"
    summary = "This origin is not allowed here."


class AddressDenied(Refusal):
    status = 403
    token = "http_request_denied"
    summary = "This address is not allowed here."


class Denied(Refusal):
    """A hook of the embedding program refuses the handshake, with an answer of its own."""

    status = 403
    token = "http_request_denied"
    summary = "A hook has refused the handshake."


class RouteAnswer(Refusal):
    """The route has no upstream, but a redirect or a fixed response."""

    status = 200
    token = "proxy_internal_response"
    summary = "That is what this route answers."


class NoRoute(Refusal):
    status = 404
    token = "destination_not_found"
    summary = "No route matches this host and path."


class MethodNotAllowed(Refusal):
    status = 405
    token = "http_request_denied"
    summary = "This method is not allowed."


class UpgradeRequired(Refusal):
    status = 426
    token = "http_request_error"
    summary = "This path speaks WebSocket only."

    def __init__(self) -> None:
        super().__init__(headers=[(b"Upgrade", b"websocket")])


class NotNow(Refusal):
    """We chose not to serve; `retry_after` seconds later we may."""

    status = 503
    token = "connection_limit_reached"
    summary = "The proxy serves no more at the moment."

    def __init__(self, detail: str = "", *, retry_after: int = 5) -> None:
        super().__init__(detail, headers=[(b"Retry-After", b"%d" % retry_after)])


class Draining(NotNow):
    token = "proxy_internal_response"
    closes = True
    summary = "The proxy is shutting down."

    def __init__(self) -> None:
        super().__init__(retry_after=1)


class Full(NotNow):
    closes = True
    summary = "The proxy has reached its connection limit."


class HoldFull(NotNow):
    """There is no node, and as many wait for one as may."""

    summary = "Too many requests wait for a node already."


class RouteFull(NotNow):
    summary = "This route has reached its limit of sessions."


class TooMany(NotNow):
    """One client address has, or asks for, more sessions than the route allows."""

    status = 429
    summary = "Too many sessions for this address."


class NoNode(Refusal):
    """No node of the upstream may be asked, however long the request has waited."""

    token = "destination_unavailable"
    summary = "No node is available."

    def __init__(self, upstream: str, *, status: int = 500, retry_after: int = 1) -> None:
        super().__init__(status=status, headers=[(b"Retry-After", b"%d" % retry_after)])
        self.upstream = upstream


class InternalError(Refusal):
    """A bug here; the traceback is in the log."""

    closes = True
    summary = "The proxy made a mistake; it is in its log."


class NodeError(Refusal):
    """A node was asked and failed; `node` is its address."""

    status = 502
    token = "connection_terminated"
    #: Whether the next node may be asked: nothing of an answer has been seen.
    retry: ClassVar[bool] = False
    #: Whether the failure speaks against the node, so that it rests for a while.
    counts: ClassVar[bool] = True
    summary = "The node failed."

    def __init__(self, node: str, detail: str = "") -> None:
        super().__init__(detail)
        self.node = node


class DialError(NodeError):
    """The node cannot be reached."""

    retry = True
    token = "destination_ip_unroutable"
    summary = "The node cannot be reached."


class DialRefused(DialError):
    token = "connection_refused"
    summary = "The node refused the connection."


class DialTimeout(DialError):
    token = "connection_timeout"
    summary = "The node did not accept the connection in time."


class NodeTlsError(DialError):
    token = "tls_protocol_error"
    summary = "TLS to the node failed."


class DnsError(DialError):
    token = "dns_error"
    summary = "The node's name cannot be resolved."


class ClosedEarly(NodeError):
    """The node closed before a response byte.

    deepstream does just that for a path it does not know, so this never speaks against a node by
    itself: one client's wrong URL must not take a node away from all others.
    """

    retry = True
    counts = False
    summary = "The node closed the connection before it answered."


class NodeUnwilling(NodeError):
    retry = True
    token = "http_upgrade_failed"
    summary = "The node answered the upgrade with an error."


class BadResponse(NodeError):
    token = "http_protocol_error"
    summary = "The node's answer is not HTTP/1.1."


class BadUpgradeResponse(NodeError):
    token = "http_upgrade_failed"
    summary = "The node's 101 does not answer this handshake."


class ResponseTimeout(NodeError):
    status = 504
    token = "http_response_timeout"
    summary = "The node did not answer in time."
