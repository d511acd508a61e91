"""What a route answers by itself, and pages for what goes wrong, over whole connections."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from proxy.config.load import parse_config
from proxy.config.page import PAGE_BYTES, Page
from proxy.config.route import Route
from proxy.errors import Denied, NoNode, NoRoute, RouteAnswer
from proxy.serve.answer import add_page
from proxy.serve.connection import Connection

from .world import (
    ACCEPTED,
    CONFIG,
    UPGRADE,
    Door,
    Recorder,
    World,
    answering,
    open_world,
    read_all,
    read_head,
    status,
    token,
)

ROUTES = """
[[listeners]]
bind = "127.0.0.1:0"

[[routes]]
path = "/healthz"
respond = { body = "ok\\n", headers = { X-Who = "me" } }

[[routes]]
path = "/down"
respond = { status = 503, retry_after = 30 }

[[routes]]
path = "/gone"
respond = { status = 410, body = "<p>Gone.", content_type = "text/html" }

[[routes]]
path = "/nothing"
respond = { status = 204 }

[[routes]]
prefix = "/old"
rewrite = { replace_prefix = "/new" }
redirect = { scheme = "https", status = 301 }

[[routes]]
path = "/deepstream"
websocket = true
drop_query = true
upstream = "nodes"

[[routes]]
path = "/dsdeepstream"
websocket = true
upstream = "nodes"
rewrite = { path = "/deepstream" }

[[routes]]
prefix = "/http"
upstream = "nodes"
rewrite = { strip_prefix = "/http" }
methods = ["GET", "POST"]
""" + CONFIG[CONFIG.index("[upstreams.nodes]") :]


def get(target: str, method: str = "GET", host: str = "rt.example") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def fields(answer: bytes) -> dict[str, str]:
    """Return an answer's headers by their names in lower case, each of which is there once."""
    head, _, _ = answer.decode().partition("\r\n\r\n")
    pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
    found = {name.lower(): value for name, value in pairs}
    assert len(found) == len(pairs)
    return found


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_fixed_response() -> None:
    async with open_world(ROUTES) as world:
        answer = await world.ask(get("/healthz?x"))

    assert status(answer) == 200
    assert body(answer) == b"ok\n"
    assert fields(answer) == {
        "content-type": "text/plain; charset=utf-8",
        "content-length": "3",
        "x-who": "me",
        **({"date": fields(answer)["date"]} if "date" in fields(answer) else {}),
    }
    (record,) = world.records
    assert (record.route, record.upstream, record.status) == ("/healthz", "", 200)
    # Whoever counts faults does not count health checks.
    assert (record.ended_by, record.token, record.detail) == ("proxy", "", "")
    assert world.dialled == []


async def test_to_handshakes_too() -> None:
    async with open_world(ROUTES) as world:
        answer = await world.ask(UPGRADE.replace(b"/deepstream", b"/down"))

    assert status(answer) == 503
    assert fields(answer)["retry-after"] == "30"
    assert b"503 Service Unavailable: That is what this route answers." in body(answer)


async def test_no_content_has_no_length() -> None:
    async with open_world(ROUTES) as world:
        answer = await world.ask(get("/nothing"))

    assert status(answer) == 204
    assert "content-length" not in fields(answer)
    assert body(answer) == b""


async def test_head_is_get_without_its_body() -> None:
    async with open_world(ROUTES) as world:
        whole, head = await world.ask(get("/gone")), await world.ask(get("/gone", "HEAD"))

    assert (status(whole), fields(whole)["content-type"]) == (410, "text/html")
    assert body(whole) == b"<p>Gone."
    assert head == whole.removesuffix(b"<p>Gone.")


