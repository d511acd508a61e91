"""A client that stops reading is the node's to buffer, not the proxy's."""

from __future__ import annotations

import sys

import pytest
import trio

from .harness import Certificate, Clients, Deployment, open_deployment
from .raw import open_raw_session, subscription

KIB = 1024
MIB = 1024 * KIB

EVENT_SIZE = 512 * KIB
EMITTERS = 2
EVENTS_PER_EMITTER = 200 * MIB // EVENT_SIZE // EMITTERS
ALLOWED_GROWTH = 16 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_a_stalled_reader_costs_the_proxy_no_memory(certificate: Certificate) -> None:
    async with open_deployment(certificate, nodes=1) as deployment:
        emitters = await deployment.connect(EMITTERS, "emitter")
        address = deployment.proxy.address()
        async with open_raw_session(address, certificate, receive_buffer=64 * KIB) as stalled:
            await stalled.send(subscription("flood"))
            acknowledged = await stalled.receive()
            # Buffers that serve every session have had their largest message before the count.
            await flood(deployment.clients, emitters, 1)
            before = deployment.proxy.memory()
            await flood_while_others_talk(deployment, emitters)
            grown = deployment.proxy.memory() - before
            assert grown < ALLOWED_GROWTH
            # It was the reading that stopped, not the session.
            assert len(await stalled.receive()) > EVENT_SIZE > len(acknowledged)


async def flood_while_others_talk(deployment: Deployment, emitters: list[str]) -> None:
    """Send all of the flood, and in the meantime one event after another between two others."""
    talker, listener = await deployment.connect(2, "bystander")
    clients = deployment.clients
    await clients.call("event.subscribe", clients=[listener], event="news")
    flooded = trio.Event()

    async def talk() -> None:
        said = 0
        # Once more after the end: the backlog is at its largest then.
        while not flooded.is_set() or said < 2:
            said += 1
            await clients.call("event.emit", client=talker, event="news", data=said)
            await clients.call("received", client=listener, inbox="news", count=said)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        await flood(clients, emitters, EVENTS_PER_EMITTER)
        flooded.set()


async def flood(clients: Clients, emitters: list[str], count: int) -> None:
    """Have each emitter send so many events that the stalled reader has subscribed to."""
    await clients.call(
        "event.flood", clients=emitters, event="flood", size=EVENT_SIZE, count=count, within=60
    )
