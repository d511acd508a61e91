"""What is told of clients, over whole exchanges: to nodes, to clients, in records; and loops."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from proxy import Handshake, Hooks, Record, open_proxy, parse_config

from .world import (
    ACCEPTED,
    CONFIG,
    UPGRADE,
    Recorder,
    answering,
    open_world,
    read_all,
    status,
    token,
)

Clock = trio.testing.MockClock
#: World's clients come from 192.0.2.7.
TRUSTING = 'forwarding = { trusted = ["192.0.2.0/24"] }\n' + CONFIG
RULES = """
request_headers = { set = { "X-Env" = "prod" }, remove = ["Cookie"] }
response_headers = { set = { "X-Frame-Options" = "DENY", "X-Id" = "{request_id}" }, \
remove = ["X-Node"] }
"""
WITH_RULES = CONFIG.replace('upstream = "nodes"\n', f'upstream = "nodes"{RULES}')
LIMIT = 5


def get(more: bytes = b"", path: bytes = b"/api") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: rt.example\r\n" + more + b"\r\n"


def upgrade(more: bytes) -> bytes:
    return UPGRADE.replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n")


async def test_the_client_behind_a_trusted_proxy(autojump_clock: Clock) -> None:
    async with open_world(TRUSTING) as world:
        world.nodes["node-a"] = node = Recorder()
        chain = b"X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"
        await world.ask(get(chain + b"X-Request-Id: theirs\r\n"))
        headers = dict(node.requests[0][0].headers)

        assert headers[b"x-forwarded-for"] == b"6.6.6.6, 203.0.113.9, 192.0.2.7"
        assert headers[b"x-forwarded-proto"] == b"https"
        assert headers[b"x-request-id"] == b"theirs"
        (record,) = world.records
        assert (record.client, record.peer) == ("203.0.113.9", "192.0.2.7:555")
        assert record.request_id == "theirs"
        assert record.id != "theirs"


async def test_each_request_of_a_connection_has_its_own_client(autojump_clock: Clock) -> None:
    async with open_world(TRUSTING) as world:
        world.nodes = {"node-a": Recorder(), "node-b": Recorder()}
        client = world.connect()
        for number in (b"8", b"9"):
            await client.send_all(get(b"X-Forwarded-For: 203.0.113.%b\r\n" % number))
        await client.send_all(get())
        await client.send_stream.aclose()
        await read_all(client)

        found = [(record.client, record.peer) for record in world.records]
        trusted = "192.0.2.7:555"
        assert found == [("203.0.113.8", trusted), ("203.0.113.9", trusted), (trusted, "")]


async def test_a_client_is_known_where_there_is_no_route(autojump_clock: Clock) -> None:
    async with open_world(TRUSTING) as world:
        await world.ask(get(b"X-Forwarded-For: 203.0.113.9\r\n", b"/nowhere"))

        assert world.records[0].client == "203.0.113.9"


async def test_limits_and_hashes_are_of_the_client(autojump_clock: Clock) -> None:
    """One proxy brings everybody: neither may all of them share a limit, nor a node."""
    config = TRUSTING.replace(
        "origins =", "limits = { handshakes_per_second = 0.1, burst = 10 }\norigins ="
    ).replace('balance = "round_robin"', 'balance = "hash"')
    async with open_world(config) as world:
        world.nodes = {"node-a": answering(ACCEPTED), "node-b": answering(ACCEPTED)}

        async def ask(address: bytes) -> int:
            return status(await world.ask(upgrade(b"X-Forwarded-For: " + address + b"\r\n")))

        assert await ask(b"203.0.113.9") == 101
        assert await ask(b"203.0.113.9") == 429
        assert [await ask(b"203.0.113.%d" % last) for last in range(10, 26)] == [101] * 16
        assert set(world.dialled) == {"node-a", "node-b"}


async def test_hooks_see_the_client(autojump_clock: Clock) -> None:
    seen: list[Handshake] = []

    async def on_handshake(handshake: Handshake) -> None:
        seen.append(handshake)

    async with open_world(
        TRUSTING.replace("] }", '], believe = "forwarded" }', 1),
        hooks={"/deepstream": Hooks(on_handshake=on_handshake)},
    ) as world:
        world.nodes["node-a"] = answering(ACCEPTED)
        await world.ask(upgrade(b"Forwarded: for=203.0.113.9;proto=https\r\n"))

        (one,) = seen
        assert (one.client, one.address, one.scheme) == ("203.0.113.9", "203.0.113.9", "https")
        assert world.records[0].client == "203.0.113.9"


async def test_rules_of_a_route(autojump_clock: Clock) -> None:
    async with open_world(WITH_RULES) as world:
        world.nodes["node-a"] = node = Recorder()
        answer = await world.ask(get(b"Cookie: a=b\r\n"))
        headers = dict(node.requests[0][0].headers)

        assert headers[b"x-env"] == b"prod"
        assert b"cookie" not in headers
        assert b"X-Frame-Options: DENY\r\n" in answer
        assert b"X-Id: " + world.records[0].id.encode() + b"\r\n" in answer
        assert b"X-Node" not in answer
        assert b"Via: 1.1 tidegate\r\n" in answer


@pytest.mark.parametrize(
    ("request_", "expected", "ruled"),
    [
        (get(), 502, True),
        (upgrade(b"Origin: https://evil.example\r\n"), 403, True),
        (get(path=b"/nowhere"), 404, False),
    ],
)
async def test_rules_hold_for_what_is_answered_here(
    request_: bytes, expected: int, *, ruled: bool, autojump_clock: Clock
) -> None:
    async with open_world(WITH_RULES) as world:
        answer = await world.ask(request_)

        assert status(answer) == expected
        assert (b"X-Frame-Options: DENY\r\n" in answer) == ruled
        assert token(answer)
        # It was not forwarded.
        assert b"Via:" not in answer


async def test_rules_hold_for_handshakes(autojump_clock: Clock) -> None:
    async with open_world(WITH_RULES) as world:
        heads: list[bytes] = []

        async def node(stream: trio.abc.Stream) -> None:
            heads.append(bytes(await stream.receive_some()))
            await stream.send_all(ACCEPTED.replace(b"\r\n\r\n", b"\r\nX-Node: a\r\n\r\n"))

        world.nodes["node-a"] = node
        answer = await world.ask(upgrade(b"Cookie: a=b\r\n"))

        assert status(answer) == 101
        assert b"X-Frame-Options: DENY\r\n" in answer
        assert b"X-Node" not in answer
        assert b"X-Env: prod\r\n" in heads[0]
        assert b"Cookie" not in heads[0]


async def test_hsts_stands_on_every_answer(autojump_clock: Clock) -> None:
    hsts = "hsts = { max_age = 600 }\n[[routes]]"
    async with open_world(TRUSTING.replace("[[routes]]", hsts, 1)) as world:
        world.nodes = {"node-a": Recorder(), "node-b": Recorder()}
        https, expected = b"X-Forwarded-Proto: https\r\n", b"Strict-Transport-Security: max-age=600"

        assert expected in await world.ask(get(https))
        assert expected in await world.ask(get(https, b"/nowhere"))
        assert expected not in await world.ask(get())


async def test_hsts_stands_on_what_could_not_be_read(
    ca: trustme.CA, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    tls = 'tls = { certificates = [ { cert_file = "both.pem", key_file = "both.pem" } ] }\n'
    text = CONFIG.replace('"node-a:1", "node-b:1"', '"127.0.0.1:1"')
    text = text.replace("[[routes]]", tls + "hsts = {}\n[[routes]]", 1)
    with trio.fail_after(LIMIT):
        async with open_proxy(
            parse_config(text, folder=tmp_path), on_record=lambda _: None
        ) as proxy:
            address = proxy.address()
            async with await trio.open_ssl_over_tcp_stream(
                address.host, address.port, ssl_context=client_tls, https_compatible=True
            ) as client:
                await client.send_all(b"GET / HTTP/1.1\n\n")
                answer = await read_all(client)

    assert status(answer) == 400
    assert b"\r\nStrict-Transport-Security: max-age=31536000\r\n" in answer


def looping(name: str, upstream: str, folder: Path, more: str = "") -> str:
    return f"""
    timeouts.reach = 2
    {more}
    [[listeners]]
    bind = "unix:{folder / name}"
    [[listeners]]
    bind = "unix:{folder / name}2"
    [[routes]]
    prefix = "/"
    websocket = true
    upstream = "self"
    [upstreams.self]
    nodes = [ "unix:{folder / upstream}", "unix:{folder / upstream}2" ]
    panic = "refuse"
    hold.timeout = 0
    """


async def ask_socket(path: Path, request: bytes) -> bytes:
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        return answer


CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize("request_", [get(CLOSE), UPGRADE], ids=["plain", "websocket"])
@pytest.mark.parametrize(("passes", "most"), [(1, 3), (3, 15)])
async def test_a_proxy_that_asks_itself(
    tmp_path: Path, request_: bytes, passes: int, most: int
) -> None:
    """One answer; a handshake asks both nodes at each level, and there are few levels."""
    records: list[Record] = []
    text = looping("a", "a", tmp_path, f"forwarding.passes = {passes}")
    with trio.fail_after(LIMIT):
        async with open_proxy(parse_config(text), on_record=records.append):
            answer = await ask_socket(tmp_path / "a", request_)

    assert status(answer) == 502
    # Or that no node has let it through, where more than one level has asked both.
    assert token(answer) in ("proxy_loop_detected", "http_upgrade_failed")
    assert passes < len(records) <= most
    assert all(record.status == 502 for record in records)
    assert sum(record.token == "proxy_loop_detected" for record in records) >= 1


async def test_a_loop_through_another_proxy(tmp_path: Path) -> None:
    first: list[Record] = []
    second: list[Record] = []
    one = parse_config(looping("a", "b", tmp_path, 'forwarding.via = "same"'))
    other = parse_config(looping("b", "a", tmp_path, 'forwarding.via = "same"'))
    with trio.fail_after(LIMIT):
        async with (
            open_proxy(one, on_record=first.append),
            open_proxy(other, on_record=second.append),
        ):
            answer = await ask_socket(tmp_path / "a", get(CLOSE))

    assert (status(answer), token(answer)) == (502, "proxy_loop_detected")
    # It is found where it closes, and not before.
    assert [record.token for record in first] == ["proxy_loop_detected", ""]
    assert [record.token for record in second] == [""]
