"""MQTT devices at the nodes' MQTT endpoints, by way of the proxy, which does TLS."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import trio

from .harness import (
    Certificate,
    Clients,
    Node,
    Proxy,
    config_for,
    open_clients,
    open_nodes,
    open_proxy,
)
from .mqtt import open_device

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MQTT = """
[[listeners]]
name = "mqtt"
mode = "tcp"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}

[[routes]]
listener = "mqtt"
upstream = "mqtt"

[upstreams.mqtt]
nodes = {nodes}
probe = {{ kind = "mqtt" }}
"""


def config(certificate: Certificate, nodes: list[Node]) -> str:
    mqtt = MQTT.format(
        cert_file=certificate.cert_file,
        key_file=certificate.key_file,
        nodes=json.dumps([f"127.0.0.1:{node.mqtt}" for node in nodes]),
    )
    return config_for(certificate, nodes) + mqtt


@contextlib.asynccontextmanager
async def open_all(
    certificate: Certificate, count: int = 1
) -> AsyncIterator[tuple[list[Node], Proxy, Clients]]:
    async with (
        open_nodes(count, mqtt=True) as nodes,
        open_proxy(config(certificate, nodes)) as proxy,
        open_clients(certificate) as clients,
    ):
        yield nodes, proxy, clients


async def home_of(user: str, nodes: list[Node]) -> Node:
    """Wait until a node says that this user is logged in, among the proxy's own probes."""
    homes: list[Node] = []

    async def ask(node: Node) -> None:
        await node.program.until(lambda: user in node.users, f"a user {user}")
        homes.append(node)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(ask, node)
    return homes[0]


async def test_devices_and_browsers_talk(certificate: Certificate) -> None:
    async with open_all(certificate) as (nodes, proxy, clients):
        address = proxy.address("mqtt")
        async with (
            open_device(address, certificate, "here") as here,
            open_device(address, certificate, "there") as there,
        ):
            (browser,) = await clients.connect(proxy.url(), 1, "browser")
            await here.subscribe("tide/bergen")
            await there.subscribe("tide/oslo")
            await clients.call("event.subscribe", clients=[browser], event="tide/oslo")

            # A device's payload is a text to deepstream, which it writes as JSON.
            here.publish("tide/oslo", "high")
            there.publish("tide/bergen", "x" * 100_000)
            assert await there.message() == ("tide/oslo", '"high"')
            assert await here.message() == ("tide/bergen", json.dumps("x" * 100_000))
            assert await clients.call("received", client=browser, inbox="tide/oslo", count=1) == [
                "high"
            ]
            await clients.call("event.emit", client=browser, event="tide/bergen", data={"cm": 12})
            assert await here.message() == ("tide/bergen", '{"cm":12}')
        records = await proxy.until_records(2, route="tcp:mqtt")

    assert {record["node"] for record in records} == {f"127.0.0.1:{nodes[0].mqtt}"}
    for record in records:
        assert record["bytes_from_client"] > 30
        assert record["bytes_from_node"] > 30
    assert sum(record["bytes_from_client"] for record in records) > 100_000


async def test_a_device_whose_node_dies_comes_back_to_the_other_one(
    certificate: Certificate,
) -> None:
    async with open_all(certificate, 2) as (nodes, proxy, _):
        async with open_device(proxy.address("mqtt"), certificate, "device") as device:
            first = await home_of("device", nodes)
            (second,) = (node for node in nodes if node is not first)
            await first.kill()
            await device.until("disconnection")
            assert await device.until("connection") == "Success"
            assert await home_of("device", [second]) is second
            await device.subscribe("tide")
            async with open_device(proxy.address("mqtt"), certificate, "other") as other:
                # Nobody is sent what he has said himself.
                other.publish("tide", "low")
                assert await device.message() == ("tide", '"low"')
        lost, *closed = await proxy.until_records(3, route="tcp:mqtt")

    assert (lost["node"], lost["ended_by"]) == (f"127.0.0.1:{first.mqtt}", "node")
    assert {record["node"] for record in closed} == {f"127.0.0.1:{second.mqtt}"}
