"""The PROXY protocol: the specification's own lines and bytes, what is refused, and round trips."""

from __future__ import annotations

import struct
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import ProxyVersion
from proxy.errors import BadProxyHeader
from proxy.wire.proxy_protocol import (
    ALPN,
    AUTHORITY,
    CRC32C,
    MAX_HEADER,
    NOOP,
    SSL,
    UNIQUE_ID,
    Source,
    TlsFacts,
    Tlvs,
    build,
    build_own,
    crc32c,
    own_tlvs,
    read,
)

SIGNATURE = bytes.fromhex("0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a")
CLIENT, DESTINATION = Address("192.168.0.1", 56324), Address("192.168.0.11", 443)
EXAMPLE = Source((CLIENT, DESTINATION))
V4 = bytes.fromhex("c0 a8 00 01 c0 a8 00 0b dc 04 01 bb")
V6_ONE, MAPPED = bytes(15) + b"\1", bytes(10) + b"\xff\xff"
ALL_ONES = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(payload: bytes = V4, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload)) + payload


VERSION, CIPHER = tlv(0x21, b"TLSv1.3"), tlv(0x23, b"AES")


def ends(client: str, port: int, destination: str, other: int) -> Source:
    return Source((Address(client, port), Address(destination, other)))


LINES: list[tuple[str, Source]] = [
    ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443", EXAMPLE),
    (
        "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
        ends("255.255.255.255", 65535, "255.255.255.255", 65535),
    ),
    (
        f"PROXY TCP6 {ALL_ONES} {ALL_ONES} 65535 65535",
        ends(ALL_ONES, 65535, ALL_ONES, 65535),
    ),
    ("PROXY TCP6 2001:DB8::1 ::1 0 443", ends("2001:db8::1", 0, "::1", 443)),
    ("PROXY TCP6 ::ffff:192.168.0.1 ::FFFF:C0A8:B 56324 443", EXAMPLE),
    ("PROXY UNKNOWN", Source()),
    (f"PROXY UNKNOWN {ALL_ONES} {ALL_ONES} 65535 65535", Source()),
    ("PROXY UNKNOWN whatever is here", Source()),
]


@pytest.mark.parametrize(("line", "source"), LINES)
def test_reads_lines(line: str, source: Source) -> None:
    data = line.encode() + b"\r\n"

    assert read(data) == (source, len(data))


def test_the_longest_lines_are_as_long_as_the_specification_says() -> None:
    longest = {line.split()[1]: 0 for line, _ in LINES}
    for line, _ in LINES:
        longest[line.split()[1]] = max(longest[line.split()[1]], len(line) + 2)

    assert longest == {"TCP4": 56, "TCP6": 104, "UNKNOWN": 107}


@pytest.mark.parametrize(
    "line",
    [
        "PROXY",
        "PROXY ",
        "PROXY TCP4",
        "PROXY  TCP4 192.168.0.1 192.168.0.11 56324 443",
        "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 ",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324",
        "PROXY TCP4 192.168.0.1 192.168.0.11 056324 443",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 65536",
        "PROXY TCP4 192.168.0.1 192.168.0.11 -1 443",
        "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443",
        "PROXY TCP4 192.168.0 192.168.0.11 56324 443",
        "PROXY TCP4 192.168.0.256 192.168.0.11 56324 443",
        "PROXY TCP4 ::1 ::1 56324 443",
        "PROXY TCP6 192.168.0.1 192.168.0.11 56324 443",
        "PROXY TCP6 ::1%1 ::1 56324 443",
        "PROXY TCP6 ::1::1 ::1 56324 443",
        "PROXY TCP5 ::1 ::1 56324 443",
        "PROXY UDP4 192.168.0.1 192.168.0.11 56324 443",
        "PROXY UNKNOWNX",
        "PROXY UNKNOWN a\nb",
        "PROXY UNKNOWN a\rb",
        "proxy TCP4 192.168.0.1 192.168.0.11 56324 443",
    ],
)
def test_refuses_lines(line: str) -> None:
    with pytest.raises(BadProxyHeader):
        read(line.encode() + b"\r\n")


