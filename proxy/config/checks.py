"""What the values of a configuration must be like; each check says what is allowed."""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from pathlib import Path
from typing import Any, NewType

import attrs

from .address import Address

#: RFC 9110 section 5.6.2; such are the names of headers, and methods.
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
#: A file that need not be there: it is written.
NewFile = NewType("NewFile", Path)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+|null", re.ASCII)


class Invalid(ValueError):
    """Faults of one section, each as `(key path within it, reason)`."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {reason}" if key else reason for key, reason in faults))
        self.faults = faults


def above(low: float) -> Any:
    def check(_: object, __: attrs.Attribute[Any], value: float) -> None:
        if not value > low:
            raise ValueError(f"must be more than {low:g}, not {value:g}")
        if value == math.inf:
            raise ValueError("must be finite: every wait has an end")

    return check


def within(low: float, high: float) -> Any:
    def check(_: object, __: attrs.Attribute[Any], value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}, not {value}")

    return check


def seconds(default: float) -> Any:
    return attrs.field(default=default, validator=above(0))


def count(default: int, low: int = 1, high: int = 2**31) -> Any:
    return attrs.field(default=default, validator=within(low, high))


def one_of(*allowed: object) -> Any:
    def check(_: object, __: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return check


def starts_with_slash(_: object, __: attrs.Attribute[Any], value: str) -> None:
    if not value.startswith("/"):
        raise ValueError(f"must start with /, not {value!r}")
    if not value.isascii() or any(ch <= " " or ch == "\x7f" or ch in "?#" for ch in value):
        raise ValueError(f"{value!r} cannot be in a request's path")


def request_target(_: object, __: attrs.Attribute[Any], value: str) -> None:
    if not value.startswith("/"):
        raise ValueError(f"must start with /, not {value!r}")
    if not value.isascii() or any(ch <= " " or ch == "\x7f" or ch == "#" for ch in value):
        raise ValueError(f"{value!r} cannot be in a request's target")


def is_field(name: str, value: str) -> bool:
    """Whether a header can be sent as it is, and will be read as it is."""
    return bool(
        TOKEN.fullmatch(name)
        and value.isascii()
        and (value.isprintable() or not value)
        and value == value.strip()
    )


def host_name(_: object, __: attrs.Attribute[Any], value: str) -> None:
    if not (_HOST.fullmatch(value) or is_numeric(value)):
        raise ValueError(f"must be a host name without port or wildcard, not {value!r}")


def server_name(_: object, __: attrs.Attribute[Any], value: str) -> None:
    name = value.removeprefix("*.").lower()
    if not _HOST.fullmatch(name) or is_numeric(name):
        raise ValueError(f'must be like "rt.example.org" or "*.example.org", not {value!r}')


def origin_list(_: object, __: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for origin in value:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"must be like https://app.example.org, without a path: {origin!r}")


def reachable(_: object, __: attrs.Attribute[Any], value: Address) -> None:
    if not (value.path or value.port or value.srv):
        raise ValueError("a node needs a port")


@functools.lru_cache(maxsize=1024)
def is_numeric(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def bindable(_: object, __: attrs.Attribute[Any], value: Address) -> None:
    if value.srv:
        raise ValueError("a listener cannot be bound to an SRV name")


def lower(value: str | None) -> str | None:
    return None if value is None else value.lower()


def passphrase_faults(
    key_file: Path | None, passphrase_file: Path | None, passphrase_env: str | None
) -> list[tuple[str, str]]:
    """Return what is wrong with where a key's passphrase is said to be."""
    if passphrase_env is not None and (not passphrase_env or {*"=\0"} & {*passphrase_env}):
        return [("passphrase_env", f"cannot be a variable's name: {passphrase_env!r}")]
    if passphrase_file is not None and passphrase_env is not None:
        return [("passphrase_env", "stands beside passphrase_file: say one of them")]
    said = {"passphrase_file": passphrase_file, "passphrase_env": passphrase_env}
    reason = "means nothing without key_file"
    return [(key, reason) for key, value in said.items() if value is not None and key_file is None]


def repeated(keyed: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    first: dict[Any, str] = {}
    faults = []
    for key, value in keyed:
        if value in first:
            faults.append((key, f"is the same as {first[value]}"))
        first.setdefault(value, key)
    return faults
