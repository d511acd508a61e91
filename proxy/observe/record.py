"""The access record: one per request or session, and one for a connection that never asked.

Whoever knows a fact writes it here as it happens; `fields` is what the log, and later the metrics
and the admin view, make of it.  A name means the same everywhere.
"""

from __future__ import annotations

import attrs

from proxy.wire.closing import Ending, Party
from proxy.wire.tunnel import Side, Tunnel


@attrs.define(kw_only=True)
class Record:
    """What happened to one request; times are in seconds, None where there was none."""

    id: str
    #: With the port where it is known; `peer` is who has connected, if that is a trusted proxy.
    client: str
    peer: str = ""
    #: The name that a trusted peer has given to the request, and that its node is told.
    request_id: str = ""
    listener: str = ""
    #: Of the certificate that the client has shown (RFC 4514).
    client_subject: str = ""
    #: The request line's parts as understood; in TCP mode the host is the name that TLS asks for.
    method: str = ""
    host: str = ""
    target: str = ""
    route: str = ""
    upstream: str = ""
    #: The node that answered or was asked last, and how many were asked.
    node: str = ""
    attempts: int = 0
    status: int = 0
    #: The RFC 9209 token of an answer that was made here.
    token: str = ""
    detail: str = ""
    #: Who ended it, and how: a tunnel's ending, or the request's.
    ended_by: Party | None = None
    ending: Ending | None = None
    #: Codes of the Close frames on both legs; 1005 is an empty one.
    close_from_client: int | None = None
    close_to_client: int | None = None
    close_from_node: int | None = None
    close_to_node: int | None = None
    #: What came from the client and from the node, heads left out.
    bytes_from_client: int = 0
    bytes_from_node: int = 0
    messages_from_client: int = 0
    messages_from_node: int = 0
    #: From our last ping that was answered to its pong.
    rtt_client: float | None = None
    rtt_node: float | None = None
    tls_time: float | None = None
    head_time: float | None = None
    #: What the hook on_handshake took.
    hook_time: float | None = None
    dial_time: float | None = None
    #: From the handshake's way to the node that answered, to its answer.
    upgrade_time: float | None = None
    #: How long it waited, with nothing sent, for there to be a node.
    hold_time: float | None = None
    #: A session's from its 101 on; a request's from its first byte on.
    session_time: float | None = None

    @property
    def asked_time(self) -> float:
        """What the node that answered took from dial to answer."""
        return (self.dial_time or 0.0) + (self.upgrade_time or 0.0)

    def take(self, tunnel: Tunnel) -> None:
        """Note what a tunnel knows."""
        client, node = tunnel.legs
        self.ended_by, self.ending = tunnel.ended_by, tunnel.ending
        self.detail = tunnel.detail or self.detail
        self.close_from_client, self.close_to_client = client.received, client.sent
        self.close_from_node, self.close_to_node = node.received, node.sent
        for side in Side:
            scanner = tunnel.scanners[side]
            name = "client" if side is Side.CLIENT else "node"
            setattr(self, f"bytes_from_{name}", scanner.bytes)
            setattr(self, f"messages_from_{name}", scanner.messages)

    def fields(self) -> dict[str, object]:
        """Return what is known, in the order above, times rounded to microseconds."""
        known = {}
        for field in attrs.fields(Record):
            value = getattr(self, field.name)
            if value is None or value == "":
                continue
            known[field.name] = round(value, 6) if isinstance(value, float) else value
        return known
