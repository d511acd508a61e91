"""Everything that goes wrong here by design, and what the client is told about it.

Each error knows its answer: the HTTP status while nothing has been answered yet, and the token of
RFC 9209 section 2.3 that stands in `Proxy-Status`, in the access record and in the metrics.  One
`except Refusal` per connection therefore answers all of them.

    TidegateError
     +-- ConfigError                      a configuration file, never a connection
     +-- NotRunning                       a proxy that is asked to reload, never a connection
     +-- ClientGone                       nobody is left to answer
     +-- BadProxyHeader                   a connection that says wrongly, or not, whom it is for
     +-- Refusal                          one answer, made here
          +-- BadRequest        400       malformed, or readable in two ways
          |    +-- RequestTimeout         408
          |    +-- BodyTooLarge           413
          |    +-- TargetTooLong          414
          |    +-- HeadTooLarge           431
          |    +-- TooManyHops            400
          |    +-- PlainHttp              400  in the clear, on a port that speaks TLS
          |    +-- NotImplementedCoding   501
          |    +-- VersionNotSupported    505
          +-- BadUpgrade        400       a WebSocket handshake that breaks RFC 6455
          |    +-- WrongVersion           426
          +-- BadClientHello    400       TLS that cannot be read; over TCP, an alert
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
          +-- LoopDetected      502       the request has been here before
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

from .base import BadProxyHeader, ClientGone, ConfigError, NotRunning, Refusal, TidegateError
from .nodes import (
    BadResponse,
    BadUpgradeResponse,
    ClosedEarly,
    DialError,
    DialRefused,
    DialTimeout,
    DnsError,
    NodeError,
    NodeTlsError,
    NodeUnwilling,
    ResponseTimeout,
)
from .refusals import (
    AddressDenied,
    BadClientHello,
    BadRequest,
    BadUpgrade,
    BodyTooLarge,
    Denied,
    Draining,
    Full,
    HeadTooLarge,
    HoldFull,
    InternalError,
    LoopDetected,
    MethodNotAllowed,
    NoNode,
    NoRoute,
    NotImplementedCoding,
    NotNow,
    OriginDenied,
    PlainHttp,
    RequestTimeout,
    RouteAnswer,
    RouteFull,
    TargetTooLong,
    TooMany,
    TooManyHops,
    UpgradeRequired,
    VersionNotSupported,
    WrongVersion,
)

__all__ = [
    "AddressDenied",
    "BadClientHello",
    "BadProxyHeader",
    "BadRequest",
    "BadResponse",
    "BadUpgrade",
    "BadUpgradeResponse",
    "BodyTooLarge",
    "ClientGone",
    "ClosedEarly",
    "ConfigError",
    "Denied",
    "DialError",
    "DialRefused",
    "DialTimeout",
    "DnsError",
    "Draining",
    "Full",
    "HeadTooLarge",
    "HoldFull",
    "InternalError",
    "LoopDetected",
    "MethodNotAllowed",
    "NoNode",
    "NoRoute",
    "NodeError",
    "NodeTlsError",
    "NodeUnwilling",
    "NotImplementedCoding",
    "NotNow",
    "NotRunning",
    "OriginDenied",
    "PlainHttp",
    "Refusal",
    "RequestTimeout",
    "ResponseTimeout",
    "RouteAnswer",
    "RouteFull",
    "TargetTooLong",
    "TidegateError",
    "TooMany",
    "TooManyHops",
    "UpgradeRequired",
    "VersionNotSupported",
    "WrongVersion",
]