async def test_the_connection_goes_on() -> None:
    """However many there are of one client, and whoever asks a node between them."""
    async with open_world(ROUTES) as world:
        world.nodes["node-a"] = Recorder()
        answer = await world.ask(
            get("/healthz") + get("/old/x") + get("/nothing") + get("/http/x") + get("/healthz")
        )

    assert [record.status for record in world.records] == [200, 301, 204, 200, 200]
    assert answer.count(b"HTTP/1.1 ") == 5
    assert answer.endswith(b"ok\n")


async def test_redirect() -> None:
    async with open_world(ROUTES) as world:
        answer = await world.ask(get("/old/a?b=c", host="rt.example:8080"))
        nowhere = await world.ask(b"GET /old/a HTTP/1.0\r\n\r\n")

    assert status(answer) == 301
    assert fields(answer)["location"] == "https://rt.example/new/a?b=c"
    assert fields(answer)["content-length"] == "0"
    assert (status(nowhere), token(nowhere)) == (400, "http_request_error")


async def test_a_body_that_nobody_read_ends_the_connection() -> None:
    async with open_world(ROUTES) as world:
        request = b"POST /old/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET / HTT"
        answer = await world.ask(request)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert fields(answer)["location"] == "https://h/new/x"


async def test_what_the_node_is_asked_for() -> None:
    """And what the record says was asked for."""
    async with open_world(ROUTES) as world:
        node = world.nodes["node-a"] = world.nodes["node-b"] = Recorder()
        await world.ask(get("/http/x/y?q"))

    ((request, _),) = node.requests
    assert request.target == b"/x/y?q"
    assert world.records[0].target == "/http/x/y?q"


@pytest.mark.parametrize("target", [b"/deepstream?token=x", b"/dsdeepstream"])
async def test_what_the_node_is_asked_for_in_a_handshake(target: bytes) -> None:
    """A node hangs up on any other path, or any query."""
    seen = b""

    async def node(stream: trio.abc.Stream) -> None:
        nonlocal seen
        seen = await read_head(stream)
        await stream.send_all(ACCEPTED)
        await read_all(stream)

    async with open_world(ROUTES) as world:
        world.nodes["node-a"] = node
        client = world.connect()
        await client.send_all(UPGRADE.replace(b"/deepstream", target))

        assert status(await read_head(client)) == 101
    assert seen.startswith(b"GET /deepstream HTTP/1.1\r\n")
    assert world.records[0].target == target.decode()


async def test_methods() -> None:
    async with open_world(ROUTES) as world:
        answer = await world.ask(get("/http/x", "DELETE"))

    assert (status(answer), token(answer)) == (405, "http_request_denied")
    assert fields(answer)["allow"] == "GET, HEAD, POST"


HASHED = ROUTES.replace('"round_robin"', '"hash"\nhash_on = "query:token"')


async def test_a_dropped_query_still_chooses_the_node() -> None:
    async with open_world(HASHED) as world:
        for token_ in "abcdefgh":
            for name in ("node-a", "node-b"):
                world.nodes[name] = answering(ACCEPTED)
            before = len(world.dialled)
            for _ in range(2):
                target = f"/deepstream?token={token_}".encode()
                await world.ask(UPGRADE.replace(b"/deepstream", target))
            first, second = world.dialled[before:]
            assert first == second

    assert set(world.dialled) == {"node-a", "node-b"}


# -- error pages -----------------------------------------------------------------------------------


@pytest.fixture
def paged(tmp_path: Path) -> str:
    """A configuration with pages in files of this folder, by their absolute names."""
    for name in ("404.html", "5xx.html", "route.txt"):
        (tmp_path / name).write_text(f"This is {name}.")
    return f"""
error_pages = {{ 404 = "{tmp_path}/404.html", 5xx = "{tmp_path}/5xx.html" }}
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
prefix = "/api"
upstream = "nodes"
error_pages = {{ 502 = "{tmp_path}/route.txt" }}
[[routes]]
path = "/down"
respond = {{ status = 503 }}
[[routes]]
path = "/own"
respond = {{ status = 503, body = "mine" }}
[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
{CONFIG[CONFIG.index("[upstreams.nodes]") :]}"""


