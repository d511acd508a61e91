"""Answers that are made here before, or without, asking a node."""

from __future__ import annotations

from .base import Refusal


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


class TooManyHops(BadRequest):
    """Not 502: a proxy before this one would hold against it what a client has made up."""

    summary = "The request has come through too many proxies."


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


class PlainHttp(BadRequest):
    """A request in the clear on a port that speaks TLS; `received` is what has come of it."""

    summary = "This port speaks TLS: use https:// or wss://."

    def __init__(self, received: bytes = b"") -> None:
        super().__init__()
        self.received = received


class BadClientHello(Refusal):
    """The first message of a TLS client breaks RFC 8446, or is too long or too late to be read.

    `alert` is what TLS says of it (RFC 8446 section 6.2); 50: it cannot be decoded.
    """

    status = 400
    token = "tls_protocol_error"
    closes = True
    summary = "The ClientHello is malformed."

    def __init__(self, detail: str = "", *, alert: int = 50) -> None:
        super().__init__(detail)
        self.alert = alert


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

    @property
    def is_fault(self) -> bool:
        return self.status >= 400


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


class LoopDetected(Refusal):
    status = 502
    token = "proxy_loop_detected"
    summary = "The request has come through this proxy before."
