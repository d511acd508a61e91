"""What tells one client's requests from another's, for a policy that sends equals to one node."""

from __future__ import annotations

from urllib.parse import parse_qsl

from .headers import Headers, get

#: Of a longer value the rest makes no difference.
LONGEST = 1024


def hash_key(source: str, address: str, target: bytes, headers: Headers) -> bytes:
    """Return the key of a request, empty if it has none.

    `source` is as in the configuration: "client", "header:NAME", "cookie:NAME" or "query:NAME".
    """
    kind, _, name = source.partition(":")
    match kind:
        case "client":
            key = address.encode()
        case "header":
            key = get(headers, name.lower().encode()) or b""
        case "cookie":
            key = cookie(headers, name.encode()) or b""
        case _:
            key = _parameter(target, name)
    return key[:LONGEST]


def cookie(headers: Headers, wanted: bytes) -> bytes | None:
    """Return the value of the first cookie of that name."""
    for header, value in headers:
        if header.lower() == b"cookie":
            for pair in value.split(b";"):
                name, _, content = pair.strip().partition(b"=")
                if name == wanted:
                    return content
    return None


def _parameter(target: bytes, wanted: str) -> bytes:
    query = target.partition(b"?")[2].decode("latin-1")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == wanted:
            return value.encode("utf-8", "surrogateescape")
    return b""
