"""What the checks of single values take, and what they say."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest

from proxy.config import checks
from proxy.config.address import Address

ANY = cast("attrs.Attribute[Any]", None)


@attrs.frozen
class Sample:
    """Fields as sections of the configuration have them."""

    wait: float = checks.seconds(1.0)
    size: int = checks.count(5, high=10)
    code: int = attrs.field(default=1, validator=checks.one_of(1, 3))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"wait": 0.0}, "must be more than 0, not 0"),
        ({"wait": float("nan")}, "must be more than 0, not nan"),
        ({"wait": float("inf")}, "must be finite: every wait has an end"),
        ({"size": 0}, "must be from 1 to 10, not 0"),
        ({"size": 11}, "must be from 1 to 10, not 11"),
        ({"code": 2}, "must be one of 1, 3, not 2"),
    ],
)
def test_numbers(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sample(**values)

    assert str(caught.value) == reason


def test_numbers_that_will_do() -> None:
    assert Sample(wait=0.001, size=10, code=3) == Sample(0.001, 10, 3)


@pytest.mark.parametrize(
    ("host", "numeric"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("localhost", False),
        ("1.2.3", False),
        ("10.0.0.1.example", False),
        ("", False),
    ],
)
def test_numeric_hosts(host: str, *, numeric: bool) -> None:
    assert checks.is_numeric(host) is numeric


def test_what_can_be_reached_and_bound() -> None:
    srv, anywhere = Address(srv="_a._tcp.b"), Address(host="h")
    checks.reachable(None, ANY, srv)
    checks.bindable(None, ANY, anywhere)
    with pytest.raises(ValueError, match="a node needs a port"):
        checks.reachable(None, ANY, anywhere)
    with pytest.raises(ValueError, match="cannot be bound to an SRV name"):
        checks.bindable(None, ANY, srv)


def test_repeated() -> None:
    keyed = [("a", 1), ("b", 2), ("c", 1), ("d", 1)]

    assert checks.repeated(keyed) == [("c", "is the same as a"), ("d", "is the same as a")]


def test_invalid_tells_all_its_faults() -> None:
    assert str(checks.Invalid(("a", "is bad"), ("", "is worse"))) == "a: is bad; is worse"