@pytest.mark.parametrize(
    ("target", "code", "text", "kind", "error"),
    [
        ("/x", 404, b"This is 404.html.", "text/html; charset=utf-8", "destination_not_found"),
        ("/api", 502, b"This is route.txt.", "text/plain; charset=utf-8", "connection_refused"),
        ("/down", 503, b"This is 5xx.html.", "text/html; charset=utf-8", "proxy_internal_response"),
        ("/own", 503, b"mine", "text/plain; charset=utf-8", "proxy_internal_response"),
        ("/deepstream", 426, None, "text/plain; charset=utf-8", "http_request_error"),
    ],
)
async def test_pages(
    paged: str, target: str, code: int, text: bytes | None, kind: str, error: str
) -> None:
    async with open_world(paged) as world:
        answer = await world.ask(get(target))

    assert (status(answer), token(answer)) == (code, error)
    assert fields(answer)["content-type"] == kind
    if text is None:
        assert body(answer).startswith(b"426 Upgrade Required: ")
    else:
        assert body(answer) == text
    if target != "/own":
        assert fields(answer)["cache-control"] == "no-store"


async def test_handshakes_get_them_and_what_else_belongs_to_the_answer(paged: str) -> None:
    async with open_world(paged) as world:
        answer = await world.ask(UPGRADE.replace(b"/deepstream", b"/none"))
        # Both rest after this, so that the next one has nobody to ask.
        await world.ask(UPGRADE)
        nobody = await world.ask(UPGRADE)

    assert (status(answer), body(answer)) == (404, b"This is 404.html.")
    assert (status(nobody), body(nobody)) == (500, b"This is 5xx.html.")
    assert int(fields(nobody)["retry-after"]) > 0


async def test_a_node_s_own_answer_is_its_own(paged: str) -> None:
    async with open_world(paged) as world:
        world.nodes["node-a"] = Recorder(502, b"node's")
        answer = await world.ask(get("/api"))

    assert (status(answer), body(answer)) == (502, b"node's")


async def test_a_page_has_its_time(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    """More than `timeouts.linger`, in which a slow client could not take it; but not for ever."""
    (tmp_path / "big").write_bytes(bytes(PAGE_BYTES))
    config = f"error_pages.404 = '{tmp_path}/big'\ntimeouts = {{ body = 30, linger = 1 }}\n{CONFIG}"
    async with open_world(config) as world:
        slow, stopped = connect_slow(world), connect_slow(world)
        await slow.send_all(get("/none"))
        await stopped.send_all(get("/none"))
        await trio.sleep(20)
        await slow.send_eof()
        answer = await read_all(slow)
        await trio.sleep(20)

    assert len(body(answer)) == PAGE_BYTES
    assert [round(record.session_time or 0) for record in world.records] == [20, 30]


def connect_slow(world: World) -> trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]:
    """Return a client's end of a connection where nothing is sent before it is read."""
    near, far = trio.testing.lockstep_stream_pair()
    door = Door(world.service.config.listeners[0])
    connection = Connection(world.service, near, door, client="192.0.2.7:555")
    world.nursery.start_soon(connection.run)
    return far


def test_pages_leave_alone_what_has_a_body() -> None:
    config = parse_config(CONFIG)
    page = Page(Path("x.html"), b"page")
    route = Route(path="/", upstream="nodes", error_pages={"4xx": page, "5xx": page})
    denied, fine, none, nobody = Denied(body=b""), RouteAnswer(), NoRoute(), NoNode("u")
    for refusal in (denied, fine, none, nobody):
        add_page(refusal, route, config)

    assert (denied.body, fine.body) == (b"", None)
    assert (none.body, nobody.body) == (b"page", b"page")
    assert [name for name, _ in nobody.headers] == [
        b"Retry-After",
        b"Content-Type",
        b"Cache-Control",
    ]
