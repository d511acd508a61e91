"""Trust, and what is told: which values there are."""

from __future__ import annotations

import pytest

from proxy.config.address import Address
from proxy.config.checks import Invalid
from proxy.config.forwarding import Forwarding, Hsts
from proxy.config.model import Config, Listener
from proxy.config.network import Network
from proxy.config.route import Route
from proxy.config.upstream import Node, Upstream


def test_nobody_is_trusted_by_default() -> None:
    assert Forwarding().trusted == ()


def test_networks_may_be_as_they_are_written() -> None:
    trusted = Forwarding(trusted=("10.0.0.0/8", "unix")).trusted

    assert trusted == (Network.parse("10.0.0.0/8"), Network(None))
    with pytest.raises(ValueError, match="is no range of addresses"):
        Forwarding(trusted=("::1", "example.org"))


@pytest.mark.parametrize("via", ["", "tidegate", "edge-1.example"])
def test_pseudonyms(via: str) -> None:
    assert Forwarding(via=via).via == via


@pytest.mark.parametrize("via", ["a b", "a,b", "(a)", "\u00e4", "a" * 65])
def test_what_cannot_stand_in_via(via: str) -> None:
    with pytest.raises(ValueError, match="must be one word"):
        Forwarding(via=via)


@pytest.mark.parametrize(("key", "value"), [("passes", 0), ("passes", 9), ("hops", 0)])
def test_counts_have_bounds(key: str, value: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to"):
        Forwarding(**{key: value})  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(
    ("hsts", "value"),
    [
        (Hsts(), "max-age=31536000"),
        (Hsts(max_age=0), "max-age=0"),
        (
            Hsts(include_subdomains=True, preload=True),
            "max-age=31536000; includeSubDomains; preload",
        ),
    ],
)
def test_hsts(hsts: Hsts, value: str) -> None:
    assert hsts.value == value


@pytest.mark.parametrize(
    "given", [{"include_subdomains": False}, {"include_subdomains": True, "max_age": 31_535_999}]
)
def test_preload_asks_for_what_browsers_ask_for(given: dict[str, bool]) -> None:
    with pytest.raises(Invalid, match="preload: needs include_subdomains"):
        Hsts(preload=True, **given)


def test_hsts_that_is_never_sent() -> None:
    def config(*trusted: str) -> Config:
        return Config(
            listeners=(Listener(bind=Address("127.0.0.1", 80), hsts=Hsts()),),
            routes=(Route(path="/", upstream="a"),),
            upstreams={"a": Upstream(nodes=(Node(address=Address("127.0.0.1", 1)),))},
            forwarding=Forwarding(trusted=trusted),
        )

    with pytest.raises(Invalid, match="never sent: the listener is plain"):
        config()
    assert config("10.0.0.1").listeners[0].hsts
