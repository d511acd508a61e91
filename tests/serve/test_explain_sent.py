"""The head that is said to be sent is the one that a node gets, byte for byte."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from proxy import Server, open_proxy, parse_config
from proxy.config.model import Config
from proxy.serve.explain import explain
from proxy.serve.question import Question
from tests.io.rig import LIMIT

from .world import ACCEPTED, read_head

CONFIG = """
[[listeners]]
bind = "127.0.0.1:0"

[[routes]]
prefix = "/"
websocket = true
upstream = "nodes"

[[routes]]
prefix = "/edited"
websocket = true
rewrite = {{ strip_prefix = "/edited" }}
request_headers = {{ remove = ["Cookie"], set = {{ X-Client = "{{client}}" }} }}
upstream = "nodes"

[[routes]]
prefix = "/once"
upstream = "once"

[[routes]]
prefix = "/told"
upstream = "told"

[upstreams.nodes]
nodes = [ "127.0.0.1:{port}" ]

[upstreams.once]
nodes = [ "127.0.0.1:{port}" ]
keepalive = 0

[upstreams.told]
nodes = [ "127.0.0.1:{port}" ]
proxy_protocol = "v1"
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
COOKIE = "Cookie: a=b"
TRAILERS = ["TE: trailers, deflate", "Connection: TE"]
EXPECT = "Expect: 100-continue"
LENGTH = "Content-Length: 3"
CHUNKED = "Transfer-Encoding: chunked"
BODY = b"abc"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"

#: By what is special: the path, what else a question is made of, and the body.
REQUESTS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "GET": ("/a?b", {}, b""),
    "hop by hop": ("/", {"headers": ["Connection: close, X-A", "X-A: b", "X-C: d"]}, b""),
    "other clients": ("/", {"headers": ["X-Forwarded-For: 192.0.2.1", "Via: 1.1 other"]}, b""),
    "HEAD": ("/", {"method": "HEAD"}, b""),
    "TE": ("/", {"headers": TRAILERS}, b""),
    "upgrade to HTTP/2": ("/", {"headers": ["Connection: upgrade", "Upgrade: h2c"]}, b""),
    "POST": ("/", {"method": "POST", "headers": [LENGTH]}, BODY),
    "POST without a body": ("/", {"method": "POST"}, b""),
    "POST of no bytes": ("/", {"method": "POST", "headers": ["Content-Length: 0"]}, b""),
    "POST in chunks": ("/", {"method": "POST", "headers": [CHUNKED]}, CHUNKS),
    "chunks and trailers": ("/", {"method": "PUT", "headers": [CHUNKED, *TRAILERS]}, CHUNKS),
    "Expect": ("/", {"method": "POST", "headers": [EXPECT, LENGTH]}, b""),
    "Expect in chunks": ("/", {"method": "POST", "headers": [EXPECT, CHUNKED]}, b""),
    "Expect of a GET": ("/", {"headers": [EXPECT]}, b""),
    "Expect of no bytes": ("/", {"method": "PUT", "headers": [EXPECT, "Content-Length: 0"]}, b""),
    "HTTP/1.0": ("/", {"old": True, "headers": ["Connection: keep-alive"]}, b""),
    "HTTP/1.0 without Host": ("/", {"old": True, "headers": ["Host:"]}, b""),
    "HTTP/1.0, Expect": ("/", {"old": True, "method": "POST", "headers": [EXPECT, LENGTH]}, BODY),
    "a route's own": ("/edited/x", {"headers": [COOKIE]}, b""),
    "no keepalive": ("/once", {}, b""),
    "no keepalive, TE": ("/once", {"headers": TRAILERS}, b""),
    "PROXY header": ("/told", {"headers": [COOKIE]}, b""),
    "WebSocket": ("/x", {"websocket": True, "headers": [COOKIE, "Origin: https://a.example"]}, b""),
    "a route's own WebSocket": ("/edited/", {"websocket": True, "headers": [COOKIE]}, b""),
}


@attrs.define
class Rig:
    config: Config
    server: Server
    #: What nodes were sent in front of each body.
    heads: list[bytes]

    async def ask(self, question: Question, body: bytes) -> None:
        """Ask twice over one connection, which may carry but one."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.server.address().port)
        async with stream:
            for _ in range(2):
                await stream.send_all(question.head + body)
                answer = (await read_head(stream)).lower()
                if b"\r\nconnection: " in answer or EXPECT.encode() in question.head:
                    break


@asynccontextmanager
async def open_rig() -> AsyncIterator[Rig]:
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            while received := await read_head(stream):
                head, _, body = received.partition(b"\r\n\r\n")
                heads.append(head + b"\r\n\r\n")
                expected = b"" if EXPECT.encode() in head else body_of(head)
                while len(body) < len(expected):
                    body += await stream.receive_some()
                await stream.send_all(ACCEPTED if b"Upgrade" in head else OK)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            config = parse_config(CONFIG.format(port=listener.socket.getsockname()[1]))
            async with open_proxy(config, on_record=lambda _: None) as server:
                yield Rig(config, server, heads)
            nursery.cancel_scope.cancel()


def body_of(head: bytes) -> bytes:
    if CHUNKED.encode() in head:
        return CHUNKS
    return BODY if LENGTH.encode() in head else b""


def unnamed(head: bytes) -> str:
    """Return a head with what is said of each request, and of each process, in the place of it."""
    head = re.sub(rb"(?<=\r\nX-Request-Id: )[0-9a-f]+", b"(of each request)", head)
    head = re.sub(rb"(?<=\r\nVia: 1\.[01] tidegate-)\S+", b"(of each process)", head)
    return re.sub(rb"(?<=, 1\.1 tidegate-)\S+", b"(of each process)", head).decode()


@pytest.mark.parametrize("name", REQUESTS)
async def test_it_is_what_a_node_gets(name: str) -> None:
    path, options, body = REQUESTS[name]
    async with open_rig() as rig:
        url = f"http://127.0.0.1:{rig.server.address().port}{path}"
        question = Question.of(url, **options)
        found = explain(rig.config, question)
        await rig.ask(question, body)

    said = "\r\n".join([*found.sent, "", ""])
    assert rig.heads
    for received in rig.heads:
        head, proxied = re.subn(rb"\APROXY TCP4 .*\r\n", b"", received)
        assert proxied == (found.proxy_protocol == "v1")
        assert unnamed(head) == said
