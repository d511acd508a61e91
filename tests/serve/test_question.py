"""What a command makes a request of."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.serve.question import Question, TcpQuestion, is_tcp


@pytest.mark.parametrize(
    ("url", "secure", "port", "host", "target"),
    [
        ("http://rt.example.org", False, 80, b"rt.example.org", b"/"),
        ("https://rt.example.org/a/b?c=d#e", True, 443, b"rt.example.org", b"/a/b?c=d"),
        (
            "ws://rt.example.org:8080/deepstream?",
            False,
            8080,
            b"rt.example.org:8080",
            b"/deepstream?",
        ),
        ("wss://user:word@[::1]:444?x/y", True, 444, b"[::1]:444", b"/?x/y"),
        ("http://h//x", False, 80, b"h", b"//x"),
    ],
)
def test_url(url: str, *, secure: bool, port: int, host: bytes, target: bytes) -> None:
    question = Question.of(url)

    assert (question.secure, question.port) == (secure, port)
    assert question.request.target == target
    assert question.request.headers[0] == (b"Host", host)
    assert question.whole_target == f"{host.decode()}{target.decode()}"


@pytest.mark.parametrize(
    ("url", "websocket", "expected"),
    [
        ("ws://h/", False, True),
        ("wss://h/", False, True),
        ("http://h/", True, True),
        ("http://h/", False, False),
    ],
)
def test_handshakes(url: str, *, websocket: bool, expected: bool) -> None:
    names = set(Question.of(url, websocket=websocket).request.names)

    assert (names == {b"host"}) is not expected
    assert expected is ({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"} <= names)


def test_headers_go_before_those_that_are_made() -> None:
    headers = ["Host: other", "X-A:  b ", "sec-websocket-version: 8", "X-Empty:"]
    request = Question.of("ws://h/", headers=headers, method="POST").request

    assert request.method == b"POST"
    assert list(request.headers)[:4] == [
        (b"Host", b"other"),
        (b"X-A", b"b"),
        (b"sec-websocket-version", b"8"),
        (b"X-Empty", b""),
    ]
    assert sum(name.lower() == b"sec-websocket-version" for name, _ in request.headers) == 1


@pytest.mark.parametrize(
    ("options", "title", "head"),
    [
        ({}, "GET h/a", b"GET /a HTTP/1.1\r\nHost: h\r\nX-A: b\r\n\r\n"),
        ({"method": "PUT"}, "PUT h/a", b"PUT /a HTTP/1.1\r\nHost: h\r\nX-A: b\r\n\r\n"),
        ({"old": True}, "GET h/a HTTP/1.0", b"GET /a HTTP/1.0\r\nHost: h\r\nX-A: b\r\n\r\n"),
        (
            {"old": True, "headers": ["host:", "X-A: b"]},
            "GET /a HTTP/1.0",
            b"GET /a HTTP/1.0\r\nX-A: b\r\n\r\n",
        ),
    ],
)
def test_head(options: dict[str, Any], title: str, head: bytes) -> None:
    question = Question.of("http://h/a", **{"headers": ["X-A: b"]} | options)

    assert (question.title, question.head) == (title, head)


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("/deepstream", {}, "'/deepstream' is no URL like https://rt.example.org/path"),
        ("ftp://h/", {}, "'ftp://h/' is no URL"),
        ("http:///x", {}, "'http:///x' is no URL"),
        ("http://h:70000/", {}, "Port out of range 0-65535"),
        ("http://[::1/", {}, "Invalid IPv6 URL"),
        ("http://h/ä", {}, "that is no request: "),
        ("http://h/", {"method": "G T"}, "that is no request: "),
        ("http://h/", {"headers": ["X"]}, "'X' is no header like \"Name: value\""),
        ("http://h/", {"headers": ["X Y: z"]}, "that is no request: "),
        ("http://h/", {"client": "10.0.0.1:80"}, "'10.0.0.1:80' is no address, and not \"unix\""),
    ],
)
def test_what_is_no_request(url: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Question.of(url, **options)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::1", "unix"])
def test_clients(client: str) -> None:
    assert Question.of("http://h/", client=client).client == client


@pytest.mark.parametrize(
    ("url", "secure", "name", "port"),
    [
        ("tcp://rt.example.org:1883", False, "", 1883),
        ("tls://RT.example.org:8883/", True, "rt.example.org", 8883),
        ("tls://rt.example.org.:8883", True, "rt.example.org", 8883),
        # Of an address there is no name to ask for.
        ("tls://192.0.2.1:8883", True, "", 8883),
        ("TLS://[2001:db8::1]:8883", True, "", 8883),
    ],
)
def test_connections(url: str, *, secure: bool, name: str, port: int) -> None:
    question = TcpQuestion.of(url)

    assert is_tcp(url)
    assert (question.secure, question.name, question.port) == (secure, name, port)


def test_port_of_a_listener_that_is_named() -> None:
    assert TcpQuestion.of("tcp://h", listener="mqtt").listener == "mqtt"


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("http://h:1", {}, "'http://h:1' is no address like tcp://rt.example.org:1883"),
        ("tcp://:1883", {}, "'tcp://:1883' is no address"),
        ("tcp://h:1/path", {}, "'tcp://h:1/path' is no address"),
        ("tcp://h:1?q", {}, "'tcp://h:1?q' is no address"),
        ("tcp://me@h:1", {}, "'tcp://me@h:1' is no address"),
        ("tcp://h", {}, "'tcp://h' needs a port, or the name of a listener beside it"),
        ("tcp://h:0", {}, "'tcp://h:0' needs a port"),
        ("tcp://h:70000", {}, "Port out of range 0-65535"),
        ("tls://ä.example:1", {}, "'ä.example' is no server name that a client can ask for"),
        ("tls://h:1", {"client": "h"}, "'h' is no address, and not \"unix\""),
    ],
)
def test_what_is_no_connection(url: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        TcpQuestion.of(url, **options)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("url", ["http://h", "ws://h:1", "nowhere", "tcp:h"])
def test_requests_are_no_connections(url: str) -> None:
    assert is_tcp(url) is (url == "tcp:h")
