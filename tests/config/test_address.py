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


@given(st.text(max_size=40) | st.from_regex(r"[a-z:\[\].%0-9]{1,20}:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return

    assert Address.parse(str(address)) == address
    assert bool(address.host) != bool(address.path)


def test_addresses_are_values() -> None:
    assert len({Address("a", 1), Address("a", 1), Address("a", 2)}) == 2
