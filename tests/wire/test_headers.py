"""Heads that can be read in two ways are refused; what goes on is rebuilt."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.headers import HeaderRules
from proxy.errors import (
    BadRequest,
    HeadTooLarge,
    Refusal,
    TargetTooLong,
)
from proxy.wire.client_certificate import ClientCertificate
from proxy.wire.edits import Edits
from proxy.wire.headers import (
    ClientFacts,
    HeadLimits,
    Heads,
    changed,
    check_head,
    end_to_end,
    find_head,
    interim_headers,
    request_headers,
    tokens,
    trailers_to_send,
)

LIMITS = HeadLimits(head_bytes=1024, target_bytes=64, headers=5)
HOST = [(b"Host", b"example.org")]
FACTS = ClientFacts(address="192.0.2.7", scheme="https", port=443, request_id="id-1")


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", *lines, b"", b""])


def test_finds_a_whole_head() -> None:
    whole = head(b"Host: a")

    assert find_head(whole, LIMITS) == len(whole)
    assert find_head(whole + b"\x82\x00\n", LIMITS) == len(whole)


@given(st.integers(0, len(head(b"Host: a")) - 1))
def test_waits_for_the_rest_of_a_head(size: int) -> None:
    assert find_head(head(b"Host: a")[:size], LIMITS) is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", BadRequest),
        (b"\x16\x03\x01\x02\x00\x01", BadRequest),
        (b"\r\nGET / HTTP/1.1\r\n", BadRequest),
        (b"GET /" + b"a" * 100, TargetTooLong),
        (head(b"X: " + b"a" * 1100), HeadTooLarge),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 1100, HeadTooLarge),
    ],
)
def test_hopeless_heads_are_refused_early(data: bytes, error: type[Refusal]) -> None:
    with pytest.raises(error):
        find_head(data, LIMITS)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1", b"content-length : 2"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"TRANSFER-ENCODING: identity"],
        [b"X: a", b" folded"],
        [b"X: a", b"\tfolded"],
        [b"X: a\rb"],
        [b"X: a\0b"],
    ],
)
def test_ambiguous_heads_are_refused(lines: list[bytes]) -> None:
    with pytest.raises(BadRequest):
        check_head(head(*lines), LIMITS)


def test_sizes_are_limited() -> None:
    check_head(head(*[b"X: a"] * 5), LIMITS)
    with pytest.raises(HeadTooLarge):
        check_head(head(*[b"X: a"] * 6), LIMITS)
    with pytest.raises(TargetTooLong):
        check_head(b"GET /" + b"a" * 64 + b" HTTP/1.1\r\n\r\n", LIMITS)


def test_hop_by_hop_headers_stay_here() -> None:
    headers = [
        (b"Connection", b"close, X-Mine"),
        (b"connection", b"Keep-Alive"),
        (b"Keep-Alive", b"5"),
        (b"X-Mine", b"1"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Proxy-Connection", b"close"),
        (b"Cookie", b"a=b"),
    ]

    assert end_to_end(headers) == [(b"Cookie", b"a=b")]


def test_connection_cannot_name_what_frames_a_message() -> None:
    headers = [(b"Connection", b"content-length, host"), (b"Content-Length", b"3"), *HOST]

    assert end_to_end(headers) == headers[1:]


def test_a_node_is_told_of_the_client_by_the_proxy_alone() -> None:
    mine = [(b"Host", b"rt.example.org"), (b"Origin", b"https://a"), (b"Authorization", b"x")]
    forged = [
        (b"X-Forwarded-For", b"6.6.6.6"),
        (b"x-forwarded-proto", b"http"),
        (b"Forwarded", b"for=6.6.6.6"),
        (b"X-Real-IP", b"6.6.6.6"),
        (b"X-Request-Id", b"mine"),
    ]

    assert request_headers([*mine, *forged], FACTS) == [
        *mine,
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"rt.example.org"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Request-Id", b"id-1"),
    ]


CLAIMS = [
    (b"x-ssl-client-verify", b"SUCCESS"),
    (b"X_SSL_Client_Subject", b"CN=Eve"),
    (b"CLIENT-CERT", b":AAAA:"),
    (b"Client_Cert-Chain", b":AAAA:"),
    (b"X-Forwarded-Client-Cert", b"Subject=Eve"),
]


def test_of_certificates_only_we_tell_where_we_tell() -> None:
    heads = Heads(x_forwarded=False, request_id=False, certificate=("subject", "verify"))
    shown = ClientCertificate.of(b"der", ((("commonName", "Ada"),),), "1")
    verdict, subject = (b"X-SSL-Client-Verify", b"SUCCESS"), (b"X-SSL-Client-Subject", b"CN=Ada")
    for certificate, told in (
        (shown, [subject, verdict]),
        (None, [(b"X-SSL-Client-Verify", b"NONE")]),
    ):
        facts = attrs.evolve(FACTS, heads=heads, certificate=certificate)
        assert request_headers([*HOST, *CLAIMS], facts) == [*HOST, *told]
        # Nor can a client have them taken away, by calling them its hop's.
        listed = (b"Connection", b"close, X-SSL-Client-Verify, X-SSL-Client-Subject")
        assert request_headers([*HOST, listed], facts) == [*HOST, *told]
        # Its route has the last word.
        edits = Edits.of(HeaderRules(set={"X-SSL-Client-Verify": "x"}))
        facts.heads = attrs.evolve(heads, request=edits)
        assert (b"X-SSL-Client-Verify", b"x") in request_headers([*HOST, *CLAIMS], facts)


def test_of_certificates_nothing_is_told_or_dropped_by_default() -> None:
    plain = [pair for pair in CLAIMS if b"_" not in pair[0]]
    shown = ClientCertificate.of(b"der", ((("commonName", "Ada"),),), "1")
    facts = attrs.evolve(FACTS, heads=Heads(x_forwarded=False, request_id=False), certificate=shown)
    assert request_headers([*HOST, *plain], facts) == [*HOST, *plain]


def test_of_certificates_no_trailer_tells() -> None:
    assert trailers_to_send([*CLAIMS, (b"X-End", b"1")]) == [(b"X-End", b"1")]


def test_tokens_are_lower_case_and_in_order() -> None:
    headers = [(b"Connection", b"Upgrade, ,keep-alive"), (b"CONNECTION", b" X ")]

    assert tokens(headers, b"connection") == [b"upgrade", b"keep-alive", b"x"]


def test_changes_take_the_place_of_what_was_there() -> None:
    headers = [(b"A", b"1"), (b"b", b"2"), (b"a", b"3"), (b"C", b"4")]
    changes = ((b"a", b"x"), (b"a", b"y"), (b"B", None), (b"none", None), (b"New", b"z"))

    assert changed(headers, changes) == [
        (b"C", b"4"),
        (b"a", b"x"),
        (b"a", b"y"),
        (b"New", b"z"),
    ]


def test_an_interim_answer_is_as_its_route_has_it_and_has_nothing_of_ours() -> None:
    edits = Edits.of(HeaderRules(remove=("X-Secret",)))
    facts = attrs.evolve(FACTS, heads=Heads(via_to_client=b"tidegate", response=edits), hsts="x")
    headers = [(b"Link", b"</x>"), (b"X-Secret", b"1"), (b"Connection", b"close")]

    assert interim_headers(headers, facts) == [(b"Link", b"</x>")]
