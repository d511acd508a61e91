"""Who the client is, what a node is told of it, and what has been here before."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from proxy.config.address import Address
from proxy.config.forwarding import Forwarding, Hsts
from proxy.config.headers import HeaderRules
from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.config.tls import Certificate, ListenerTls
from proxy.config.upstream import Node, Upstream
from proxy.errors import LoopDetected, TooManyHops
from proxy.wire.clients import Clients, Peer
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers, request_headers, response_headers

BIND = Address("127.0.0.1", 8080)
PLAIN = Listener(bind=BIND)
HOST = (b"Host", b"rt.example")
UNTRUSTED = "203.0.113.9"


def clients(route: dict[str, Any] | None = None, **forwarding: Any) -> Clients:
    config = Config(
        listeners=(PLAIN,),
        routes=(Route(path="/", upstream="a", **(route or {})),),
        upstreams={"a": Upstream(nodes=(Node(address=Address("127.0.0.1", 1)),))},
        forwarding=Forwarding(**({"trusted": ("10.0.0.0/8", "unix")} | forwarding)),
    )
    return Clients(config, "f00d")


def head(*headers: tuple[bytes, bytes]) -> Request:
    return Request(b"GET", b"/", [*headers])


def facts(
    who: Clients, *headers: tuple[bytes, bytes], peer: str = "10.0.0.1", listener: Listener = PLAIN
) -> ClientFacts:
    found = who.facts(Peer(peer, listener, 8080, listener.scheme), head(HOST, *headers), "made")
    found.heads = who.heads(who._routes[0])
    return found


def told(who: Clients, *headers: tuple[bytes, bytes], peer: str = "10.0.0.1") -> Headers:
    """Return what a node gets besides the client's own headers."""
    sent = request_headers([HOST, *headers], facts(who, *headers, peer=peer))
    assert sent[0] == HOST
    return sent[1:]


FORGED = [
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Forwarded-Port", b"1"),
    (b"Forwarded", b"for=6.6.6.6"),
    (b"X-Real-IP", b"6.6.6.6"),
    (b"X-Request-Id", b"theirs"),
]


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)])
def test_who_is_not_trusted_is_the_client(trusted: tuple[str, ...]) -> None:
    who = clients(trusted=trusted)

    assert told(who, *FORGED, peer=UNTRUSTED) == [
        (b"X-Forwarded-For", UNTRUSTED.encode()),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"rt.example"),
        (b"X-Forwarded-Port", b"8080"),
        (b"X-Request-Id", b"made"),
        (b"Via", b"1.1 tidegate-f00d"),
    ]


@pytest.mark.parametrize(
    ("forwarded_for", "expected"),
    [("append", b"6.6.6.6, 203.0.113.9, 10.0.0.2, 10.0.0.1"), ("client", b"203.0.113.9")],
)
def test_a_trusted_peer_is_believed(forwarded_for: str, expected: bytes) -> None:
    given = [
        (b"X-Forwarded-For", b"6.6.6.6, 203.0.113.9:555"),
        (b"X-Forwarded-For", b"10.0.0.2"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"public.example"),
        (b"X-Request-Id", b"theirs"),
    ]
    who = clients(forwarded_for=forwarded_for)

    assert told(who, *given) == [
        (b"X-Forwarded-For", expected),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"public.example"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Request-Id", b"theirs"),
        (b"Via", b"1.1 tidegate-f00d"),
    ]
    found = facts(who, *given)
    assert (found.address, found.scheme, found.port) == (UNTRUSTED, "https", 443)


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        (
            "x-forwarded",
            {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"},
        ),
        ("forwarded", {"Forwarded"}),
        (
            "both",
            {
                *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"),
                *("X-Forwarded-Port", "Forwarded"),
            },
        ),
        ("none", set()),
    ],
)
def test_in_which_language(headers: str, names: set[str]) -> None:
    who = clients(headers=headers, via="", request_id=False)

    for peer in ("10.0.0.1", UNTRUSTED):
        assert {name.decode() for name, _ in told(who, *FORGED, peer=peer)} == names


