"""A WebSocket handshake on its way to a node."""

from __future__ import annotations

import attrs
import h11
import trio

from proxy.errors import NodeUnwilling, ResponseTimeout
from proxy.io.http1 import NodeHttp
from proxy.pool.upstream import Upstream
from proxy.wire.handshake import Upgrade, client_response, node_request
from proxy.wire.headers import ClientFacts

from .reach import Attempt

Answer = h11.Response | h11.InformationalResponse


@attrs.frozen
class Way:
    """A handshake and where it goes; `only` is the address of the one node that may be asked."""

    upgrade: Upgrade
    upstream: Upstream
    only: str | None = None


async def ask_node(
    attempt: Attempt, upgrade: Upgrade, facts: ClientFacts
) -> tuple[NodeHttp, Answer]:
    """Ask one node for the upgrade; return its refusal, or the client's 101.

    Raises:
        NodeError: it cannot be asked, or its answer is none to this, or the next one may be better.
    """
    node = await attempt.dial()
    started = trio.current_time()
    response: Answer | None = None
    with trio.move_on_after(attempt.limit(attempt.service.config.timeouts.upgrade)):
        await node.send(node_request(upgrade, facts))
        response = await node.read_response()
    if response is None:
        raise ResponseTimeout(node.node)
    attempt.record.upgrade_time = trio.current_time() - started
    if response.status_code == 101:
        return node, client_response(upgrade, response.headers.raw_items(), node.node)
    if response.status_code in (502, 503, 504) and attempt.others:
        raise NodeUnwilling(node.node, f"The node answered with {response.status_code}.")
    return node, response
