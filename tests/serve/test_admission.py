"""Who may have another session of a route."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.http import RequestRate
from proxy.config.network import Network
from proxy.config.route import Route, SessionLimits
from proxy.errors import AddressDenied, RouteFull, TooMany
from proxy.serve.admission import Admission, Place, check_address

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


LIMIT = RequestRate(per_second=2.0, burst=3)


def test_requests_of_an_address() -> None:
    """So many at once, then so many a second; an address of its own each, of IPv6 each /64."""
    admission = Admission()
    for n in range(3):
        admission.check_request(LIMIT, f"2001:db8::{n}", NOW, 1000)
    with pytest.raises(TooMany) as caught:
        admission.check_request(LIMIT, "2001:db8::9", NOW, 1000)
    assert caught.value.detail == "Too many requests from this address."
    assert (caught.value.status, caught.value.headers) == (429, ((b"Retry-After", b"1"),))
    admission.check_request(LIMIT, "192.0.2.1", NOW, 1000)

    admission.check_request(LIMIT, "2001:db8::9", NOW + 0.51, 1000)
    with pytest.raises(TooMany):
        admission.check_request(LIMIT, "2001:db8::9", NOW + 0.51, 1000)
    # They are no handshakes.
    admit(admission, "2001:db8::9", NOW + 0.51, handshakes_per_second=1.0)


def test_retry_after_is_when_one_more_may_come() -> None:
    admission, slow = Admission(), RequestRate(per_second=0.1, burst=1)
    admission.check_request(slow, "192.0.2.1", NOW, 1000)
    with pytest.raises(TooMany) as caught:
        admission.check_request(slow, "192.0.2.1", NOW + 2.5, 1000)

    assert caught.value.headers == ((b"Retry-After", b"8"),)
    admission.check_request(slow, "192.0.2.1", NOW + 2.5 + 8, 1000)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_second_has_more_than_burst_and_rate(pauses: list[float]) -> None:
    admission, now, passed = Admission(), NOW, []
    for pause in pauses:
        now += pause
        with suppress(TooMany):
            admission.check_request(LIMIT, "192.0.2.1", now, 1000)
            passed.append(now)
    for start in passed:
        within = [one for one in passed if start <= one <= start + 1]
        assert len(within) <= LIMIT.burst + LIMIT.per_second


def test_addresses_of_requests_are_bounded() -> None:
    admission = Admission()
    for n in range(100):
        admission.check_request(LIMIT, f"192.0.2.{n}", NOW, 10)

    assert admission.addresses == 10


NETS = {
    "none": ((), ()),
    "allow": (("10.0.0.0/8", "unix"), ()),
    "deny": ((), ("10.0.0.7",)),
    "both": (("10.0.0.0/8",), ("10.0.0.0/24",)),
}


@pytest.mark.parametrize(
    ("nets", "client", "may"),
    [
        ("none", "192.0.2.1", True),
        ("none", "unix", True),
        ("none", "gone", True),
        ("allow", "10.0.0.7", True),
        ("allow", "::ffff:10.0.0.7", True),
        ("allow", "unix", True),
        ("allow", "192.0.2.1", False),
        ("allow", "::1", False),
        ("allow", "gone", False),
        ("deny", "10.0.0.7", False),
        ("deny", "::ffff:10.0.0.7", False),
        ("deny", "10.0.0.8", True),
        ("deny", "unix", True),
        ("both", "10.0.1.1", True),
        ("both", "10.0.0.1", False),
        ("both", "192.0.2.1", False),
    ],
)
def test_who_may_come(nets: str, client: str, *, may: bool) -> None:
    allow, deny = (tuple(map(Network.parse, texts)) for texts in NETS[nets])
    route = Route(path="/", upstream="u", allow=allow, deny=deny)
    if may:
        check_address(route, client)
        return
    with pytest.raises(AddressDenied):
        check_address(route, client)


@pytest.mark.parametrize("request_", [UPGRADE, b"GET /api/x HTTP/1.1\r\nHost: h\r\n\r\n"])
async def test_who_may_not_come_gets_no_further(request_: bytes) -> None:
    config = CONFIG.replace("[[routes]]", '[[routes]]\ndeny = ["192.0.2.0/24"]')
    async with open_world(config) as world:
        answer = await world.ask(request_)

    assert (status(answer), token(answer)) == (403, "http_request_denied")
    assert world.dialled == []


async def test_requests_and_handshakes_count_alike(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also on one connection; and those that are answered here."""
    config = CONFIG.replace("[[routes]]", "[[routes]]\nrequests = { per_second = 0.1, burst = 3 }")
    config = config.replace('prefix = "/api"\nupstream = "nodes"', 'prefix = "/"\nrespond = {}')
    get = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    async with open_world(config) as world:
        answer = await world.ask(get * 4)
        assert answer.count(b"HTTP/1.1 200 ") == 3
        assert answer.count(b"HTTP/1.1 429 ") == 1
        assert b"\r\nRetry-After: 10\r\n" in answer
        # Another route counts for itself.
        statuses = [status(await world.ask(UPGRADE)) for _ in range(4)]
        assert statuses == [502, 500, 500, 429]
        await trio.sleep(10)
        assert status(await world.ask(get)) == 200


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
