"""Who may have another session of a route."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.route import SessionLimits
from proxy.errors import RouteFull, TooMany
from proxy.serve.admission import Admission, Place

from .world import ACCEPTED, CONFIG, UPGRADE, answering, open_world, read_head, status, token

NOW = 100.0


def admit(
    admission: Admission, client: str = "192.0.2.1", now: float = NOW, **limits: Any
) -> Place:
    return admission.admit(SessionLimits(**limits), client, now, 1000)


def test_sessions_of_the_route() -> None:
    admission = Admission()
    places = [admit(admission, f"192.0.2.{n}", sessions=3) for n in range(3)]
    with pytest.raises(RouteFull) as caught:
        admit(admission, "192.0.2.9", sessions=3)
    assert caught.value.status == 503
    places[1].release()
    places[1].release()

    admit(admission, "192.0.2.9", sessions=3)
    assert admission.sessions == 3


def test_sessions_of_an_address() -> None:
    admission = Admission()
    place = admit(admission, sessions_per_address=1)
    admit(admission, "192.0.2.2", sessions_per_address=1)
    with pytest.raises(TooMany) as caught:
        admit(admission, sessions_per_address=1)
    assert caught.value.status == 429
    # One that was refused holds no place.
    assert admission.sessions == 2
    place.release()

    admit(admission, sessions_per_address=1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unix", "unix", True),
        ("not:an:address", "not:an:other", False),
    ],
)
def test_what_is_one_customer(one: str, other: str, same: bool) -> None:
    admission = Admission()
    admit(admission, one, sessions_per_address=1)
    if same:
        with pytest.raises(TooMany):
            admit(admission, other, sessions_per_address=1)
    else:
        admit(admission, other, sessions_per_address=1)


def test_handshakes_of_an_address() -> None:
    admission = Admission()
    limits: dict[str, Any] = {"handshakes_per_second": 2.0, "burst": 2.0}
    for _ in range(4):
        admit(admission, **limits)
    with pytest.raises(TooMany) as caught:
        admit(admission, **limits)
    assert caught.value.detail == "Too many handshakes from this address."
    assert caught.value.headers == ((b"Retry-After", b"1"),)
    admit(admission, "192.0.2.2", **limits)

    # Being refused costs nothing: half a second later there is room for one.
    admit(admission, now=NOW + 0.51, **limits)
    with pytest.raises(TooMany):
        admit(admission, now=NOW + 0.51, **limits)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 3)), max_size=60))
def test_memory_of_addresses_is_bounded(steps: list[tuple[int, float]]) -> None:
    admission, now = Admission(), NOW
    for host, pause in steps:
        now += pause
        try:
            limits = SessionLimits(handshakes_per_second=1.0, burst=1.0)
            admission.admit(limits, f"192.0.2.{host}", now, 3)
        except TooMany:
            continue
        assert admission.addresses <= 3


def test_addresses_that_were_quiet_are_forgotten() -> None:
    admission = Admission()
    for n in range(100):
        admit(admission, f"192.0.2.{n}", handshakes_per_second=10.0)
    admit(admission, "198.51.100.1", NOW + 10, handshakes_per_second=10.0)

    assert admission.addresses == 1


def test_another_pace_begins_anew() -> None:
    admission = Admission()
    admit(admission, handshakes_per_second=0.1, burst=0.01)
    with pytest.raises(TooMany):
        admit(admission, handshakes_per_second=0.1, burst=0.01)

    admit(admission, handshakes_per_second=0.2, burst=0.01)


async def test_through_the_proxy(autojump_clock: trio.testing.MockClock) -> None:
    """A place is held from the handshake to the session's end, and by no refused one."""
    limits = "websocket = true\nlimits = { sessions_per_address = 1 }\n"
    async with open_world(CONFIG.replace("websocket = true\n", limits)) as world:
        refusing = answering(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        world.nodes["node-a"] = world.nodes["node-b"] = refusing
        assert status(await world.ask(UPGRADE)) == 403
        world.nodes["node-a"] = world.nodes["node-b"] = answering(ACCEPTED, b"\x88\x00")
        client = world.connect()
        await client.send_all(UPGRADE)
        assert status(await read_head(client)) == 101

        answer = await world.ask(UPGRADE)
        assert (status(answer), token(answer)) == (429, "connection_limit_reached")
        assert b"\r\nRetry-After: 5\r\n" in answer
        await client.send_all(b"\x88\x80mask")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [record.status for record in world.records] == [403, 429, 101]

        second = world.connect()
        await second.send_all(UPGRADE)
        assert status(await read_head(second)) == 101


async def test_routes_of_one_name_are_limited_by_themselves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As those of two listeners are, though records call both alike."""
    start, end = CONFIG.index("[[listeners]]"), CONFIG.index("[upstreams")
    config = CONFIG[:start] + "".join(
        f'[[listeners]]\nbind = "127.0.0.1:{port}"\nname = "{name}"\n'
        for port, name in ((1, "a"), (2, "b"))
    )
    for name, limit in (("a", "sessions = 1"), ("b", "sessions_per_address = 2")):
        config += '[[routes]]\npath = "/deepstream"\nwebsocket = true\nupstream = "nodes"\n'
        config += f'listener = "{name}"\nlimits.{limit}\n'
    async with open_world(config + CONFIG[end:]) as world:
        routes = world.service.config.routes
        assert routes[0].name == routes[1].name
        world.service.admit(routes[0], "192.0.2.1")
        for _ in range(2):
            world.service.admit(routes[1], "192.0.2.1")
        for route, kind in ((routes[0], RouteFull), (routes[1], TooMany)):
            with pytest.raises(kind):
                world.service.admit(route, "192.0.2.1")
