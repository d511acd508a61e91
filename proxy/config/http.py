"""What a route may ask of a request and do with it, beside sending it to an upstream."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
from attrs import validators

from .checks import (
    TOKEN,
    Invalid,
    count,
    host_name,
    is_field,
    is_numeric,
    lower,
    one_of,
    request_target,
    starts_with_slash,
    within,
)
from .page import Page

_STATUS = re.compile(r"[45](?:[0-9][0-9]|xx)")
#: What the proxy itself says of an answer, or of the connection that it goes over.
_OWN_FIELDS = frozenset(
    (
        "connection",
        "content-length",
        "content-type",
        "keep-alive",
        "proxy-connection",
        "proxy-status",
        "retry-after",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def host_pattern(_: object, __: attrs.Attribute[Any], value: str) -> None:
    """`rt.example.org`, or `*.example.org` for all below it."""
    name = value.removeprefix("*.")
    try:
        host_name(None, __, name)
    except ValueError:
        name = ""
    if not name or (name != value and is_numeric(name)):
        allowed = '"rt.example.org", or "*.example.org" for all below it'
        raise ValueError(f"must be a host name without port, like {allowed}, not {value!r}")


def method_list(_: object, __: attrs.Attribute[Any], value: tuple[str, ...] | None) -> None:
    if value is not None and not value:
        raise ValueError("must have at least one entry")
    for method in value or ():
        if not TOKEN.fullmatch(method) or method != method.upper():
            raise ValueError(f'must be methods like "GET", in capitals: {method!r}')
        if method in ("CONNECT", "TRACE"):
            raise ValueError(f"{method} is never served")


def header_conditions(_: object, __: attrs.Attribute[Any], value: dict[str, str]) -> None:
    for name, text in value.items():
        if not (text and is_field(name, text)):
            raise ValueError(f"no request has such a header: {name!r} = {text!r}")
        if name.lower() == "host":
            raise ValueError('of hosts the key "host" tells')
    _check_once(value)


def answer_headers(_: object, __: attrs.Attribute[Any], value: dict[str, str]) -> None:
    for name, text in value.items():
        if not is_field(name, text):
            raise ValueError(f"cannot be sent as a header: {name!r}")
        if name.lower() in _OWN_FIELDS:
            raise ValueError(f"is the proxy's own, or has a key of its own: {name!r}")
    _check_once(value)


def _check_once(names: dict[str, str]) -> None:
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("has a name more than once: their case makes no difference")


def error_statuses(_: object, __: attrs.Attribute[Any], value: dict[str, Page]) -> None:
    for status in value:
        if not _STATUS.fullmatch(status):
            raise ValueError(f'must be statuses like "502", or "4xx" or "5xx", not {status!r}')


def page_for(pages: dict[str, Page], status: int) -> Page | None:
    """Return the page for a status, or else for its kind."""
    return pages.get(str(status)) or pages.get(f"{status // 100}xx")


@attrs.frozen(kw_only=True)
class Rewrite:
    """The path as a node gets it; the query stays.

    `strip_prefix` is taken off the front, whole segments of it; `replace_prefix` takes the place of
    the route's prefix, and `path` that of a route's path.
    """

    strip_prefix: str | None = attrs.field(
        default=None, validator=validators.optional(starts_with_slash)
    )
    replace_prefix: str | None = attrs.field(
        default=None, validator=validators.optional(starts_with_slash)
    )
    path: str | None = attrs.field(default=None, validator=validators.optional(starts_with_slash))

    def __attrs_post_init__(self) -> None:
        if [self.strip_prefix, self.replace_prefix, self.path].count(None) != 2:
            raise Invalid(("", 'needs one of "strip_prefix", "replace_prefix" and "path"'))

    def fault(self, path: str | None, prefix: str | None) -> tuple[str, str] | None:
        """Return what is wrong with it on a route with this path or prefix, None if nothing is."""
        if self.replace_prefix is not None and prefix is None:
            return "replace_prefix", 'is for a route with "prefix"; for this one it is "path"'
        if self.path is not None and path is None:
            return "path", 'is for a route with "path"; for this one it is "replace_prefix"'
        if self.strip_prefix is not None:
            front, whole = self.strip_prefix.rstrip("/"), path or prefix or ""
            if not (whole.rstrip("/") == front or whole.startswith(front + "/")):
                return "strip_prefix", f"is not how {whole!r} begins"
        return None


@attrs.frozen(kw_only=True)
class Redirect:
    """Send the client elsewhere; what is not said stays as the client has asked for it.

    A port stays only where neither scheme nor host is said.  `path` may have a query, which then
    takes the place of the client's.
    """

    scheme: Literal["http", "https"] | None = None
    host: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(host_name)
    )
    port: int | None = attrs.field(default=None, validator=validators.optional(within(1, 65535)))
    path: str | None = attrs.field(default=None, validator=validators.optional(request_target))
    # Keeps the method, and may be remembered.  nginx, Caddy: 302; Traefik 302, or 301
    status: int = attrs.field(default=308, validator=one_of(301, 302, 303, 307, 308))

    @property
    def becomes_get(self) -> bool:
        """Whether clients ask with GET where it leads (RFC 9110 section 15.4)."""
        return self.status in (301, 302, 303)


def _answer_status(_: object, __: attrs.Attribute[Any], value: int) -> None:
    if not 200 <= value <= 599 or value in (205, 304):
        raise ValueError(f"must be from 200 to 599, and not 205 or 304: {value}")


@attrs.frozen(kw_only=True)
class Respond:
    """Answer the client here: `body` or the content of `file`, and else a line of text."""

    status: int = attrs.field(default=200, validator=_answer_status)
    body: str | None = None
    file: Page | None = None
    # Default: as the file's name says; of a body text/plain
    content_type: str | None = attrs.field(default=None)
    headers: dict[str, str] = attrs.field(factory=dict, validator=answer_headers)
    # Seconds; 0: nothing is said
    retry_after: int = count(0, low=0, high=10**8)

    @content_type.validator
    def _printable(self, _: attrs.Attribute[Any], value: str | None) -> None:
        if value is not None and not (value and is_field("Content-Type", value)):
            raise ValueError(f"cannot be sent in a header: {value!r}")

    def __attrs_post_init__(self) -> None:
        faults = []
        if self.body is not None and self.file is not None:
            faults.append(("", 'takes either "body" or "file"'))
        if self.content_type is not None and self.content is None:
            faults.append(("content_type", "means nothing without a body"))
        if self.status == 204 and self.content:
            faults.append(("", "an answer with status 204 has no body"))
        if faults:
            raise Invalid(*faults)

    @property
    def content(self) -> bytes | None:
        """The body, None if it is not said."""
        if self.file is not None:
            return self.file.body
        return None if self.body is None else self.body.encode()

    @property
    def media_type(self) -> str:
        """What the body is."""
        if self.content_type is not None:
            return self.content_type
        return self.file.content_type if self.file is not None else "text/plain; charset=utf-8"


@attrs.frozen(kw_only=True)
class RequestRate:
    """How fast one client address (an IPv6 /64) may ask: 429 beyond, with Retry-After."""

    # nginx: to be said; Traefik's average: off
    per_second: float = attrs.field(validator=within(0.001, 10**9))
    # So many at once.  nginx 1 and its burst more, Traefik 1: but a page is a handful of requests
    burst: int = count(20)