@pytest.mark.parametrize(
    ("given", "forwarded"),
    [
        # From one language to the other.
        (
            [(b"X-Forwarded-For", b"2001:db8::9"), (b"X-Forwarded-Proto", b"wss")],
            b'for="[2001:db8::9]";proto=https, for=10.0.0.1;host=rt.example;proto=http',
        ),
        (
            [(b"Forwarded", b'for="[2001:db8::9]:5";by=_edge;proto=https;host="a:80"')],
            b'for="[2001:db8::9]";host="a:80";proto=https, for=10.0.0.1;host=rt.example;proto=http',
        ),
        # Nobody says who, but how.
        (
            [(b"X-Forwarded-Proto", b"https")],
            b"for=unknown;proto=https, for=10.0.0.1;host=rt.example;proto=http",
        ),
        ([], b"for=10.0.0.1;host=rt.example;proto=http"),
    ],
)
def test_forwarded(given: Headers, forwarded: bytes) -> None:
    believe = "forwarded" if given and given[0][0] == b"Forwarded" else "x-forwarded"
    who = clients(headers="forwarded", believe=believe)

    assert told(who, *given)[0] == (b"Forwarded", forwarded)


@pytest.mark.parametrize(
    ("believe", "theirs", "forged"),
    [
        (
            "x-forwarded",
            (b"X-Forwarded-For", b"203.0.113.9"),
            (b"Forwarded", b"for=6.6.6.6;proto=https"),
        ),
        ("forwarded", (b"Forwarded", b"for=203.0.113.9"), (b"X-Forwarded-Proto", b"https")),
        ("forwarded", (b"Forwarded", b"for=203.0.113.9"), (b"X-Forwarded-For", b"6.6.6.6")),
    ],
)
def test_one_language_is_believed(
    believe: str, theirs: tuple[bytes, bytes], forged: tuple[bytes, bytes]
) -> None:
    """What stands there in the other one may be the client's own."""
    found = facts(clients(believe=believe), theirs, forged)
    assert (found.address, found.scheme) == ("203.0.113.9", "http")

    alone = facts(clients(believe=believe), forged)
    assert (alone.address, alone.scheme) == ("10.0.0.1", "http")


def test_a_host_is_told_once_however_long_the_way_is() -> None:
    given = [(b"X-Forwarded-For", b"10.0.0.2," * 30), (b"X-Forwarded-Host", b"a" * 1000)]
    sent = dict(told(clients(headers="both"), *given))

    assert len(sent[b"Forwarded"]) < 2000


def test_unix_sockets_have_no_address() -> None:
    given = (b"X-Forwarded-For", b"203.0.113.9")
    trusted, untrusted = clients(headers="both"), clients(trusted=(), headers="both")

    alone = dict(told(untrusted, given, peer="unix"))
    assert b"X-Forwarded-For" not in alone
    assert alone[b"Forwarded"] == b"for=unknown;host=rt.example;proto=http"
    behind = dict(told(trusted, given, peer="unix"))
    assert behind[b"X-Forwarded-For"] == b"203.0.113.9"
    assert behind[b"Forwarded"].startswith(b"for=203.0.113.9, for=unknown;")
    assert facts(untrusted, given, peer="unix").address == "unix"
    assert facts(trusted, given, peer="unix").address == "203.0.113.9"
    assert not clients(trusted=("10.0.0.0/8",)).trusts("unix")
    assert not trusted.trusts("gone")


def test_trust() -> None:
    who = clients(trusted=("10.0.0.0/8", "2001:db8::/32", "192.0.2.7"))

    for address in ("10.255.0.1", "2001:db8::5", "192.0.2.7", "::ffff:10.0.0.1"):
        assert who.trusts(address)
    for address in ("11.0.0.1", "2001:db9::5", "192.0.2.8", "unix"):
        assert not who.trusts(address)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"0b8e7a2c-9d1f-4f3e-8c7d-1a2b3c4d5e6f", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"a b", False),
        (b"a,b", False),
        (b'a"', False),
        (b"\xe4", False),
    ],
)
def test_request_ids_that_are_kept(given: bytes, *, kept: bool) -> None:
    assert facts(clients(), (b"X-Request-Id", given)).request_id == (
        given.decode() if kept else "made"
    )


