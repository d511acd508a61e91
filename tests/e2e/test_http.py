"""Plain HTTP to a node: deepstream's HTTP API and its health check."""

from __future__ import annotations

import json

from .harness import Certificate, open_deployment
from .raw import request


async def test_an_event_posted_to_the_api_reaches_a_subscriber(certificate: Certificate) -> None:
    async with open_deployment(certificate, nodes=1) as deployment:
        clients = deployment.clients
        (reader,) = await deployment.connect(1, "reader")
        await clients.call("event.subscribe", clients=[reader], event="news")
        event = {"topic": "event", "action": "emit", "eventName": "news", "data": "by post"}
        answer = await request(
            deployment.proxy.address(),
            certificate,
            "POST",
            "/api",
            headers=(("Content-Type", "application/json"),),
            body=json.dumps({"body": [event]}).encode(),
        )
        assert answer.status == 200
        assert json.loads(answer.body)["result"] == "SUCCESS"
        assert await clients.call("received", client=reader, inbox="news", count=1) == ["by post"]


async def test_the_health_check_is_the_nodes_own(certificate: Certificate) -> None:
    async with open_deployment(certificate, nodes=1) as deployment:
        address = deployment.proxy.address()
        answer = await request(address, certificate, "GET", "/health-check")
        assert answer.status == 200
        # No answer that the proxy makes up carries this one.
        assert answer.headers["access-control-allow-origin"] == "*"
