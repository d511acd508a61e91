"""Headers that are added, set and taken out: which can be, and how faults are called."""

from __future__ import annotations

from typing import Any

import attrs
import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.checks import Invalid
from proxy.config.headers import (
    HeaderRules,
    check_end_to_end,
    check_headers,
    request_rules,
)
from proxy.config.route import Route

FIELD: Any = attrs.fields(Route).request_headers


@given(st.text(max_size=6), st.text(max_size=6))
def test_what_passes_can_be_sent(name: str, value: str) -> None:
    """h11 is the judge: no header that passes breaks a message later."""
    try:
        check_headers([(name, value)])
    except ValueError:
        return
    h11.Response(status_code=200, headers=[(name.encode(), value.encode("latin-1"))])


@given(st.binary(max_size=8))
def test_what_can_be_sent_passes(value: bytes) -> None:
    """Control characters apart, which h11 lets through and RFC 9110 section 5.5 does not."""
    try:
        ((_, sent),) = h11.Response(status_code=200, headers=[(b"X", value)]).headers
    except h11.LocalProtocolError:
        return
    if not any((byte < 32 and byte != 9) or byte == 127 for byte in sent):
        check_headers([("X", sent.decode("latin-1"))])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("X Y", "z", "'X Y' is not a header's name"),
        ("", "z", "'' is not a header's name"),
        ("X", "a\r\nY: b", "'X' cannot have the value 'a\\r\\nY: b'"),
        ("X", "\u20ac", "'X' cannot have the value '\u20ac'"),
        ("TE", "trailers", "'TE' is the proxy's own on each of its connections"),
        ("content-length", "0", "'content-length' is the proxy's own on each of its connections"),
        ("Sec-WebSocket-Key", "x", "'Sec-WebSocket-Key' is between the client and the node"),
    ],
)
def test_what_is_refused(name: str, value: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_end_to_end([(name, value)])

    assert str(caught.value) == reason


def test_every_fault_of_a_rule_is_told_with_its_key() -> None:
    with pytest.raises(Invalid) as caught:
        HeaderRules(
            remove=("Upgrade",),
            set={"X-A": "1", "x-a": "2", "X-B": "{clinet}"},
            add={"X-C": "a\0"},
        )

    assert caught.value.faults == (
        ("remove[0]", "'Upgrade' is the proxy's own on each of its connections"),
        (
            "set.X-B",
            "{clinet} stands for nothing; there are: {client}, {host}, {request_id}, {scheme}",
        ),
        ("add.X-C", "'X-C' cannot have the value 'a\\x00'"),
        ("set.x-a", "is the same as set.X-A"),
    )


def test_other_braces_are_just_braces() -> None:
    rules = HeaderRules(set={"NEL": '{"report_to":"a","max_age":1}', "X": "{} {A} {a-b}"})

    assert rules


def test_requests_have_one_host_and_keep_via() -> None:
    request_rules(None, FIELD, HeaderRules(set={"Host": "other.example"}))
    with pytest.raises(Invalid) as caught:
        request_rules(None, FIELD, HeaderRules(remove=("host", "VIA"), add={"HOST": "a"}))

    assert caught.value.faults == (
        ("remove", "a request has one Host: it can be set"),
        ("remove", "Via is as forwarding.via says: loops are found by it"),
        ("add", "a request has one Host: it can be set"),
    )
    # To clients it is the operator's to say.
    Route(path="/", upstream="a", response_headers=HeaderRules(remove=("Via",)))


def test_no_rules_are_none() -> None:
    assert not HeaderRules()
    assert HeaderRules(remove=("A",))