def via(*values: bytes) -> Headers:
    return [HOST, *((b"Via", value) for value in values)]


def test_what_was_here_before_is_refused() -> None:
    who, patient = clients(), clients(passes=2)
    ours = request_headers([HOST], facts(who))[-1]

    who.check_hops(head(HOST))
    who.check_hops(head(*via(b"1.1 tidegate-beef, 1.0 nginx")))
    with pytest.raises(LoopDetected) as caught:
        who.check_hops(head(*via(b"1.1 edge", ours[1], b"1.1 nginx")))
    assert (caught.value.status, caught.value.token) == (502, "proxy_loop_detected")
    patient.check_hops(head(HOST, ours))
    with pytest.raises(LoopDetected):
        patient.check_hops(head(HOST, ours, (b"VIA", ours[1])))
    # Whatever it has been called before a reload.
    with pytest.raises(LoopDetected):
        clients(via="other").check_hops(head(HOST, ours))


def test_hops_have_a_bound() -> None:
    who = clients(hops=3)

    who.check_hops(head(*via(b"1.1 a, 1.1 b", b"1.1 c")))
    with pytest.raises(TooManyHops) as caught:
        who.check_hops(head(*via(b"1.1 a, 1.1 b", b"1.1 c, 1.1 d")))
    # A proxy before this one would hold a 502 against it.
    assert caught.value.status == 400


def test_via() -> None:
    found = facts(clients(via="edge"))
    found.version = b"1.0"
    sent = request_headers(via(b"1.1 a"), found)

    assert [value for name, value in sent if name == b"Via"] == [b"1.1 a", b"1.0 edge-f00d"]
    # Clients are not told which process it was.
    assert response_headers([(b"Via", b"1.1 b")], found, b"1.0") == [
        (b"Via", b"1.1 b"),
        (b"Via", b"1.0 edge"),
    ]
    assert response_headers([], facts(clients(via=""))) == []


def test_a_client_cannot_take_via_out_of_the_way() -> None:
    sent = request_headers([*via(b"1.1 a"), (b"Connection", b"Via")], facts(clients()))

    assert (b"Via", b"1.1 a") in sent


def test_a_route_has_the_last_word() -> None:
    rules = HeaderRules(
        set={"X-Forwarded-For": "{client}", "X-Real-IP": "{client}", "Host": "inner"},
        add={"X-Seen": "{scheme} {host} {request_id}"},
        remove=("x-forwarded-port",),
    )
    sent = request_headers(
        [HOST, (b"X-Forwarded-For", b"203.0.113.9")],
        facts(clients({"request_headers": rules}), (b"X-Forwarded-For", b"203.0.113.9")),
    )

    assert sent == [
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"rt.example"),
        (b"X-Request-Id", b"made"),
        (b"Via", b"1.1 tidegate-f00d"),
        (b"X-Forwarded-For", b"203.0.113.9"),
        (b"X-Real-IP", b"203.0.113.9"),
        (b"Host", b"inner"),
        (b"X-Seen", b"http rt.example made"),
    ]


def test_hsts_is_for_those_who_come_by_tls() -> None:
    certificate = Certificate(cert_file=None, key_file=None)  # type: ignore[arg-type]  # not read
    plain = Listener(bind=BIND, hsts=Hsts(max_age=5))
    tls = attrs.evolve(plain, tls=ListenerTls(certificates=(certificate,)))
    https, who = (b"X-Forwarded-Proto", b"https"), clients()
    expected = [(b"Strict-Transport-Security", b"max-age=5")]

    assert facts(who, listener=plain, peer=UNTRUSTED).hsts == ""
    assert facts(who, https, listener=plain, peer=UNTRUSTED).hsts == ""
    assert facts(who, https, listener=PLAIN).hsts == ""
    for found in (facts(who, https, listener=plain), facts(who, listener=tls, peer=UNTRUSTED)):
        # There is one, whatever a node has said.
        given = response_headers([(b"strict-transport-security", b"max-age=0")], found)
        assert given[1:] == expected
    # Behind a trusted proxy that was asked in the clear.
    assert facts(who, (b"X-Forwarded-Proto", b"http"), listener=tls).hsts == ""
