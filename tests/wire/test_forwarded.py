"""Chains of proxies: how they are written, and whom to believe."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.forwarded import (
    LONGEST,
    UNKNOWN,
    Hop,
    addresses,
    elements,
    find_client,
    is_host,
    members,
    node_name,
    read_forwarded,
    read_x_forwarded,
)


def trusts(address: str) -> bool:
    return address.startswith("10.")


def chain(*nodes: str) -> list[Hop]:
    return [Hop(node) for node in nodes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:50122", "192.0.2.7"),
        ("192.0.2.7:_port", "192.0.2.7"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[192.0.2.7]", "192.0.2.7"),
        ("_hidden.1", "_hidden.1"),
        ("_hidden:_x", "_hidden"),
        ("unknown", UNKNOWN),
        ("Unknown:80", UNKNOWN),
    ],
)
def test_names(text: str, expected: str) -> None:
    assert node_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.07",
        "192.0.2.7:",
        "192.0.2.7:123456",
        "[2001:db8::1",
        "[fe80::1%eth0]",
        "fe80::1%eth0",
        "example.org",
        "_",
        "_" + "a" * 65,
        "192.0.2.7 ",
        "\u0661\u0669\u0662.0.2.7",
        '"192.0.2.7"',
    ],
)
def test_what_is_nobody(text: str) -> None:
    assert node_name(text) == UNKNOWN


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], ("10.0.0.1", 0)),
        (["203.0.113.9"], ("203.0.113.9", 1)),
        (["6.6.6.6", "203.0.113.9"], ("203.0.113.9", 1)),
        (["203.0.113.9", "10.0.0.2"], ("203.0.113.9", 2)),
        (["6.6.6.6", "203.0.113.9", "10.0.0.3", "10.0.0.2"], ("203.0.113.9", 3)),
        # Nobody but us: the first of us is the client.
        (["10.0.0.3", "10.0.0.2"], ("10.0.0.3", 2)),
        # What stands before one that is not known is not believed.
        (["203.0.113.9", "unknown"], ("10.0.0.1", 0)),
        (["203.0.113.9", "unknown", "10.0.0.2"], ("10.0.0.2", 1)),
        (["203.0.113.9", "_edge", "10.0.0.2"], ("10.0.0.2", 1)),
    ],
)
def test_the_client_is_the_rightmost_that_is_not_trusted(
    told: list[str], expected: tuple[str, int]
) -> None:
    assert find_client(chain(*told), "10.0.0.1", trusts) == expected


@given(st.lists(st.text(max_size=30)), st.lists(st.sampled_from(["10.0.0.2", "10.9.9.9"])))
def test_nobody_chooses_an_address_for_himself(forged: list[str], proxies: list[str]) -> None:
    """Whatever a client sends, the first trusted proxy writes its real address behind that."""
    lines = [*(text.encode("utf-8") for text in forged), b"203.0.113.9", *map(str.encode, proxies)]
    hops = read_x_forwarded(members(lines), [], [], [])
    if len(proxies) < LONGEST:
        assert find_client(hops, "10.0.0.1", trusts)[0] == "203.0.113.9"


@given(
    st.lists(st.text(alphabet='";,=\\ forab[]:1.', max_size=30)),
    st.lists(st.sampled_from(["for=10.0.0.2", 'for="10.9.9.9:80";proto=http']), max_size=4),
)
def test_nobody_does_so_with_quotes_either(forged: list[str], proxies: list[str]) -> None:
    texts = [*forged, 'for="[2001:db8::9]:555";proto=https;host="a.example"', *proxies]
    hops = read_forwarded([text.encode() for text in texts])

    address, depth = find_client(hops, "10.0.0.1", trusts)
    assert (address, depth) == ("2001:db8::9", len(proxies) + 1)
    assert hops[-depth] == Hop("2001:db8::9", "https", "a.example")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b" , ,", []),
        (b"for=192.0.2.7", chain("192.0.2.7")),
        (b"FOR=192.0.2.7;PROTO=HTTPS", [Hop("192.0.2.7", "https")]),
        (b"for=192.0.2.43, for=198.51.100.17", chain("192.0.2.43", "198.51.100.17")),
        # The examples of RFC 7239 section 4, and of section 6.
        (
            b'for=192.0.2.60;proto=http;by=203.0.113.43, For="[2001:db8:cafe::17]:4711"',
            [Hop("192.0.2.60", "http"), Hop("2001:db8:cafe::17")],
        ),
        (b'for="_gazonk"', chain("_gazonk")),
        (b'for=_hidden, for="_SEVKISEK:80"', chain("_hidden", "_SEVKISEK")),
        (b"for=192.0.2.7 ; host=a.example;", [Hop("192.0.2.7", "", "a.example")]),
        (b'for=192.0.2.7;x="a,b;c"', chain("192.0.2.7")),
        (b"proto=https", [Hop(UNKNOWN, "https")]),
        # What is wrong in an element takes all of it.
        (b"192.0.2.7", chain(UNKNOWN)),
        (b"for=192.0.2.7;proto", chain(UNKNOWN)),
        (b"for=192.0.2.7;for=6.6.6.6", chain(UNKNOWN)),
        (b"for=2001:db8::1", chain(UNKNOWN)),
        (b'for="192.0.2.7\\"', chain(UNKNOWN)),
        (b"for=6.6.6.6;=, for=192.0.2.7", chain(UNKNOWN, "192.0.2.7")),
        # Before an open quote nothing can be told apart.
        (b'for=6.6.6.6, for="x, for=192.0.2.7', chain(UNKNOWN, "192.0.2.7")),
        # What is wrong in a parameter takes that.
        (b'for=192.0.2.7;proto=ftp;host="a/b"', chain("192.0.2.7")),
    ],
)
def test_forwarded(text: bytes, expected: list[Hop]) -> None:
    assert read_forwarded([text]) == expected


def test_lines_are_one_list() -> None:
    assert members([b"a, b", b"", b" c ,"]) == ["a", "b", "c"]
    assert read_forwarded([b"for=10.0.0.1, for=10.0.0.2", b"for=10.0.0.3"]) == chain(
        "10.0.0.1", "10.0.0.2", "10.0.0.3"
    )


def test_long_lists_are_read_at_their_end_only() -> None:
    many = [b"10.0.0.1, " * 5000 + b"10.0.0.2"]

    assert members(many) == ["10.0.0.1"] * (LONGEST - 1) + ["10.0.0.2"]
    assert len(read_forwarded([b"for=10.0.0.1," * 5000])) == LONGEST


@given(st.binary(max_size=200))
def test_anything_can_be_read(value: bytes) -> None:
    for hop in [*read_forwarded([value]), *read_x_forwarded(members([value]), [], [], [])]:
        if hop.is_address:
            assert str(ip_address(hop.node)) == hop.node
        else:
            assert hop.node == UNKNOWN or hop.node.startswith("_")


def test_what_the_other_headers_say_of_each_hop() -> None:
    nodes = ["203.0.113.9", "10.0.0.2"]
    one = read_x_forwarded(nodes, ["wss"], ["a.example:8443"], ["x"])
    each = read_x_forwarded(nodes, ["https", "http"], ["a.example", "b.example"], ["443", "80"])
    none = read_x_forwarded([], ["https"], ["a/b"], ["70000"])

    assert one[0] == Hop("203.0.113.9", "https", "a.example:8443")
    assert each == [
        Hop("203.0.113.9", "https", "a.example", 443),
        Hop("10.0.0.2", "http", "b.example", 80),
    ]
    assert none == [Hop(UNKNOWN, "https")]
    assert read_x_forwarded([], [], [], []) == []


@pytest.mark.parametrize(
    ("hop", "port"),
    [
        (Hop("a", "https", "a.example:8443", 99), 99),
        (Hop("a", "https", "a.example:8443"), 8443),
        (Hop("a", "https", "[2001:db8::1]:8443"), 8443),
        (Hop("a", "https", "[2001:db8::1]"), 443),
        (Hop("a", "https", "a.example"), 443),
        (Hop("a", "http", "8080"), 80),
        (Hop("a", "", "a.example"), 0),
    ],
)
def test_ports(hop: Hop, port: int) -> None:
    assert hop.wanted_port == port


@pytest.mark.parametrize(
    ("hops", "expected"),
    [
        ([Hop("192.0.2.7", "https", "a.example")], b"for=192.0.2.7;host=a.example;proto=https"),
        ([Hop("2001:db8::1", "http")], b'for="[2001:db8::1]";proto=http'),
        ([Hop(UNKNOWN, "http", "a:80")], b'for=unknown;host="a:80";proto=http'),
        ([Hop("_edge"), Hop("10.0.0.1")], b"for=_edge, for=10.0.0.1"),
    ],
)
def test_forwarded_as_it_is_written(hops: list[Hop], expected: bytes) -> None:
    assert elements(hops) == expected
    assert read_forwarded([expected]) == hops


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["192.0.2.7"], b"192.0.2.7"),
        (["2001:db8::1", "10.0.0.1"], b"2001:db8::1, 10.0.0.1"),
        ([UNKNOWN], b""),
        (["192.0.2.7", UNKNOWN], b"192.0.2.7"),
        # Else the next one would walk on to an address that nobody vouches for.
        (["6.6.6.6", UNKNOWN, "10.0.0.2", "10.0.0.1"], b"10.0.0.2, 10.0.0.1"),
        (["6.6.6.6", "_edge", "10.0.0.1"], b"10.0.0.1"),
    ],
)
def test_x_forwarded_for_as_it_is_written(nodes: list[str], expected: bytes) -> None:
    assert addresses(chain(*nodes)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.example", True), ("[::1]:80", True), ("", False), ("a b", False), ("a/b", False)],
)
def test_hosts(text: str, *, expected: bool) -> None:
    assert is_host(text) is expected
