"""The same requests, answered the same: through the proxy, plain and over TLS, and without it.

What is compared are bytes: status, reason, interim answers, names, values and order of header
lines, body, trailers, and whether the connection goes on.  Left out is what a proxy has of its own,
see `exchanges.OWN`.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from .exchanges import (
    Answer,
    Case,
    Poke,
    Until,
    ask,
    case,
    chunks,
    open_way,
    run_case,
)
from .harness import Certificate, Proxy, open_nodes, open_proxy
from .nodes import HERE
from .program import deadline, open_program

GIB = 2**30
#: As in http.js.
PERIOD = 65521
PATTERN = bytes((i * 167 + (i >> 8)) & 0xFF for i in range(PERIOD)) * 20
#: What a body of any length may take of the proxy's memory: some buffers, never the body.
GROWTH = 4 * 2**20

CONFIG = """
[log]
format = "json"

[limits]
body_bytes = 4294967296
head_bytes = 65536
headers = 200

[[listeners]]
name = "plain"
bind = "127.0.0.1:0"

[[listeners]]
name = "tls"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}

[[routes]]
prefix = "/"
upstream = "node"

[upstreams.node]
nodes = [ "{node}" ]
"""

LONG = "v" * 8000
PIECE = bytes(range(256)) * 400
PACKED = zlib.compress(b"sent as it is " * 500)
FORM = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"

REQUESTS = [
    case("get", ask("/seen"), Answer()),
    case("target", ask("/seen//a/b%2Fc;p=1/~?x=%20&y=[]|{}^`'\"&&=+*"), Answer()),
    case("long target", ask("/seen?" + "q" * 7000), Answer()),
    case(
        "names",
        ask("/seen", "X-MiXed: a", "x-lower: b", "X_Under: c", "X-1!#$%&'*+.^`|~: d"),
        Answer(),
    ),
    case(
        "repeated",
        ask("/seen", "X-A: 1", "X-B: 2", "x-a: 3", "X-A: 1", "Cookie: a", "Cookie: b"),
        Answer(),
    ),
    case(
        "values",
        ask("/seen", "X-Empty:", "X-Blank:   ", "X-Trim: \t a  b \t", 'X-Quoted: "a, b;c"'),
        Answer(),
    ),
    case("8-bit value", ask("/seen", "X-Latin: caf\xe9 \xff"), Answer()),
    case(
        "host late",
        b"GET /seen HTTP/1.1\r\nAccept: */*\r\nhOST: RT.Example:8443\r\nX-Last: 1\r\n\r\n",
        Answer(),
    ),
    case("long value", ask("/seen", f"X-Long: {LONG}"), Answer()),
    case("many lines", ask("/seen", *(f"X-Line-{i}: {i}" for i in range(90))), Answer()),
    case("big head", ask("/seen", *(f"X-Line-{i}: {LONG}" for i in range(5))), Answer()),
    case(
        "authorization",
        ask("/seen", "Authorization: Basic YTpi", "Origin: null", "Range: bytes=0-1"),
        Answer(),
    ),
    case("empty line before", b"\r\n" + ask("/seen"), Answer()),
    *(
        case(m, ask("/seen", method=m), Answer(m))
        for m in ("OPTIONS", "PROPFIND", "PURGE", "M-SEARCH")
    ),
    *(
        case(f"{m} body", ask("/seen", method=m, body=b"a=b"), Answer(m))
        for m in ("PUT", "PATCH", "DELETE", "GET")
    ),
    case("empty post", ask("/seen", "Content-Length: 0", method="POST"), Answer()),
    case("post without length", ask("/seen", method="POST"), Answer()),
    case("form", ask("/seen", FORM, method="POST", body=b"a=%20&b=c"), Answer()),
    case("packed", ask("/seen", "Content-Encoding: deflate", method="POST", body=PACKED), Answer()),
    case("chunked", ask("/seen", CHUNKED, method="POST", body=chunks(b"ab", b"c" * 300)), Answer()),
    case("chunked get", ask("/seen", CHUNKED, body=chunks(b"ab")), Answer()),
    case(
        "extensions",
        ask("/seen", CHUNKED, method="PUT", body=chunks(b"ab", b"c", extension=b';a=b;c="d"')),
        Answer(),
    ),
    case(
        "trailers",
        ask(
            "/seen",
            CHUNKED,
            "TE: trailers",
            "Trailer: X-Sum",
            method="PUT",
            body=chunks(b"ab", trailers=b"X-Sum: 1\r\nx-sum: 2\r\n"),
        ),
        Answer(),
    ),
]

ANSWERS = [
    case("lines", ask("/lines"), Answer()),
    case("many", ask("/many?n=150&size=10"), Answer()),
    case("large head", ask("/many?n=5&size=5000"), Answer()),
    *(
        case(f"{code}", ask(f"/status?code={code}"), Answer())
        for code in (200, 201, 204, 301, 304, 404, 418, 500, 503, 599)
    ),
    case("304 with a length", ask("/status?code=304&length=1234"), Answer()),
    case("packed", ask("/gzip", "Accept-Encoding: gzip"), Answer()),
    *(
        case(f"HEAD {path}", ask(f"/{path}", method="HEAD"), Answer("HEAD"))
        for path in (
            "lines",
            "length",
            "gzip",
            "echo",
            "hints",
            "status?code=204",
            "status?code=200&length=99",
        )
    ),
    case("interim", ask("/hints"), Answer()),
    case("not found", ask("/nothing"), Answer()),
    case("large", ask("/source?n=3000000"), Answer()),
    case("large with a length", ask("/source?n=3000000&length=1"), Answer()),
]

BODIES = [
    case("length", ask("/length", method="POST", body=PIECE), Answer()),
    case("length, nothing", ask("/length"), Answer()),
    case("echo", ask("/echo", "Content-Type: a/b", method="POST", body=PIECE), Answer()),
    case(
        "echo chunked",
        ask("/echo", CHUNKED, method="POST", body=chunks(PIECE, b"x", PIECE)),
        Answer(),
    ),
    case(
        "echo trailers",
        ask(
            "/echo",
            CHUNKED,
            "TE: trailers",
            method="POST",
            body=chunks(b"a", trailers=b"X-Sum: 9\r\n"),
        ),
        Answer(),
    ),
    case(
        "bytes one by one",
        ask("/echo", CHUNKED, method="POST", body=chunks(*[b"%d" % (i % 10) for i in range(300)])),
        Answer(),
    ),
    case(
        "piece by piece",
        ask("/echo", CHUNKED, method="POST"),
        b"3\r\none\r\n",
        Until(b"one"),
        b"3\r\nt",
        b"wo\r\n",
        Until(b"wo"),
        b"0\r\n",
        b"\r\n",
        Answer(),
    ),
    case(
        "piece by piece, length",
        ask("/echo", "Content-Length: 6", method="POST"),
        b"one",
        Until(b"one"),
        b"two",
        Answer(),
    ),
    case(
        "head in pieces",
        b"POST /length HT",
        b"TP/1.1\r",
        b"\nHost: a\r\nContent-Le",
        b"ngth: 2\r\n\r",
        b"\na",
        b"b",
        Answer(),
    ),
    case(
        "expect",
        ask("/echo", EXPECT, "Content-Length: 4", method="POST"),
        Until(b"100 Continue\r\n\r\n"),
        b"body",
        Answer(),
    ),
    case(
        "expect chunked",
        ask("/length", EXPECT, CHUNKED, method="PUT"),
        Until(b"100 Continue\r\n\r\n"),
        chunks(b"body"),
        Answer(),
    ),
    case(
        "expect, not waiting",
        ask("/length?sent", EXPECT, method="PUT", body=b"body"),
        Answer(),
        any_end=True,
    ),
    case(
        "expect refused",
        ask("/refused", EXPECT, "Content-Length: 4", method="POST"),
        Answer(),
        any_end=True,
    ),
    case(
        "expect and too large",
        ask("/early", EXPECT, "Content-Length: 4000000", method="POST"),
        Answer(),
        any_end=True,
    ),
    case(
        "early",
        ask("/early", "Content-Length: 4000000", method="POST"),
        b"some",
        Answer(),
        any_end=True,
    ),
    case(
        "early chunked",
        ask("/early", CHUNKED, method="POST"),
        b"4\r\nsome\r\n",
        Answer(),
        any_end=True,
    ),
    case(
        "eager",
        ask("/eager", "Content-Length: 8", method="POST"),
        b"some",
        Answer(),
        b"more",
        any_end=True,
    ),
    case("eager and whole", ask("/eager", method="POST", body=b"whole"), Answer()),
]

STREAMS = [
    case(
        "events",
        ask("/events", "Accept: text/event-stream"),
        Until(b"data: 0\n\n"),
        Poke("/next?n=1"),
        Until(b"data: 1\n\n"),
        Poke("/next?n=2"),
        Until(b"data: 2\n\n"),
        Poke("/release"),
        Answer(),
    ),
    case("long poll", ask("/poll"), Poke("/release"), Answer()),
    case(
        "long poll with a body",
        ask("/poll", method="POST", body=b"wait"),
        Poke("/release"),
        Answer(),
    ),
]

ENDINGS = [
    case("asked to close", ask("/length", "Connection: close"), Answer()),
    case(
        "asked to close, chunked",
        ask("/echo", "connection: CLOSE", CHUNKED, method="POST", body=chunks(b"a")),
        Answer(),
    ),
    case("asked to keep", ask("/length", "Connection: keep-alive"), Answer()),
    case("until the end", ask("/endless"), Answer(), any_end=True),
    case("cut", ask("/cut"), Answer()),
    case("cut, chunked", ask("/cut?chunked=1"), Answer()),
    case("in turn", *(step for i in range(20) for step in (ask(f"/seen?{i}"), Answer()))),
    case("pipelined", b"".join(ask(f"/seen?{i}") for i in range(10)), *[Answer()] * 10),
    case(
        "pipelined bodies",
        ask("/length", method="POST", body=b"one")
        + ask("/lines", method="HEAD")
        + ask("/echo", CHUNKED, method="POST", body=chunks(b"two", b"three"))
        + ask("/status?code=304")
        + ask("/length", method="PUT", body=PIECE)
        + ask("/seen"),
        Answer(),
        Answer("HEAD"),
        *[Answer()] * 4,
    ),
    case(
        "pipelined behind what waits",
        ask("/poll") + ask("/seen?after"),
        Poke("/release"),
        Answer(),
        Answer(),
    ),
    case("1.0", ask("/length", version="1.0"), Answer()),
    case("1.0 without host", b"GET /length HTTP/1.0\r\n\r\n", Answer()),
    case("1.0 that streams", ask("/source?n=100000", version="1.0"), Answer()),
    case("1.0 with a body", ask("/length", version="1.0", method="POST", body=b"old"), Answer()),
    case(
        "1.0 kept",
        ask("/length", "Connection: keep-alive", version="1.0", method="POST", body=b"old"),
        Answer(),
        any_end=True,
    ),
]

GROUPS = {
    "requests": REQUESTS,
    "answers": ANSWERS,
    "bodies": BODIES,
    "streams": STREAMS,
    "endings": ENDINGS,
}

EVENT = {"topic": "event", "action": "emit", "eventName": "news", "data": "by post"}
JSON = "Content-Type: application/json"

#: What deepstream's own HTTP API can be asked.
DEEPSTREAM = [
    case("health", ask("/health-check"), Answer()),
    case("health, HEAD", ask("/health-check", method="HEAD"), Answer("HEAD")),
    case(
        "health, OPTIONS",
        ask("/health-check", "Origin: https://a.example", method="OPTIONS"),
        Answer(),
    ),
    case("get", ask("/api"), Answer()),
    case(
        "emit",
        ask("/api", JSON, method="POST", body=json.dumps({"body": [EVENT]}).encode()),
        Answer(),
    ),
    case(
        "emit chunked",
        ask(
            "/api",
            JSON,
            CHUNKED,
            method="POST",
            body=chunks(b'{"body": [', json.dumps(EVENT).encode(), b"]}"),
        ),
        Answer(),
    ),
    case("not JSON", ask("/api", JSON, method="POST", body=b"{"), Answer()),
    case("no type", ask("/api", method="POST", body=b"{}"), Answer()),
    case(
        "preflight",
        ask(
            "/api",
            "Origin: https://a.example",
            "Access-Control-Request-Method: POST",
            method="OPTIONS",
        ),
        Answer(),
    ),
    case("nothing there", ask("/nothing"), Answer()),
    case(
        "too large", ask("/api", JSON, method="POST", body=b" " * 1_100_000), Answer(), any_end=True
    ),
    case("in turn", *(step for _ in range(5) for step in (ask("/health-check"), Answer()))),
]


@contextlib.asynccontextmanager
async def open_http_node() -> AsyncIterator[str]:
    """Run http.js and yield its address."""
    async with open_program("http node", ["node", "http.js"], cwd=HERE) as program:
        await program.until_ready()
        yield f"127.0.0.1:{program.named('ready')[0]['port']}"


@contextlib.asynccontextmanager
async def open_front(certificate: Certificate, node: str) -> AsyncIterator[Proxy]:
    """Run the proxy before a node, with a plain listener and one with TLS."""
    files = attrs.asdict(certificate)
    async with open_proxy(CONFIG.format(node=node, **files)) as proxy:
        yield proxy


async def differences(
    cases: list[Case], node: str, proxy: Proxy, certificate: Certificate
) -> dict[str, object]:
    """Return what was seen where it was not the same, by case and way."""
    ways = {"plain": (proxy.address("plain"), None), "tls": (proxy.address("tls"), certificate)}
    found: dict[str, object] = {}
    for one in cases:
        direct = await run_case(one, node, node, None)
        for way, (address, trust) in ways.items():
            try:
                through = await run_case(one, node, address, trust)
            except AssertionError as error:
                found[f"{one.name}, {way}"] = error
            else:
                if through != direct:
                    found[f"{one.name}, {way}"] = {"direct": direct, "through": through}
    return found


@pytest.mark.parametrize("group", GROUPS)
async def test_an_http_server_is_the_same_through_the_proxy(
    group: str, certificate: Certificate
) -> None:
    async with open_http_node() as node, open_front(certificate, node) as proxy:
        assert await differences(GROUPS[group], node, proxy, certificate) == {}


async def test_deepstream_is_the_same_through_the_proxy(certificate: Certificate) -> None:
    async with open_nodes(1) as (node,), open_front(certificate, node.address) as proxy:
        assert await differences(DEEPSTREAM, node.address, proxy, certificate) == {}


@pytest.mark.parametrize("path", ["poll", "events"])
@pytest.mark.parametrize("way", ["plain", "tls"])
async def test_a_node_learns_that_the_client_has_gone(
    path: str, way: str, certificate: Certificate
) -> None:
    begun = [] if path == "poll" else [Until(b"data: 0\n\n")]
    waiting = case("waiting", ask(f"/{path}"), *begun, Poke("/parked"), any_end=True)
    gone = case("gone", ask("/gone"), Answer())
    async with open_http_node() as node, open_front(certificate, node) as proxy:
        trust = certificate if way == "tls" else None
        # Hangs up at the end.
        await run_case(waiting, node, proxy.address(way), trust)

        assert (await run_case(gone, node, node, None)).answers[0][:2] == ((), (b"200", b"OK"))


class Memory:
    """What a process takes more than it did, at its highest."""

    def __init__(self, proxy: Proxy) -> None:
        self._folder = Path(f"/proc/{proxy.pid}")
        # From here on the kernel notes the highest value anew.
        (self._folder / "clear_refs").write_text("5")
        self._before = self._highest()

    def _highest(self) -> int:
        status = (self._folder / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def grown(self) -> int:
        return self._highest() - self._before


async def upload(stream: trio.abc.Stream, size: int, *, chunked: bool) -> bytes:
    """Send so many bytes, made as they go, and return the answer."""
    piece = PATTERN[: PERIOD * 16]
    length = CHUNKED if chunked else f"Content-Length: {size}"
    await stream.send_all(ask("/sink", length, "Connection: close", method="POST"))
    for start in range(0, size, len(piece)):
        part = piece[: size - start]
        await stream.send_all(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    if chunked:
        await stream.send_all(b"0\r\n\r\n")
    return b"".join([bytes(part) async for part in stream])


async def download(stream: trio.abc.Stream, size: int) -> None:
    """Ask for so many bytes, and look at each."""
    await stream.send_all(ask(f"/source?n={size}&length=1", "Connection: close"))
    head, came = b"", 0
    while b"\r\n\r\n" not in head:
        head += bytes(await stream.receive_some())
    piece = head.partition(b"\r\n\r\n")[2]
    while piece or (piece := bytes(await stream.receive_some(PERIOD * 16))):
        at = came % PERIOD
        assert piece == PATTERN[at : at + len(piece)], f"changed near {came}"
        came += len(piece)
        piece = b""
    assert came == size


@pytest.mark.parametrize(("way", "chunked"), [("plain", False), ("tls", True)])
async def test_a_gibibyte_up_leaves_no_trace(
    way: str, chunked: bool, certificate: Certificate
) -> None:
    trust = certificate if way == "tls" else None
    async with open_http_node() as node, open_front(certificate, node) as proxy:
        async with open_way(proxy.address(way), trust) as stream:
            await upload(stream, 2**23, chunked=chunked)
        memory = Memory(proxy)
        with deadline(60, "1 GiB to go up"):
            async with open_way(proxy.address(way), trust) as stream:
                answer = await upload(stream, GIB, chunked=chunked)

        assert f"\n{GIB}\n".encode() in answer.replace(b"\r", b"")
        assert memory.grown() < GROWTH


@pytest.mark.parametrize("way", ["plain", "tls"])
async def test_a_gibibyte_down_leaves_no_trace(way: str, certificate: Certificate) -> None:
    trust = certificate if way == "tls" else None
    async with open_http_node() as node, open_front(certificate, node) as proxy:
        async with open_way(proxy.address(way), trust) as stream:
            await download(stream, 2**23)
        memory = Memory(proxy)
        with deadline(60, "1 GiB to come down"):
            async with open_way(proxy.address(way), trust) as stream:
                await download(stream, GIB)

        assert memory.grown() < GROWTH
