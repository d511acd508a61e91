"""The endings, and what a Close frame may carry."""

from __future__ import annotations

import re

import pytest

from proxy.wire import closing
from proxy.wire.closing import ENDINGS, NO_STATUS, FrameError, parse_close, party, sendable

#: What IANA registers of the protocol's own range; 1005, 1006 and 1015 are never on the wire.
REGISTERED = {1000, 1001, 1002, 1003, *range(1007, 1015)}


def table() -> list[tuple[str, str]]:
    """Return the first and the last column of the table in the module's docstring."""
    assert closing.__doc__ is not None
    return re.findall(r"^    (\w+) {2,}\S.* {2,}(\w+)$", closing.__doc__, re.MULTILINE)


def test_the_table_names_exactly_the_endings() -> None:
    assert tuple(ending for ending, _ in table()) == ENDINGS


def test_the_table_says_who_has_begun_each() -> None:
    assert {ending: party(ending) for ending in ENDINGS} == dict(table())


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + reason


@pytest.mark.parametrize("code", range(990, 1030))
def test_protocol_close_codes(code: int) -> None:
    assert sendable(code) == (code in REGISTERED)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        (0, False),
        (999, False),
        (2000, False),
        (2999, False),
        (3000, True),
        (4999, True),
        (5000, False),
        (65535, False),
    ],
)
def test_other_close_codes(code: int, *, allowed: bool) -> None:
    assert sendable(code) is allowed


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", (NO_STATUS, "")),
        (close_payload(1000), (1000, "")),
        (close_payload(1001, b"bye"), (1001, "bye")),
        (close_payload(4999, "día".encode()), (4999, "día")),
        (close_payload(1014, b"x" * 123), (1014, "x" * 123)),
    ],
    ids=["empty", "code", "reason", "not ASCII", "longest"],
)
def test_a_proper_close_is_read(
    payload: bytes, expected: tuple[int, str], *, lenient: bool
) -> None:
    assert parse_close(payload, lenient=lenient) == expected


IMPROPER = [
    (b"\x03", "close code may not be sent", 1002),
    (close_payload(1000, b"\xff"), "close reason is not UTF-8", 1007),
    (close_payload(1000, "día".encode()[:2]), "close reason is not UTF-8", 1007),
    *(
        (close_payload(code, b"why"), "close code may not be sent", 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    # The code is looked at first.
    (close_payload(1005, b"\xff"), "close code may not be sent", 1002),
]


@pytest.mark.parametrize(("payload", "reason", "code"), IMPROPER)
def test_an_improper_close_is_refused(payload: bytes, reason: str, code: int) -> None:
    with pytest.raises(FrameError) as caught:
        parse_close(payload)

    assert (caught.value.reason, caught.value.code) == (reason, code)


@pytest.mark.parametrize("payload", [payload for payload, _, _ in IMPROPER])
def test_a_lenient_reader_takes_an_improper_close_for_an_empty_one(payload: bytes) -> None:
    assert parse_close(payload, lenient=True) == (NO_STATUS, "")
