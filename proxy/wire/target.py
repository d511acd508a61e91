"""A request's target and host: as routes compare them, as a node gets them, and for a redirect."""

from __future__ import annotations

import re
from typing import Final

from proxy.config.http import Redirect
from proxy.config.route import Route
from proxy.errors import BadRequest

_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
#: RFC 3986 section 2.3: what means the same whether it is encoded or not.
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
#: RFC 9110 section 4.2: a port that need not be said.
_DEFAULT_PORTS = {"http": b"80", "https": b"443"}


def host_name(host: str) -> str:
    """Return the name in a Host header, in lower case, without port, brackets and final dot."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower().removesuffix(".")


def comparable(path: str) -> str:
    """Return a path as routes compare it: encoded as much as it must be, and in one way.

    RFC 3986 section 6.2.2: nodes may take `/%61` for `/a`, so a rule for `/a` has to.
    """
    return _ENCODED.sub(_decoded, path) if "%" in path else path


def _decoded(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()


def rewritten(target: bytes, route: Route) -> bytes:
    """Return the target of a request that has matched a route, in origin form, as it goes on."""
    if route.rewrite is None and not route.drop_query:
        return target
    path, mark, query = target.partition(b"?")
    path = _rewritten(path, route)
    return path if route.drop_query else path + mark + query


def _rewritten(path: bytes, route: Route) -> bytes:
    if (rewrite := route.rewrite) is None:
        return path
    if rewrite.path is not None:
        return rewrite.path.encode()
    if rewrite.strip_prefix is not None:
        front, back = "", rewrite.strip_prefix
    else:
        assert rewrite.replace_prefix is not None
        assert route.prefix is not None
        front, back = rewrite.replace_prefix, route.prefix
    # What is left begins with a slash, or is nothing: prefixes are whole segments.
    return front.rstrip("/").encode() + _without(path, back.rstrip("/")) or b"/"


def _without(path: bytes, prefix: str) -> bytes:
    """Return what is left of a path behind a prefix, which it has as routes compare it."""
    if not path.startswith(prefix.encode()):
        path, prefix = comparable(path.decode()).encode(), comparable(prefix)
    return path[len(prefix) :]


def location(redirect: Redirect, scheme: str, host: bytes, target: bytes) -> bytes:
    """Return where a redirect leads (RFC 9110 section 10.2.2), always with scheme and host.

    A reference without them would, for a path that begins with two slashes, lead to another host.
    `scheme`, `host` and `target` are the request's, the host with its port.

    Raises:
        BadRequest: nobody has said what host.
    """
    name, port = _parts(host)
    if redirect.scheme is not None or redirect.host is not None:
        # That port is one of where the client has come, not of where it is to go.
        port = b""
    if redirect.host is not None:
        name = redirect.host.encode()
        name = b"[%s]" % name if b":" in name else name
    if redirect.port is not None:
        port = b"%d" % redirect.port
    if not name:
        raise BadRequest("A redirect needs a Host header.")
    scheme = redirect.scheme or scheme
    if port and port != _DEFAULT_PORTS[scheme]:
        name += b":" + port
    if redirect.path is not None:
        path, mark, query = target.partition(b"?")
        path = redirect.path.encode()
        target = path if b"?" in path else path + mark + query
    return b"%s://%s%s" % (scheme.encode(), name, target)


def _parts(host: bytes) -> tuple[bytes, bytes]:
    """Return a Host header's name, brackets included, and its port."""
    bracket, closing, rest = host.partition(b"]")
    if closing:
        return bracket + closing, rest.removeprefix(b":")
    name, _, port = host.partition(b":")
    return name, port
