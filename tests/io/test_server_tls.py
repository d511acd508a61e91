"""Which certificate a client is shown."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.checks import Invalid
from proxy.io.certificates import Pair
from proxy.io.server_tls import ServerTls, Shown, plan, show

from .handshakes import shake


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def pair(*names: str, key_type: str = "ECDSA", chain: bytes = b"") -> Pair:
    return Pair(
        chain=chain,
        key=b"",
        passphrase=None,
        names=names,
        key_type=key_type,
        not_before=0.0,
        not_after=0.0,
        remarks=(),
        look=(),
    )


def test_one_certificate_is_for_everybody() -> None:
    only = context()
    tls = ServerTls(only)
    assert tls.choose("") is only
    assert tls.choose("rt.example.org") is only


NAMES = {"a.example.org": context(), "*.example.org": context(), "*.b.example.org": context()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.example.org", "a.example.org"),
        ("b.example.org", "*.example.org"),
        ("c.b.example.org", "*.b.example.org"),
        # A wildcard is for one label, no more and no less.
        ("example.org", ""),
        ("x.a.example.org", ""),
        ("d.c.b.example.org", ""),
        ("other.org", ""),
        ("org", ""),
        ("", ""),
        # These are patterns, not names that anybody may ask for.
        ("*.example.com", ""),
    ],
)
def test_choice_by_name(name: str, found: str) -> None:
    default = context()
    shown = Shown(default, NAMES)

    assert ServerTls(shown).choose(name) is NAMES.get(found, default)
    assert ServerTls(shown, reject_unknown=True).choose(name) is NAMES.get(found)
    assert ServerTls(shown).is_for(name) == bool(found)


@pytest.mark.parametrize(
    ("names", "types", "default", "groups"),
    [
        ([["a"]], ["RSA"], (0,), {"a": (0,)}),
        ([[]], ["RSA"], (0,), {}),
        ([["a", "b"], ["b", "c"]], ["RSA", "ECDSA"], (0,), {"a": (0,), "b": (0, 1), "c": (1,)}),
        ([["a"], ["a"]], ["RSA", "ECDSA"], (0, 1), {"a": (0, 1)}),
        ([[], ["a"]], ["RSA", "RSA"], (0,), {"a": (1,)}),
        ([["*.a"], ["x.a"]], ["RSA", "RSA"], (0,), {"*.a": (0,), "x.a": (1,)}),
    ],
)
def test_plan(
    names: Sequence[Sequence[str]],
    types: list[str],
    default: tuple[int, ...],
    groups: dict[str, tuple[int, ...]],
) -> None:
    assert plan(names, types) == (default, groups)


@pytest.mark.parametrize(
    ("names", "types", "faults"),
    [
        (
            [["a"], ["b", "a"]],
            ["RSA", "RSA"],
            {"certificates[1]": "is for 'a' with RSA, as certificates[0] is; take one away, or"},
        ),
        (
            [["a"], [], ["a"], ["a"]],
            ["RSA", "RSA", "ECDSA", "ECDSA"],
            {
                "certificates[1]": "has no DNS name, and is not the first: it would never be shown",
                "certificates[3]": "is for 'a' with ECDSA, as certificates[2] is",
            },
        ),
    ],
)
def test_faults(names: list[list[str]], types: list[str], faults: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        plan(names, types)

    found = dict(caught.value.faults)
    assert found.keys() == faults.keys()
    assert all(found[key].startswith(reason) for key, reason in faults.items())


@given(st.lists(st.lists(st.sampled_from("abcd"), unique=True, min_size=1), min_size=1), st.data())
def test_every_name_is_somebodys(names: list[list[str]], data: st.DataObject) -> None:
    kinds = st.sampled_from(["RSA", "ECDSA", "Ed25519"])
    types = data.draw(st.lists(kinds, min_size=len(names), max_size=len(names)))
    try:
        default, groups = plan(names, types)
    except Invalid:
        claims = [(name, kind) for own, kind in zip(names, types, strict=True) for name in own]
        assert len(set(claims)) < len(claims)
        return
    assert groups.keys() == {name for own in names for name in own}
    for name, group in groups.items():
        assert [index for index, own in enumerate(names) if name in own] == [*group]
        assert len({types[index] for index in group}) == len(group)
    assert 0 in default


def test_what_shows_the_same_is_the_same() -> None:
    a, b, other = pair("a"), pair("b", "c"), pair("b", "c", chain=b"renewed")
    first = show([a, b], lambda _: context(), {})
    assert first.named["b"] is first.named["c"]
    assert first.named["a"] is first.default
    second = show([a, other], lambda _: context(), first.made)

    assert second.named["a"] is first.named["a"]
    assert second.named["b"] is not first.named["b"]
    assert len(second.made) == 2, "what is not shown any more is forgotten"


def test_renewal_that_is_not_possible_changes_nothing() -> None:
    shown = show([pair("a"), pair("b")], lambda _: context(), {})
    tls = ServerTls(shown, make=lambda _: context())
    with pytest.raises(Invalid):
        tls.renewed([pair("a"), pair("a")])

    assert tls.shown is shown


def test_two_types_of_key_for_one_name(ca: trustme.CA) -> None:
    """Of both a client is shown that which it can check, in one context."""
    both = context()
    for kind in (trustme.KeyType.RSA, trustme.KeyType.ECDSA):
        ca.issue_cert("localhost", key_type=kind).configure_cert(both)
    ciphers = []
    for name in ("RSA", "ECDSA"):
        client = ssl.create_default_context()
        ca.configure_trust(client)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(f"ECDHE-{name}-AES128-GCM-SHA256")
        ciphers.append(shake(client, both).cipher)

    assert ciphers == ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"]
