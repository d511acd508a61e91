"""The tree of errors: as drawn, as exported, and what each of them answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import pytest

from proxy import errors
from proxy.errors import (
    BadRequest,
    ConfigError,
    NodeError,
    NoNode,
    NoRoute,
    Refusal,
    TidegateError,
)
from proxy.wire.refusal import REASONS

#: RFC 9209 section 2.3, whole.
REGISTRY = {
    "dns_timeout",
    "dns_error",
    "destination_not_found",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_write_timeout",
    "connection_limit_reached",
    "tls_protocol_error",
    "tls_certificate_error",
    "tls_alert_received",
    "http_request_error",
    "http_request_denied",
    "http_response_incomplete",
    "http_response_header_section_size",
    "http_response_header_size",
    "http_response_body_size",
    "http_response_trailer_section_size",
    "http_response_trailer_size",
    "http_response_transfer_coding",
    "http_response_content_coding",
    "http_response_timeout",
    "http_upgrade_failed",
    "http_protocol_error",
    "proxy_internal_response",
    "proxy_internal_error",
    "proxy_configuration_error",
    "proxy_loop_detected",
}


@attrs.frozen
class Drawn:
    """A class as the docstring draws it."""

    name: str
    parent: str
    status: int | None


def drawn() -> Iterator[Drawn]:
    """Yield the classes of the docstring's tree, parents first."""
    line = re.compile(r"(?P<lead>[ |]*)(?:\+-- )?(?P<names>[A-Z]\w+(?:, [A-Z]\w+)*)(?: +(\d{3}))?")
    above: list[tuple[int, str]] = []
    tree = (errors.__doc__ or "").partition("\n\n    TidegateError")[2]
    for text in f"    TidegateError{tree}".splitlines():
        match = line.match(text)
        assert match, text
        column = match.start("names")
        above = [(at, name) for at, name in above if at < column]
        parent = above[-1][1] if above else "Exception"
        for name in match["names"].split(", "):
            yield Drawn(name, parent, int(match[3]) if match[3] else None)
        above.append((column, name))


def subclasses(kind: type[TidegateError]) -> Iterator[type[TidegateError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from subclasses(inner)


def refusals() -> list[type[Refusal]]:
    return [kind for kind in subclasses(TidegateError) if issubclass(kind, Refusal)]


def build(kind: type[Refusal]) -> Refusal:
    """Make any refusal with nothing but what it must have."""
    return kind("n:1") if issubclass(kind, NodeError | NoNode) else kind()


def test_docstring_draws_every_class() -> None:
    names = [one.name for one in drawn()]

    assert sorted(names) == sorted(kind.__name__ for kind in subclasses(TidegateError))
    assert len(names) == len(set(names))


@pytest.mark.parametrize("one", list(drawn()), ids=lambda one: one.name)
def test_class_is_as_drawn(one: Drawn) -> None:
    kind = getattr(errors, one.name)
    above = kind.__mro__[1]

    assert above.__name__ == one.parent
    if issubclass(kind, Refusal) and kind is not Refusal:
        assert kind.status == (one.status or above.status)
    else:
        assert one.status is None


@pytest.mark.parametrize("kind", refusals(), ids=lambda kind: kind.__name__)
def test_answer_can_be_written(kind: type[Refusal]) -> None:
    error = build(kind)

    assert error.status in REASONS
    assert error.token in REGISTRY
    assert error.detail == kind.summary
    assert error.detail.isascii()
    assert error.detail.endswith(".")


def test_detail_replaces_the_summary() -> None:
    assert BadRequest("two Host headers").detail == "two Host headers"
    assert NoRoute(headers=[(b"a", b"b")]).headers == ((b"a", b"b"),)
    assert NoRoute().headers == ()


def test_config_error_is_one_line_per_fault() -> None:
    error = ConfigError(["f: a: wrong", "f: b: missing"])

    assert error.problems == ("f: a: wrong", "f: b: missing")
    assert str(error) == "f: a: wrong\nf: b: missing"
    assert not isinstance(error, Refusal)
