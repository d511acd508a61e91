"""Headers that an operator, or an embedding program, adds to messages, replaces or takes out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from .checks import TOKEN, Invalid, repeated

#: For one connection only (RFC 9110 section 7.6.1); each of the proxy's has its own.
HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection te transfer-encoding upgrade".split()
)
#: Those, and what says how a message is framed.
_OWN = HOP_BY_HOP | {b"content-length", b"trailer"}
#: RFC 9110 section 5.5: no control characters, no space at either end.
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
#: In a value; other braces are just braces, as JSON has them.
PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
#: The client's address, where it wanted to go, how, and the request's name.
PLACEHOLDERS: Final = ("client", "host", "request_id", "scheme")


def check_headers(pairs: Iterable[tuple[str, str]]) -> None:
    """Check that headers can be sent, and are not the proxy's own on each connection.

    Raises:
        ValueError: with the reason.
    """
    for name, value in pairs:
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header's name")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{name!r} cannot have the value {value!r}")
        if name.lower().encode() in _OWN:
            raise ValueError(f"{name!r} is the proxy's own on each of its connections")


def check_end_to_end(pairs: Iterable[tuple[str, str]]) -> None:
    """Check headers likewise that may stand in a WebSocket handshake.

    Raises:
        ValueError: with the reason.
    """
    for name, value in pairs:
        check_headers([(name, value)])
        if name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{name!r} is between the client and the node")


@attrs.frozen(kw_only=True)
class HeaderRules:
    """What becomes of a message's headers: `remove`, then `set`, then `add`.

    What is set takes the place of all that stands under its name, what is added stands beside it.
    Values may have `{client}`, `{host}`, `{request_id}` and `{scheme}`.
    """

    remove: tuple[str, ...] = ()
    set: dict[str, str] = attrs.field(factory=dict)
    add: dict[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        pairs = [
            *((f"remove[{i}]", name, "") for i, name in enumerate(self.remove)),
            *((f"set.{name}", name, value) for name, value in self.set.items()),
            *((f"add.{name}", name, value) for name, value in self.add.items()),
        ]
        faults = [(key, why) for key, name, value in pairs if (why := _fault(name, value))]
        faults += repeated([(f"set.{name}", name.lower()) for name in self.set])
        if faults:
            raise Invalid(*faults)

    def __bool__(self) -> bool:
        return bool(self.remove or self.set or self.add)


def _fault(name: str, value: str) -> str:
    try:
        check_end_to_end([(name, value)])
    except ValueError as exc:
        return str(exc)
    for word in PLACEHOLDER.findall(value):
        if word not in PLACEHOLDERS:
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            return f"{{{word}}} stands for nothing; there are: {known}"
    return ""


def request_rules(_: object, __: attrs.Attribute[Any], value: HeaderRules) -> None:
    """Check rules that are for requests."""
    faults = []
    for key, names in (("remove", value.remove), ("set", value.set), ("add", value.add)):
        lower = [name.lower() for name in names]
        if "host" in lower and key != "set":
            faults.append((key, "a request has one Host: it can be set"))
        if "via" in lower:
            faults.append((key, "Via is as forwarding.via says: loops are found by it"))
    if faults:
        raise Invalid(*faults)
