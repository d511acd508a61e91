"""What is wrong with nodes that were asked."""

from __future__ import annotations

from typing import ClassVar

from .base import Refusal


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

    @property
    def told(self) -> str:
        """No more than what kind of failure it was: names and addresses within are no client's."""
        return self.summary


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