@pytest.mark.parametrize("ending", [b"\n", b"\r", b""])
def test_a_line_has_its_ending_within_107_bytes(ending: bytes) -> None:
    line = b"PROXY UNKNOWN".ljust(106) + ending

    assert read(line[:106]) is None
    with pytest.raises(BadProxyHeader, match="longer than 107 bytes"):
        read(line.ljust(107) + b"\r\n")


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (v2(), EXAMPLE),
        (
            v2(V6_ONE + b"\x20\x01\x0d\xb8" + bytes(12) + b"\0\x50\x01\xbb", family=0x21),
            ends("::1", 80, "2001:db8::", 443),
        ),
        (
            v2(MAPPED + b"\1\2\3\4" + MAPPED + b"\5\6\7\x08" + b"\0\1\0\2", family=0x21),
            ends("1.2.3.4", 1, "5.6.7.8", 2),
        ),
        (
            v2(b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0"), 0x21, 0x31),
            Source((Address(path="/run/a"), Address(path="\0b"))),
        ),
        (v2(bytes(216), 0x21, 0x31), Source((Address(), Address()))),
        (v2(b"", 0x20, 0), Source()),
        # Of the sender's own connections all else is ignored.
        (v2(V4, 0x20, 0x11), Source()),
        (v2(b"anything", 0x20, 0xFF), Source()),
        (v2(b"", 0x21, 0), Source()),
        (v2(V4, 0x21, 0x10), Source()),
        (v2(b"anything", 0x21, 0x01), Source()),
        (
            v2(V4 + tlv(0xE0, b"mine") + tlv(NOOP, b"...") + tlv(UNIQUE_ID, b"")),
            attrs.evolve(EXAMPLE, tlvs=((0xE0, b"mine"), (UNIQUE_ID, b""))),
        ),
    ],
)
def test_reads_headers(data: bytes, source: Source) -> None:
    assert read(data) == (source, len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not begin"),
        (b"\x16\x03\x01", "does not begin"),
        (b"\r\n\r\nGET /", "does not begin"),
        (SIGNATURE[:-1] + b"\r", "does not begin"),
        (v2(command=0x11), "version or command"),
        (v2(command=0x31), "version or command"),
        (v2(command=0x22), "version or command"),
        (v2(family=0x41), "address family"),
        (v2(family=0x13), "address family"),
        (v2(family=0x12), "datagrams"),
        (v2(bytes(36), family=0x22), "datagrams"),
        (v2(bytes(216), family=0x32), "datagrams"),
        (v2(V4[:-1]), "too short for its addresses"),
        (v2(V4, family=0x21), "too short for its addresses"),
        (v2(bytes(215), family=0x31), "too short for its addresses"),
        (v2(V4 + b"\x01"), "ends within a TLV"),
        (v2(V4 + b"\x01\0"), "ends within a TLV"),
        (v2(V4 + b"\x01\0\2a"), "ends within a TLV"),
        (v2(V4 + tlv(CRC32C, bytes(4))), "checksum"),
        (v2(V4 + tlv(CRC32C, bytes(3))), "checksum"),
        (v2(V4 + tlv(CRC32C, b"")), "checksum"),
        (v2(V4 + bytes(MAX_HEADER)), "longer than 4096"),
    ],
)
def test_refuses_headers(data: bytes, reason: str) -> None:
    with pytest.raises(BadProxyHeader, match=reason):
        read(data)


def test_what_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(BadProxyHeader, match="longer than 4096"):
        read(v2(bytes(MAX_HEADER))[:16])

    assert read(v2(bytes(MAX_HEADER - 16), 0x20)[:16]) is None


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # RFC 3720 appendix B.4.
        (bytes(32), "8a9136aa"),
        (b"\xff" * 32, "62a8ab43"),
        (bytes(range(32)), "46dd794e"),
        (b"123456789", "e3069283"),
    ],
)
def test_crc32c(data: bytes, value: str) -> None:
    assert f"{crc32c(data):08x}" == value


