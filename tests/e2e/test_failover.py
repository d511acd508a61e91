"""Nodes die, and the clients hardly notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from .harness import Certificate, Deployment, Node, open_deployment
from .raw import upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# After a loss a client queues what it is asked to do for this long, then reports errors.
CLIENT_PATIENCE = 2.0

# Whoever failed once isn't asked again within the test.
LONG_REST = 'hold = { timeout = 0.0 }\npanic = "refuse"\nrest = { first = 30.0, longest = 30.0 }'
SHORT_REST = "rest = { first = 0.1, longest = 0.1 }"


async def kill(node: Node) -> None:
    await node.kill()


async def interrupt(node: Node) -> None:
    # A node waits up to 30 s for sessions that it closed and that nobody closes on their side.
    assert await node.interrupt() == 0


@pytest.mark.parametrize("end", [kill, interrupt])
async def test_clients_of_a_lost_node_move_to_the_other(
    certificate: Certificate, end: Callable[[Node], Awaitable[None]]
) -> None:
    async with open_deployment(certificate) as deployment:
        clients, (dying, left) = deployment.clients, deployment.nodes
        names = await deployment.connect(20, "mover")
        await clients.call("event.subscribe", clients=names, event="news")
        await dying.until_users(10)
        moving = sorted(dying.users)

        lost_at = trio.current_time()
        await end(dying)
        await clients.call("opened", clients=moving, times=2)
        assert trio.current_time() - lost_at < CLIENT_PATIENCE

        await left.until_users(names)
        await assert_all_hear(deployment, names)
        assert await clients.errors(names) == []


async def assert_all_hear(deployment: Deployment, names: list[str]) -> None:
    """Emit from the first client, and wait until each of the others has it."""
    await deployment.clients.call("settled", clients=names)
    await deployment.clients.call("event.emit", client=names[0], event="news", data="ahoy")
    for name in names[1:]:
        heard = await deployment.clients.call("received", client=name, inbox="news", count=1)
        assert heard == ["ahoy"]


async def test_dead_nodes_are_reported_as_what_they_are(certificate: Certificate) -> None:
    async with open_deployment(certificate, upstream=LONG_REST) as deployment:
        for node in deployment.nodes:
            await node.kill()
        address = deployment.proxy.address()

        asked = await upgrade(address, certificate, "/deepstream")
        assert asked.status == 502
        assert "error=connection_refused" in asked.headers["proxy-status"]

        nobody_to_ask = await upgrade(address, certificate, "/deepstream")
        assert nobody_to_ask.status == 500
        assert "error=destination_unavailable" in nobody_to_ask.headers["proxy-status"]


async def test_clients_come_back_with_a_restarted_node(certificate: Certificate) -> None:
    async with open_deployment(certificate, upstream=SHORT_REST) as deployment:
        # Clients give up after five tries by default; these keep trying, and often.
        names = await deployment.connect(
            6, "faithful", maxReconnectInterval=200, maxReconnectAttempts=1000
        )
        await deployment.clients.call("event.subscribe", clients=names, event="news")
        for node in deployment.nodes:
            await node.kill()
        await deployment.clients.call("reached", clients=names, state="RECONNECTING")

        restarted = deployment.nodes[0]
        await restarted.start()
        await deployment.clients.call("opened", clients=names, times=2)
        await restarted.until_users(names)
        await assert_all_hear(deployment, names)
