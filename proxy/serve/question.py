"""A request that nobody has sent, made of a URL and what else a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import attrs
import h11

from proxy.config.network import ip_address
from proxy.wire.head import Request
from proxy.wire.headers import Headers, get

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}
_HANDSHAKE: Final[Headers] = [
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
]


@attrs.frozen(kw_only=True)
class Question:
    """A request that somebody might send.

    `secure` is whether over TLS; `listener` is where it comes in, None: where its port leads.
    """

    secure: bool
    port: int
    request: Request
    client: str
    listener: str | None

    @classmethod
    def of(
        cls,
        url: str,
        *,
        method: str = "GET",
        headers: Sequence[str] = (),
        client: str = "127.0.0.1",
        websocket: bool = False,
        listener: str | None = None,
    ) -> Question:
        """Make one of what a command is given; headers are like "Name: value".

        Raises:
            ValueError: that is no request.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SECURE or not parts.hostname:
            raise ValueError(f"{url!r} is no URL like https://rt.example.org/path")
        if client != "unix" and ip_address(client) is None:
            raise ValueError(f'{client!r} is no address, and not "unix"')
        given = [_header(text) for text in headers]
        if websocket or parts.scheme in ("ws", "wss"):
            given += [pair for pair in _HANDSHAKE if get(given, pair[0].lower()) is None]
        if get(given, b"host") is None:
            given.insert(0, (b"Host", parts.netloc.rpartition("@")[2].encode()))
        secure = _SECURE[parts.scheme]
        try:
            checked = h11.Request(method=method, target=_target(url), headers=given)
        except (h11.LocalProtocolError, UnicodeError) as exc:
            raise ValueError(f"that is no request: {exc}") from exc
        return cls(
            secure=secure,
            port=parts.port or (443 if secure else 80),
            request=Request(checked.method, checked.target, given),
            client=client,
            listener=listener,
        )

    @property
    def whole_target(self) -> str:
        """The target with its host."""
        host = self.request.get(b"host") or b""
        return f"{host.decode('latin-1')}{self.request.target.decode()}"


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f'{text!r} is no header like "Name: value"')
    return name.strip().encode(), value.strip().encode()


def _target(url: str) -> str:
    """Return what stands behind the host, as it is: an empty query is one, too."""
    rest = url.partition("://")[2].partition("#")[0]
    start = min((rest.find(mark) for mark in "/?" if mark in rest), default=len(rest))
    target = rest[start:]
    return target if target.startswith("/") else f"/{target}"
