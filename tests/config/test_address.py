"""Addresses as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address

#: The longest path of a unix socket, see unix(7).
LONGEST = 107


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6020", Address("127.0.0.1", 6020)),
        ("node-1.example.org:443", Address("node-1.example.org", 443)),
        ("localhost:0", Address("localhost", 0)),
        ("[::]:65535", Address("::", 65535)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("unix:/run/tidegate.sock", Address(path="/run/tidegate.sock")),
        ("unix:a:b", Address(path="a:b")),
        ("unix:" + "a" * LONGEST, Address(path="a" * LONGEST)),
        ("srv:_deepstream._tcp.example.org", Address(srv="_deepstream._tcp.example.org")),
        ("srv:_a-b_1._tcp.Cluster.local.", Address(srv="_a-b_1._tcp.Cluster.local.")),
    ],
)
def test_parse_and_print(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "host",
        "host:",
        "host:http",
        "host:-1",
        "host:65536",
        "host:123456",
        "host:80 ",
        " host:80",
        "ho st:80",
        "host:80\n",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[host]:80",
        "[]:80",
        "http://host:80",
        "host/path:80",
        "user@[::1]:80",
        "[::1%a b]:80",
        "host:٨٠",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize("path", ["", "a" * (LONGEST + 1), "ü" * 54])
def test_unix_path_that_the_kernel_cannot_hold(path: str) -> None:
    with pytest.raises(ValueError, match="1 to 107 bytes"):
        Address.parse(f"unix:{path}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "example.org",
        "deepstream._tcp.example.org",
        "_deepstream.example.org",
        "_deepstream._udp.example.org",
        "_deepstream._tcp",
        "_deepstream._tcp.",
        "_deepstream._tcp..org",
        "_deepstream._tcp.example.org..",
        "_deepstream._tcp.example.org:6020",
        "_deepstream._tcp.exämple.org",
        "_deepstream._tcp.example.org\n",
        "_._tcp.example.org",
        f"_{'a' * 63}._tcp.example.org",
        f"_a._tcp.{'a' * 64}",
        " _deepstream._tcp.example.org",
    ],
)
def test_what_is_no_srv_name(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        Address.parse(f"srv:{name}")

    text = f"srv:{name}"
    assert str(caught.value) == (
        f'{text!r}: an SRV name is like "srv:_deepstream._tcp.example.org"'
    )


@given(
    st.text(max_size=40)
    | st.from_regex(r"[a-z:\[\].%0-9]{1,20}:[0-9]{1,6}", fullmatch=True)
    | st.from_regex(r"srv:[_a-z.-]{1,20}[._]tcp\.[a-z._-]{1,20}", fullmatch=True)
    | st.from_regex(r"unix:[^\x00]{1,20}", fullmatch=True)
)
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return

    assert Address.parse(str(address)) == address
    assert [bool(address.host), bool(address.path), bool(address.srv)].count(True) == 1


def test_addresses_are_values() -> None:
    assert len({Address("a", 1), Address("a", 1), Address("a", 2)}) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6020", "127.0.0.1:6020"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("[fe80::1%eth0]:80", "[fe80::1]:80"),
        ("unix:/run/node.sock", "localhost"),
    ],
)
def test_authority(text: str, expected: str) -> None:
    assert Address.parse(text).authority == expected
