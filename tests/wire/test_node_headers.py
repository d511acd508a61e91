"""What the head of a plain request has at its end: framing and the connection are this hop's."""

from __future__ import annotations

import pytest

from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers, Heads
from proxy.wire.node_headers import node_headers

FACTS = ClientFacts(
    address="192.0.2.7",
    scheme="http",
    port=80,
    request_id="id-1",
    heads=Heads(x_forwarded=False, request_id=False),
)
HOST = (b"Host", b"rt.example")
EXPECT = (b"Expect", b"100-continue")
LENGTH = (b"Content-Length", b"3")
CHUNKED = (b"Transfer-Encoding", b"chunked")
TRAILERS = (b"TE", b"trailers")


def of(
    headers: Headers, version: bytes = b"1.1", *, whole: bool = True, keeps: bool = True
) -> Headers:
    request = Request(b"GET", b"/", headers, None, version)
    return node_headers(request, FACTS, authority="node:1", whole=whole, keeps=keeps)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([HOST], [HOST]),
        ([HOST, LENGTH], [HOST, LENGTH]),
        ([CHUNKED, HOST], [HOST, CHUNKED]),
        ([(b"transfer-encoding", b"Chunked"), HOST], [HOST, CHUNKED]),
        ([(b"te", b"gzip, Trailers"), HOST], [HOST, TRAILERS, (b"Connection", b"TE")]),
        ([(b"TE", b"gzip"), HOST], [HOST]),
        ([(b"Connection", b"close, X-A"), (b"X-A", b"b"), HOST], [HOST]),
        ([(b"Connection", b"upgrade"), (b"Upgrade", b"h2c"), HOST], [HOST]),
        ([(b"Keep-Alive", b"timeout=5"), HOST], [HOST]),
    ],
)
def test_framing_and_connection_are_ours(headers: Headers, expected: Headers) -> None:
    assert of(headers) == expected


def test_connection_that_carries_no_more() -> None:
    assert of([HOST], keeps=False) == [HOST, (b"Connection", b"close")]
    trailers = of([HOST, TRAILERS], keeps=False)
    assert trailers == [HOST, TRAILERS, (b"Connection", b"close, TE")]


@pytest.mark.parametrize(
    ("version", "whole", "goes_on"),
    [(b"1.1", False, True), (b"1.1", True, False), (b"1.0", False, False)],
)
def test_expectations(version: bytes, *, whole: bool, goes_on: bool) -> None:
    expected = [HOST, EXPECT, LENGTH] if goes_on else [HOST, LENGTH]

    assert of([HOST, EXPECT, LENGTH], version, whole=whole) == expected


def test_nobody_has_said_what_host_it_means() -> None:
    """Nor is a node told that somebody has."""
    assert of([(b"X-A", b"b")], b"1.0") == [(b"Host", b"node:1"), (b"X-A", b"b")]
