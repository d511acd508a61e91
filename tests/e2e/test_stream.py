"""conf/stream.toml: everything passed to the nodes as bytes, with the real client on it."""

from __future__ import annotations

import json
from pathlib import Path

import h11
import pytest

from .harness import Certificate, Node, open_clients, open_nodes, open_proxy
from .raw import request, upgrade

FILE = Path(__file__).parent.parent.parent / "conf" / "stream.toml"


def config(certificate: Certificate, nodes: list[Node]) -> str:
    """Return the file with this test's addresses and certificate in it."""
    text = FILE.read_text()
    for old, new in (
        ("/etc/ssl/certs/yourcert.crt", certificate.cert_file),
        ("/etc/ssl/certs/yourkey.key", certificate.key_file),
        ('"0.0.0.0:443"', '"127.0.0.1:0"'),
        ('    "127.0.0.1:6020",\n', "".join(f'    "{node.address}",\n' for node in nodes)),
    ):
        assert old in text
        text = text.replace(old, new)
    return text + '\n[log]\nformat = "json"\n'


async def test_real_clients_work_over_bytes(certificate: Certificate) -> None:
    async with (
        open_nodes(1) as nodes,
        open_proxy(config(certificate, nodes)) as proxy,
        open_clients(certificate) as clients,
    ):
        here, there = names = await clients.connect(proxy.url(), 2, "client")
        await nodes[0].until_users(names)
        await clients.call("event.subscribe", clients=[there], event="big", digested=True)
        sent = await clients.call("event.fill", client=here, event="big", size=1_000_000)
        assert await clients.call("received", client=there, inbox="big", count=1) == [sent]
        await clients.call("record.set", client=here, record="boat", data={"name": "Ondine"})
        assert await clients.call("record.get", client=there, record="boat") == {"name": "Ondine"}
        assert await clients.errors(names) == []
        await clients.call("close", clients=names)
        records = await proxy.until_records(2, route="tcp:public")

    assert {record["node"] for record in records} == {nodes[0].address}
    assert sum(record["bytes_from_client"] for record in records) > 1_000_000


async def test_the_nodes_answer_for_themselves(certificate: Certificate) -> None:
    """Plain HTTP passes too; and what a node hangs up on takes no node away from the others."""
    async with open_nodes(1) as nodes, open_proxy(config(certificate, nodes)) as proxy:
        answer = await request(proxy.address(), certificate, "GET", "/health-check")
        assert answer.status == 200
        event = {"topic": "event", "action": "emit", "eventName": "news", "data": "by post"}
        answer = await request(
            proxy.address(),
            certificate,
            "POST",
            "/api",
            headers=(("Content-Type", "application/json"),),
            body=json.dumps({"body": [event]}).encode(),
        )
        assert json.loads(answer.body)["result"] == "SUCCESS"
        for _ in range(6):
            # A node answers an upgrade of a path that is none of its own with an end of stream.
            with pytest.raises(h11.RemoteProtocolError):
                await upgrade(proxy.address(), certificate, "/deepstreamXX")
        answer = await request(proxy.address(), certificate, "GET", "/health-check")
        assert answer.status == 200
