"""What the checks of single values take, and what they say."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from proxy.config.address import Address
from proxy.config.checks import (
    Invalid,
    above,
    bindable,
    count,
    host_name,
    is_numeric,
    lower,
    one_of,
    origin_list,
    reachable,
    repeated,
    seconds,
    starts_with_slash,
    within,
)


def verdict(check: Any, value: object) -> str | None:
    """Return what a check says of a value, None if it is good."""
    try:
        check(None, None, value)
    except ValueError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        (above(0), 0.001, None),
        (above(0), 10**9, None),
        (above(0), 0, "must be more than 0, not 0"),
        (above(0), -0.5, "must be more than 0, not -0.5"),
        (above(0), math.nan, "must be more than 0, not nan"),
        (above(0), math.inf, "must be finite: every wait has an end"),
        (above(2.5), 2.5, "must be more than 2.5, not 2.5"),
        (within(1, 3), 1, None),
        (within(1, 3), 3, None),
        (within(1, 3), 0, "must be from 1 to 3, not 0"),
        (within(1, 3), 4, "must be from 1 to 3, not 4"),
        (within(0.5, 3), 0.4, "must be from 0.5 to 3, not 0.4"),
        (within(1, 3), math.nan, "must be from 1 to 3, not nan"),
        (within(1, 3), math.inf, "must be from 1 to 3, not inf"),
        (one_of(500, 503), 503, None),
        (one_of(500, 503), 501, "must be one of 500, 503, not 501"),
        (one_of("a", "b"), "c", "must be one of 'a', 'b', not 'c'"),
        (starts_with_slash, "/", None),
        (starts_with_slash, "/a/b%20c", None),
        (starts_with_slash, "", "must start with /, not ''"),
        (starts_with_slash, "a/b", "must start with /, not 'a/b'"),
        *[
            (starts_with_slash, path, f"{path!r} cannot be in a request's path")
            for path in ("/a b", "/a?b", "/a#b", "/ä", "/a\n", "/\x7f")
        ],
        *[(host_name, host, None) for host in ("a", "rt.example.org", "192.0.2.7", "::1", "a_b-c")],
        *[
            (host_name, host, f"must be a host name without port or wildcard, not {host!r}")
            for host in ("", "a:80", "*.example", "[::1]", ".a", "a.", "A", "ä", "a b", "a\n")
        ],
        (origin_list, (), None),
        (origin_list, ("https://a.example", "http://[::1]:8080", "app+x://y", "null"), None),
        *[
            (
                origin_list,
                ("https://good.example", origin),
                f"must be like https://app.example.org, without a path: {origin!r}",
            )
            for origin in ("", "*", "a.example", "https://a.example/", "https://", "HTTPS://a")
        ],
        (reachable, Address("n", 1), None),
        (reachable, Address(path="/s"), None),
        (reachable, Address(srv="_a._tcp.b"), None),
        (reachable, Address("n", 0), "a node needs a port"),
        (bindable, Address("n", 0), None),
        (bindable, Address(path="/s"), None),
        (bindable, Address(srv="_a._tcp.b"), "a listener cannot be bound to an SRV name"),
    ],
)
def test_check(check: Any, value: object, reason: str | None) -> None:
    assert verdict(check, value) == reason


@pytest.mark.parametrize(
    ("host", "numeric"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("", False),
        ("localhost", False),
        ("10.0.0", False),
        ("10.0.0.256", False),
        ("1234", False),
        ("10.0.0.1.example", False),
        ("١٠.0.0.1", False),  # noqa: RUF001  # digits, and no ASCII
    ],
)
def test_what_is_an_address_and_not_a_name(host: str, *, numeric: bool) -> None:
    assert is_numeric(host) is numeric


@attrs.frozen(kw_only=True)
class Section:
    pause: float = seconds(2.0)
    number: int = count(3)
    few: int = count(0, low=0, high=5)


def test_fields_with_bounds() -> None:
    assert Section() == Section(pause=2.0, number=3, few=0)
    assert Section(pause=0.1, number=2**31, few=5).few == 5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pause": 0}, "must be more than 0, not 0"),
        ({"number": 0}, "must be from 1 to 2147483648, not 0"),
        ({"number": 2**31 + 1}, "must be from 1 to 2147483648, not 2147483649"),
        ({"few": -1}, "must be from 0 to 5, not -1"),
        ({"few": 6}, "must be from 0 to 5, not 6"),
    ],
)
def test_fields_out_of_bounds(values: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Section(**values)

    assert str(caught.value) == reason


def test_lower() -> None:
    assert lower("RT.Example") == "rt.example"
    assert lower(None) is None


@pytest.mark.parametrize(
    ("keyed", "faults"),
    [
        ([], []),
        ([("a", 1), ("b", 2)], []),
        ([("a", 1), ("b", 1)], [("b", "is the same as a")]),
        # The first is what the others are the same as.
        (
            [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 2)],
            [
                ("c", "is the same as a"),
                ("d", "is the same as a"),
                ("e", "is the same as b"),
            ],
        ),
    ],
)
def test_repeated(keyed: list[tuple[str, int]], faults: list[tuple[str, str]]) -> None:
    assert repeated(keyed) == faults


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        ([("a.b", "is wrong")], "a.b: is wrong"),
        ([("", "is wrong")], "is wrong"),
        ([("a", "is wrong"), ("", "so is this")], "a: is wrong; so is this"),
    ],
)
def test_invalid_tells_all_its_faults(faults: list[tuple[str, str]], text: str) -> None:
    exc = Invalid(*faults)

    assert str(exc) == text
    assert exc.faults == tuple(faults)