def test_a_checksum_is_that_of_the_header_with_zeros_in_its_place() -> None:
    blank = v2(V4 + tlv(CRC32C, bytes(4)) + tlv(ALPN, b"http/1.1"))
    at = blank.index(bytes([CRC32C, 0, 4])) + 3
    data = blank[:at] + crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]

    assert read(data + b"more") == (attrs.evolve(EXAMPLE, tlvs=((ALPN, b"http/1.1"),)), len(data))
    for index in range(at, len(data)):
        broken = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises(BadProxyHeader):
            read(broken)


@pytest.mark.parametrize(
    ("version", "source", "data"),
    [
        ("v1", EXAMPLE, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        ("v1", ends("2001:db8::1", 1, "::1", 2), b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
        ("v1", ends("1.2.3.4", 1, "::1", 2), b"PROXY TCP6 ::ffff:102:304 ::1 1 2\r\n"),
        ("v1", Source(), b"PROXY UNKNOWN\r\n"),
        ("v1", Source((Address(path="/a"), Address(path="/b"))), b"PROXY UNKNOWN\r\n"),
        ("v2", EXAMPLE, v2()),
        ("v2", Source(), v2(b"", 0x20, 0)),
        ("v2", Source(tlvs=((ALPN, b"h2"),)), v2(b"", 0x20, 0)),
        ("v2", attrs.evolve(EXAMPLE, tlvs=((ALPN, b"h2"),)), v2(V4 + b"\x01\0\2h2")),
        (
            "v2",
            ends("1.2.3.4", 1, "::1", 2),
            v2(MAPPED + b"\1\2\3\4" + V6_ONE + b"\0\1\0\2", family=0x21),
        ),
        (
            "v2",
            Source((Address(), Address(path="/b"))),
            v2(bytes(108) + b"/b".ljust(108, b"\0"), family=0x31),
        ),
    ],
)
def test_builds(version: ProxyVersion, source: Source, data: bytes) -> None:
    assert build(version, source) == data


@pytest.mark.parametrize(
    ("version", "ends", "header"),
    [
        ("v1", EXAMPLE.ends, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        ("v1", (Address(), Address()), b"PROXY UNKNOWN\r\n"),
        ("v2", EXAMPLE.ends, v2(b"", 0x20, 0)),
    ],
)
def test_our_own_connections(
    version: ProxyVersion, ends: tuple[Address, Address], header: bytes
) -> None:
    assert build_own(version, ends) == header


def test_what_the_next_one_is_told() -> None:
    came = attrs.evolve(EXAMPLE, tlvs=((0xE0, b"x"), (ALPN, b"h2"), (NOOP, b""), (0xE0, b"y")))

    assert came.passed_on(((ALPN, b"http/1.1"), (UNIQUE_ID, b"1"))) == Source(
        came.ends, ((ALPN, b"http/1.1"), (UNIQUE_ID, b"1"), (0xE0, b"x"), (0xE0, b"y"))
    )


def test_what_would_make_a_header_too_long_is_left_out() -> None:
    fits = MAX_HEADER - 16 - 12 - len(tlv(UNIQUE_ID, b"id")) - 3
    for size, kept in ((fits, True), (fits + 1, False)):
        tlvs = ((UNIQUE_ID, b"id"), (0xE0, bytes(size)))
        found = read(data := build("v2", attrs.evolve(EXAMPLE, tlvs=tlvs)))

        assert found == (attrs.evolve(EXAMPLE, tlvs=tlvs if kept else tlvs[:1]), len(data))


def test_what_we_know_without_tls() -> None:
    assert own_tlvs("id-1", None) == ((UNIQUE_ID, b"id-1"),)


@pytest.mark.parametrize(
    ("facts", "value"),
    [
        ({}, b"\x01\0\0\0\1" + VERSION + CIPHER),
        (
            {"certificate": True, "common_name": "ä" * 65},
            b"\x07\0\0\0\0" + VERSION + tlv(0x22, "ä".encode() * 64) + CIPHER,
        ),
        (
            {"certificate": True, "resumed": True},
            b"\x05\0\0\0\0" + VERSION + CIPHER,
        ),
    ],
)
def test_what_we_know_of_tls(facts: dict[str, Any], value: bytes) -> None:
    tls = attrs.evolve(TlsFacts("TLSv1.3", "AES"), **facts)

    assert own_tlvs("1", tls) == ((UNIQUE_ID, b"1"), (SSL, value))
    named = own_tlvs("1", attrs.evolve(tls, alpn="http/1.1", server_name="a.example"))
    assert named[:2] == ((ALPN, b"http/1.1"), (AUTHORITY, b"a.example"))
    assert Source(tlvs=named).over_tls


@pytest.mark.parametrize("tlvs", [(), ((ALPN, b"h2"),), ((SSL, b""),), ((SSL, bytes(5)),)])
def test_not_over_tls(tlvs: Tlvs) -> None:
    assert not Source(tlvs=tlvs).over_tls


def _address(version: Literal[4, 6]) -> st.SearchStrategy[Address]:
    ip = st.ip_addresses(v=version).filter(lambda ip: not getattr(ip, "ipv4_mapped", None))
    return st.builds(Address, ip.map(str), st.integers(0, 65535))


unix = st.builds(
    lambda raw: Address(path=raw.rstrip(b"\0").decode("utf-8", "surrogateescape")),
    st.binary(max_size=108),
)
tlvs = st.lists(
    st.tuples(
        st.integers(0, 255).filter(lambda kind: kind not in (CRC32C, NOOP)),
        st.binary(max_size=60),
    ),
    max_size=8,
).map(tuple)
pairs = st.one_of(*(st.tuples(ip, ip) for ip in (_address(4), _address(6))))
sources = st.one_of(st.builds(Source, pairs, tlvs), st.builds(Source, st.tuples(unix, unix), tlvs))


@given(sources, st.binary(max_size=40))
def test_what_is_built_is_read_again(source: Source, behind: bytes) -> None:
    data = build("v2", source)

    assert read(data + behind) == (source, len(data))


@given(st.builds(Source, pairs), st.binary(max_size=40))
def test_lines_that_are_built_are_read_again(source: Source, behind: bytes) -> None:
    data = build("v1", source)

    assert len(data) <= 104
    assert read(data + behind) == (source, len(data))


@given(st.one_of(_address(4), _address(6)), st.one_of(_address(4), _address(6)))
def test_both_versions_say_the_same(client: Address, destination: Address) -> None:
    source = Source((client, destination))
    line, header = build("v1", source), build("v2", source)

    assert read(line) == (source, len(line))
    assert read(header) == (source, len(header))


almost = st.builds(
    lambda command, family, length, rest: (
        SIGNATURE + struct.pack("!BBH", command, family, length) + rest
    ),
    st.sampled_from([0x20, 0x21, 0x22, 0x10]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x31, 0x41]),
    st.integers(0, 60),
    st.binary(max_size=80),
)
words = st.lists(
    st.sampled_from(["PROXY", "TCP4", "TCP6", "UNKNOWN", "::1", "1.2.3.4", "80", "", "x\n", "\r\n"])
)
lines = words.map(lambda chosen: (" ".join(["PROXY", *chosen]) + "\r\n").encode())


@given(st.one_of(st.binary(max_size=200), almost, lines, sources.map(lambda s: build("v2", s))))
def test_byte_by_byte_is_the_same_as_all_at_once(data: bytes) -> None:
    """It never raises anything but its own error, and once it has decided it stays with that."""

    def outcome(size: int) -> tuple[Source, int] | str | None:
        try:
            return read(data[:size])
        except BadProxyHeader:
            return "refused"

    outcomes = [outcome(size) for size in range(len(data) + 1)]
    decided = [one for one in outcomes if one is not None]
    assert all(one == decided[0] for one in decided)
    assert outcomes == [None] * (len(outcomes) - len(decided)) + decided
