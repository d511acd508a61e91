"""What a client reads of an error."""

from __future__ import annotations

from proxy.errors import Denied, Full, NodeTlsError
from proxy.wire.refusal import answer_to


def test_an_answer_tells_what_and_why() -> None:
    reason, headers, body = answer_to(Full(retry_after=7), "id-7")

    assert reason == b"Service Unavailable"
    assert body == b"503 Service Unavailable: The proxy has reached its connection limit. (id-7)\n"
    assert headers == [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Proxy-Status", b"tidegate; error=connection_limit_reached"),
        (b"Retry-After", b"7"),
    ]


def test_one_with_an_answer_of_its_own_has_that() -> None:
    reason, headers, body = answer_to(
        Denied(status=302, headers=[(b"Location", b"/x")], body=b""), "id"
    )

    assert (reason, body) == (b"Found", b"")
    assert headers == [
        (b"Content-Length", b"0"),
        (b"Proxy-Status", b"tidegate; error=http_request_denied"),
        (b"Location", b"/x"),
    ]


def test_what_a_node_is_called_is_no_clients() -> None:
    error = NodeTlsError("10.1.2.3:6020", "Hostname mismatch: not valid for 'db.internal'.")
    assert "db.internal" in error.detail
    assert answer_to(error, "id-7")[2] == b"502 Bad Gateway: TLS to the node failed. (id-7)\n"


def test_statuses_that_nobody_knows_have_no_phrase() -> None:
    assert answer_to(Denied(status=599), "id")[0] == b""
