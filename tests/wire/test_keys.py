"""What the policy `hash` goes by."""

from __future__ import annotations

import pytest

from proxy.wire.keys import LONGEST, cookie, hash_key

HEADERS = [
    (b"Host", b"a"),
    (b"X-User", b"ada"),
    (b"Cookie", b"a=1; sid=s%203; sid=other"),
    (b"cookie", b"late=x"),
]


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("client", b"192.0.2.1"),
        ("header:x-user", b"ada"),
        ("header:X-USER", b"ada"),
        ("header:x-none", b""),
        ("cookie:sid", b"s%203"),
        ("cookie:late", b"x"),
        ("cookie:si", b""),
        ("query:token", b"t t"),
        ("query:empty", b""),
        ("query:none", b""),
    ],
)
def test_keys(source: str, key: bytes) -> None:
    assert hash_key(source, "192.0.2.1", b"/x?a=1&token=t%20t&empty=&token=2", HEADERS) == key


def test_a_long_key_is_cut() -> None:
    headers = [(b"x", b"a" * 5000)]

    assert hash_key("header:x", "c", b"/", headers) == b"a" * LONGEST


def test_a_target_without_a_query() -> None:
    assert hash_key("query:a", "c", b"/a=1", []) == b""


def test_a_query_that_is_no_text() -> None:
    assert hash_key("query:a", "c", b"/?a=%ff\xfe", [])


def test_a_cookie_may_be_empty_or_missing() -> None:
    headers = [(b"Cookie", b"empty=; sid=1")]

    assert (cookie(headers, b"empty"), cookie(headers, b"none")) == (b"", None)
