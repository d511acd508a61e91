"""Ranges of client addresses: what is one, and who is in it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.network import Network, ip_address, networks

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@pytest.mark.parametrize(
    ("text", "client", "inside"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("0.0.0.0/0", "192.0.2.8", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.8", False),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        # A socket for both kinds shows clients of IPv4 so.
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::/0", "::ffff:10.1.2.3", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("unix", "unix", True),
        ("unix", "10.1.2.3", False),
        ("10.0.0.0/8", "unix", False),
        ("0.0.0.0/0", "gone", False),
        ("0.0.0.0/0", "", False),
    ],
)
def test_who_is_inside(text: str, client: str, *, inside: bool) -> None:
    assert (client in Network.parse(text)) is inside


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' is no range: 10.0.0.0/8 has it in it"),
        ("::ffff:10.0.0.0/104", "'::ffff:10.0.0.0/104' is a range of IPv4: write it as one"),
        *[
            (text, f"{text!r} is no range of addresses: ")
            for text in (
                "",
                "a",
                "10.0.0/8",
                "10.0.0.0/33",
                "10.0.0.0/-1",
                "UNIX",
                "unix:",
                "010.0.0.1",
            )
        ],
    ],
)
def test_what_is_none(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Network.parse(text)

    assert str(caught.value).startswith(reason)


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_range_has_its_first_and_last(address: ipaddress.IPv4Address, bits: int) -> None:
    network = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(MAPPED):
        return
    parsed = Network.parse(str(network))

    assert str(parsed) == str(network)
    for one in (address, network[0], network[-1]):
        # A range of IPv6 may have those of IPv4 in it, which are not meant.
        if getattr(one, "ipv4_mapped", None) is None:
            assert str(one) in parsed


def test_addresses_are_remembered_up_to_a_bound() -> None:
    assert ip_address.cache_info().maxsize == 1024


def test_ranges_may_be_written_or_made() -> None:
    made = Network.parse("10.0.0.0/8")

    assert networks(["10.0.0.0/8", made, "unix"]) == (made, made, Network(None))
    with pytest.raises(ValueError, match="is no range"):
        networks(["10.0.0.1/8"])
