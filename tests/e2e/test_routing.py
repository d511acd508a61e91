"""Paths and queries that nodes do not know, redirects and maintenance, with real nodes and clients.

deepstream's client glues the segments of a path together, and leaves a query where it is: an
application that says `wss://host/ds/deepstream?token=x` asks for `/dsdeepstream?token=x`, on which
a node hangs up.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import h11
import trio

from .harness import Certificate, Clients, Proxy, open_clients
from .nodes import open_nodes
from .program import open_program
from .raw import Response, request, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = """
error_pages.5xx = "sorry.html"
[log]
format = "json"
[shutdown]
rate = 1000.0
[[listeners]]
name = "public"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}
[[listeners]]
name = "plain"
bind = "127.0.0.1:0"

[[routes]]
listener = "plain"
prefix = "/"
redirect = {{ scheme = "https", port = {port} }}

[[routes]]
path = "/dsdeepstream"
websocket = true
drop_query = true
rewrite = {{ path = "/deepstream" }}
upstream = "deepstream"

[[routes]]
prefix = "/healthz"
methods = ["GET"]
respond.body = "ok"

[[routes]]
prefix = "/http"
rewrite.strip_prefix = "/http"
upstream = "deepstream"

{maintenance}
[upstreams.deepstream]
nodes = {nodes}
hold.timeout = 0.0
panic = "refuse"
"""
#: A listener's own route goes before all others.
MAINTENANCE = """
[[routes]]
listener = "public"
prefix = "/"
respond = { status = 503, file = "sorry.html", retry_after = 60 }
"""


@attrs.frozen
class Rig:
    """A proxy, where its configuration stands, and the process for the clients."""

    proxy: Proxy
    clients: Clients
    folder: Path
    settings: dict[str, str]

    async def reload(self, **changed: str) -> None:
        """Have the proxy go by its configuration with other parts."""
        (self.folder / "tidegate.toml").write_text(CONFIG.format(**self.settings | changed))
        self.proxy.program.process.send_signal(signal.SIGHUP)
        named = self.proxy.program.named
        await self.proxy.program.until(lambda: bool(named("reloaded")), "a reload")

    async def plain(self, target: str) -> Response:
        """Ask the listener without TLS, and return the head of the answer."""
        host, port = self.proxy.address("plain").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            machine = h11.Connection(h11.CLIENT)
            head = h11.Request(method="GET", target=target, headers=[("Host", "127.0.0.1")])
            await stream.send_all(machine.send(head) or b"")
            await stream.send_all(machine.send(h11.EndOfMessage()) or b"")
            while (event := machine.next_event()) is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some()))
            assert isinstance(event, h11.Response)
            fields = {name.decode(): value.decode() for name, value in event.headers}
            return Response(event.status_code, fields, b"")


@contextlib.asynccontextmanager
async def open_rig(certificate: Certificate, folder: Path) -> AsyncIterator[Rig]:
    (folder / "sorry.html").write_text("<p>Back soon.")
    async with open_nodes(1) as (node,), open_clients(certificate) as clients:
        settings = {
            "cert_file": certificate.cert_file,
            "key_file": certificate.key_file,
            "nodes": json.dumps([node.address]),
            "port": "4443",
            "maintenance": "",
        }
        file = folder / "tidegate.toml"
        file.write_text(CONFIG.format(**settings))
        command = [sys.executable, "-m", "proxy", "run", "-c", str(file)]
        async with open_program("proxy", command, cwd=str(folder)) as program:
            await program.until_ready()
            proxy = Proxy(program)
            yield Rig(proxy, clients, folder, settings)
            await proxy.stop()


async def test_clients_with_a_glued_path_and_a_token(
    certificate: Certificate, tmp_path: Path
) -> None:
    async with open_rig(certificate, tmp_path) as rig:
        url = rig.proxy.url("/ds/deepstream?token=x")
        reader, writer = await rig.clients.connect(url, 2, "guest")
        await rig.clients.call("event.subscribe", clients=[reader], event="news")
        await rig.clients.call("event.emit", client=writer, event="news", data="hello")
        assert await rig.clients.call("received", client=reader, inbox="news", count=1) == ["hello"]
        await rig.clients.call("close", clients=[reader, writer])

        records = await rig.proxy.until_records(2, status=101)
        assert {record["target"] for record in records} == {"/dsdeepstream?token=x"}


async def test_a_redirect_leads_to_the_node(certificate: Certificate, tmp_path: Path) -> None:
    async with open_rig(certificate, tmp_path) as rig:
        port = rig.proxy.address().rpartition(":")[2]
        await rig.reload(port=port)
        answer = await rig.plain("/http/health-check?x")

        assert answer.status == 308
        scheme, _, rest = answer.headers["location"].partition("://")
        address, _, path = rest.partition("/")
        assert (scheme, address) == ("https", rig.proxy.address())
        followed = await request(address, certificate, "GET", f"/{path}")
        assert followed.status == 200
        # No answer that the proxy makes up carries this one.
        assert followed.headers["access-control-allow-origin"] == "*"


async def test_what_is_answered_without_a_node(certificate: Certificate, tmp_path: Path) -> None:
    """A health check of the proxy itself, a wrong method, and a page where nobody can be asked."""
    async with open_rig(certificate, tmp_path) as rig:
        address = rig.proxy.address()
        await rig.reload(nodes='["127.0.0.1:1"]')
        healthy = await request(address, certificate, "GET", "/healthz")
        wrong = await request(address, certificate, "POST", "/healthz")
        refused = await upgrade(address, certificate, "/dsdeepstream")
        nobody = await upgrade(address, certificate, "/dsdeepstream")

        assert (healthy.status, healthy.body) == (200, b"ok")
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
        assert {refused.status, nobody.status} <= {500, 502}
        for answer in (refused, nobody):
            assert answer.body == b"<p>Back soon."
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "error=" in answer.headers["proxy-status"]


async def test_maintenance_ends_no_session(certificate: Certificate, tmp_path: Path) -> None:
    """Who comes is told to wait; who is there goes on, and comes to know nothing of it."""
    async with open_rig(certificate, tmp_path) as rig:
        reader, writer = await rig.clients.connect(rig.proxy.url("/ds/deepstream"), 2, "guest")
        await rig.clients.call("event.subscribe", clients=[reader], event="news")
        await rig.reload(maintenance=MAINTENANCE)
        told = [
            await upgrade(rig.proxy.address(), certificate, "/dsdeepstream"),
            await request(rig.proxy.address(), certificate, "GET", "/http/health-check"),
        ]
        await rig.clients.call("event.emit", client=writer, event="news", data="still")

        assert await rig.clients.call("received", client=reader, inbox="news", count=1) == ["still"]
        for answer in told:
            assert (answer.status, answer.body) == (503, b"<p>Back soon.")
            assert answer.headers["retry-after"] == "60"
