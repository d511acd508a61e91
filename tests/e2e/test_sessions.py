"""Real clients on both nodes of a cluster, by way of the proxy."""

from __future__ import annotations

import pytest

from .harness import Certificate, Clients, Deployment, open_deployment

# The largest text that an event named "big" can carry in a message of 1,048,576 bytes, which is
# what a node takes: deepstream's framing, the name and the quotes around the text are the other 22.
LARGEST_TEXT = 1_048_554


async def until_spread(deployment: Deployment, count: int) -> None:
    """Wait until the nodes say that each has so many users."""
    for node in deployment.nodes:
        await node.until_users(count)


async def pair_across(deployment: Deployment) -> tuple[str, str]:
    """Two clients, each on a node of its own."""
    names = await deployment.connect(2, "pair")
    await until_spread(deployment, 1)
    assert {name for node in deployment.nodes for name in node.users} == set(names)
    return names[0], names[1]


@pytest.mark.usefixtures("redis")
async def test_every_feature_works_across_nodes(certificate: Certificate) -> None:
    async with open_deployment(certificate, redis=True) as deployment:
        here, there = await pair_across(deployment)
        for feature in (events, records, calls, presence, event_listening, record_listening):
            await feature(deployment.clients, here, there)
        assert await deployment.clients.errors([here, there]) == []


async def events(clients: Clients, here: str, there: str) -> None:
    await clients.call("event.subscribe", clients=[there], event="news")
    await clients.call("event.emit", client=here, event="news", data={"n": 1})
    await clients.call("event.emit", client=here, event="news", data={"n": 2})
    news = await clients.call("received", client=there, inbox="news", count=2)
    assert news == [{"n": 1}, {"n": 2}]


async def records(clients: Clients, here: str, there: str) -> None:
    await clients.call("record.subscribe", client=there, record="boat")
    await clients.call("record.set", client=here, record="boat", data={"name": "Ondine"})
    seen = await clients.call("received", client=there, inbox="boat", count=1)
    assert seen == [{"name": "Ondine"}]
    assert await clients.call("record.get", client=there, record="boat") == {"name": "Ondine"}


async def calls(clients: Clients, here: str, there: str) -> None:
    await clients.call("rpc.provide", client=there, rpc="echo")
    await ferry(clients, there, here, "provided")
    answer = await clients.call("rpc.make", client=here, rpc="echo", data=[1, "two"])
    assert answer == {"by": there, "data": [1, "two"]}


async def presence(clients: Clients, here: str, there: str) -> None:
    await ferry(clients, there, here, "present")
    assert await clients.call("presence.query", client=here) == [there]


async def event_listening(clients: Clients, here: str, there: str) -> None:
    await clients.call("listen", client=here, kind="event", pattern="tide/.*")
    await clients.call("event.subscribe", clients=[there], event="tide/bergen")
    await clients.call("received", client=here, inbox="tide/.*", count=1)
    await clients.call("event.unsubscribe", client=there, event="tide/bergen")
    matches = await clients.call("received", client=here, inbox="tide/.*", count=2)
    assert matches == [{"subject": "tide/bergen", "wanted": wanted} for wanted in (True, False)]


async def record_listening(clients: Clients, here: str, there: str) -> None:
    await clients.call("listen", client=here, kind="record", pattern="ship/.*")
    await clients.call("record.get", client=there, record="ship/ondine")
    matches = await clients.call("received", client=here, inbox="ship/.*", count=1)
    assert matches == [{"subject": "ship/ondine", "wanted": True}]


async def ferry(clients: Clients, there: str, here: str, event: str) -> None:
    """Have one node tell the other what it knows.

    Redis keeps the order of what one node publishes: with the event arrives all that went before.
    """
    await clients.call("event.subscribe", clients=[here], event=event)
    await clients.call("event.emit", client=there, event=event, data=None)
    await clients.call("received", client=here, inbox=event, count=1)


@pytest.mark.usefixtures("redis")
async def test_presence_tells_who_comes_and_goes(certificate: Certificate) -> None:
    async with open_deployment(certificate, redis=True) as deployment:
        clients = deployment.clients
        (watcher,) = await deployment.connect(1, "watcher")
        await clients.call("presence.subscribe", client=watcher)
        guests = await deployment.connect(1, "guest")
        await clients.call("received", client=watcher, inbox="presence", count=1)
        await clients.call("close", clients=guests)
        seen = await clients.call("received", client=watcher, inbox="presence", count=2)
        assert seen == [{"user": "guest-0", "online": online} for online in (True, False)]


async def test_fifty_clients_spread_evenly(certificate: Certificate) -> None:
    async with open_deployment(certificate) as deployment:
        names = await deployment.connect(50, "crowd")
        await until_spread(deployment, 25)
        await deployment.clients.call("close", clients=names)
        for node in deployment.nodes:
            await deployment.proxy.until_records(25, node=node.address, ended_by="client")


async def test_the_largest_message_passes_both_ways(certificate: Certificate) -> None:
    async with open_deployment(certificate, nodes=1) as deployment:
        clients = deployment.clients
        sender, reader = names = await deployment.connect(2, "large")
        await clients.call("event.subscribe", clients=[reader], event="big", digested=True)
        sent = await clients.call("event.fill", client=sender, event="big", size=LARGEST_TEXT)
        assert await clients.call("received", client=reader, inbox="big", count=1) == [sent]
        # The node closes on one byte more: that the text above was the largest is checked, too.
        await clients.call("event.fill", client=sender, event="big", size=LARGEST_TEXT + 1)
        await clients.call("reached", clients=[sender], state="RECONNECTING")
        await clients.call("settled", clients=names)
        assert len(await clients.call("received", client=reader, inbox="big", count=1)) == 1
