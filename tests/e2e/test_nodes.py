"""Nodes that restart, linger, vanish and come back; what their clients notice of it."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from .harness import (
    Certificate,
    Deployment,
    Node,
    config_for,
    open_clients,
    open_deployment,
    open_nodes,
    open_proxy,
)
from .program import DEADLINE, deadline
from .raw import UPGRADE, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROBE = 'probe = { kind = "deepstream" }'
#: What a client may wait for its session, in seconds.
PATIENCE = 3.0


async def assert_never_lost_for_long(deployment: Deployment, names: list[str]) -> None:
    """Every client is open, none was without a session for too long, none was told of an error."""
    # A node knows of a login a moment before its client does.
    await deployment.clients.call("settled", clients=names)
    history = await deployment.clients.call("history", clients=names)
    for name in names:
        states = history[name]["states"]
        assert states[-1]["state"] == "OPEN", (name, states)
        assert all(item["state"] != "CLOSED" for item in states)
        lost_at = None
        for item in states:
            if item["state"] == "RECONNECTING" and lost_at is None:
                lost_at = item["at"]
            elif item["state"] == "OPEN" and lost_at is not None:
                assert item["at"] - lost_at < PATIENCE, (name, states)
                lost_at = None


async def until_node(deployment: Deployment, node: Node, state: str, times: int = 1) -> None:
    """Wait until the proxy's log says so often that a node is in a state."""

    def said() -> bool:
        events = deployment.proxy.program.named("node")
        wanted = {"node": node.address, "state": state}
        return sum(wanted.items() <= event.items() for event in events) >= times

    await deployment.proxy.program.until(said, f"{node.address} {state}")


async def test_rolling_restart(certificate: Certificate) -> None:
    async with open_deployment(certificate, redis=True, upstream=PROBE) as deployment:
        names = await deployment.connect(100, "worker")
        await deployment.clients.call("event.subscribe", clients=names, event="news")
        async with trio.open_nursery() as working:
            working.start_soon(work, deployment, names)
            for node in deployment.nodes:
                await node.interrupt()
                await until_node(deployment, node, "down")
                await node.start()
                await until_node(deployment, node, "up")
            working.cancel_scope.cancel()
        # Most are on the first node, and a late one may be on the second, which is back.
        with deadline(DEADLINE, "all users, on either node"):
            # Two programs tell of them.
            while set().union(*(node.users for node in deployment.nodes)) != set(names):  # noqa: ASYNC110
                await trio.sleep(0.05)

        await assert_never_lost_for_long(deployment, names)


async def work(deployment: Deployment, names: list[str]) -> None:
    for number in range(10_000):
        sender = names[number % len(names)]
        await deployment.clients.call("event.emit", client=sender, event="news", data="ahoy")
        await trio.sleep(0.02)


@asynccontextmanager
async def lingering_peer(node: Node) -> AsyncIterator[None]:
    """A client of a node's own that never finishes the closing handshake."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    async with stream:
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE)
        await stream.send_all(f"GET /deepstream HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        yield


async def test_node_that_shuts_down_and_lingers_gets_no_new_session(
    certificate: Certificate,
) -> None:
    async with open_deployment(certificate, upstream=PROBE) as deployment:
        zombie, left = deployment.nodes
        names = await deployment.connect(20, "early")
        await zombie.until_users(10)
        async with lingering_peer(zombie):
            zombie.program.process.send_signal(signal.SIGINT)
            await until_node(deployment, zombie, "draining")
            await left.until_users(names)
            zombie.users.clear()
            late = await deployment.connect(20, "late")
            await left.until_users([*names, *late])

            # All the while it is there, and looks healthy to whoever asks.
            assert zombie.program.alive
            async with lingering_peer(zombie):
                assert zombie.users == set()
        await assert_never_lost_for_long(deployment, [*names, *late])


async def test_all_nodes_are_gone_for_a_while_and_clients_are_held(
    certificate: Certificate,
) -> None:
    upstream = f"{PROBE}\nhold = {{ timeout = 30.0 }}"
    async with open_deployment(certificate, upstream=upstream) as deployment:
        names = await deployment.connect(20, "patient")
        for node in deployment.nodes:
            await node.kill()
        await trio.sleep(8)
        back = deployment.nodes[1]
        await back.start()
        await back.until_users(names)
        await deployment.clients.call("opened", clients=names, times=2)

        for name, states in (await deployment.clients.states(names)).items():
            # One try, which took long: a second one would be a second RECONNECTING.
            assert states.count("RECONNECTING") == 1, name
        assert await deployment.clients.errors(names) == []
        assert not [r for r in deployment.proxy.records() if r["status"] >= 500]


async def test_wrong_paths_that_reach_the_nodes_eject_nobody(certificate: Certificate) -> None:
    async with (
        open_nodes(2) as nodes,
        open_proxy(everything_goes_through(certificate, nodes)) as proxy,
        open_clients(certificate) as clients,
    ):
        deployment = Deployment(nodes, proxy, clients)
        names = await deployment.connect(10, "guest")
        answers: list[int] = []
        limit = trio.CapacityLimiter(20)

        async def knock() -> None:
            async with limit:
                answer = await upgrade(proxy.address(), certificate, "/deepstreamXX")
                answers.append(answer.status)

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(knock)
            late = await deployment.connect(10, "late")

        assert answers == [502] * 1000
        assert [e for e in proxy.program.named("node") if e["state"] != "up"] == []
        for states in (await clients.states([*names, *late])).values():
            assert "RECONNECTING" not in states
        assert await clients.errors([*names, *late]) == []


def everything_goes_through(certificate: Certificate, nodes: list[Node]) -> str:
    config = config_for(certificate, nodes, PROBE)
    return config.replace('path = "/deepstream"\nwebsocket', 'prefix = "/"\nwebsocket')
