"""A request, or a connection, that nobody has made: of a URL and what else a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import attrs
import h11

from proxy.config.network import ip_address
from proxy.errors import BadClientHello
from proxy.wire.client_hello import read_name
from proxy.wire.head import Request
from proxy.wire.headers import Headers, get

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}
_SECURE_TCP: Final = {"tcp": False, "tls": True}
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
        old: bool = False,
    ) -> Question:
        """Make one of what a command is given; headers are like "Name: value".

        An `old` one is of HTTP/1.0, where "Host:" is for none at all.

        Raises:
            ValueError: that is no request.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SECURE or not parts.hostname:
            likes = "https://rt.example.org/path, or tcp://rt.example.org:1883"
            raise ValueError(f"{url!r} is no URL like {likes}")
        _check_client(client)
        given = [_header(text) for text in headers]
        if websocket or parts.scheme in ("ws", "wss"):
            given += [pair for pair in _HANDSHAKE if get(given, pair[0].lower()) is None]
        if get(given, b"host") is None:
            given.insert(0, (b"Host", parts.netloc.rpartition("@")[2].encode()))
        elif old:
            given = [pair for pair in given if pair[0].lower() != b"host" or pair[1]]
        secure, version = _SECURE[parts.scheme], b"1.0" if old else b"1.1"
        try:
            checked = h11.Request(
                method=method, target=_target(url), headers=given, http_version=version
            )
        except (h11.LocalProtocolError, UnicodeError) as exc:
            raise ValueError(f"that is no request: {exc}") from exc
        return cls(
            secure=secure,
            port=parts.port or (443 if secure else 80),
            request=Request(checked.method, checked.target, given, None, version),
            client=client,
            listener=listener,
        )

    @property
    def title(self) -> str:
        """The request line, its target with the host."""
        request = self.request
        old = " HTTP/1.0" if request.http_version == b"1.0" else ""
        return f"{request.method.decode()} {self.whole_target}{old}"

    @property
    def whole_target(self) -> str:
        """The target with its host."""
        host = self.request.get(b"host") or b""
        return f"{host.decode('latin-1')}{self.request.target.decode()}"

    @property
    def head(self) -> bytes:
        """The request's head as it comes in."""
        request = self.request
        line = b"%b %b HTTP/%b" % (request.method, request.target, request.http_version)
        return b"\r\n".join([line, *map(b": ".join, request.headers), b"", b""])


@attrs.frozen(kw_only=True)
class TcpQuestion:
    """A connection that somebody might make to a listener of mode "tcp".

    `secure` is whether the client speaks TLS, and `name` what it asks for then, empty if nothing.
    `listener` is where it comes in, None: where its port leads.
    """

    secure: bool
    name: str
    port: int
    client: str
    listener: str | None

    @classmethod
    def of(cls, url: str, *, client: str = "127.0.0.1", listener: str | None = None) -> TcpQuestion:
        """Make one of what a command is given.

        Raises:
            ValueError: that is no connection.
        """
        parts = urlsplit(url)
        host, secure = parts.hostname, _SECURE_TCP.get(parts.scheme)
        more = parts.path.removeprefix("/") or parts.query or parts.fragment or parts.username
        if secure is None or not host or more:
            raise ValueError(f"{url!r} is no address like tcp://rt.example.org:1883")
        if not parts.port and listener is None:
            raise ValueError(f"{url!r} needs a port, or the name of a listener beside it")
        _check_client(client)
        try:
            # For an address no client asks (RFC 6066 section 3).
            name = read_name(host.encode()) if secure and ip_address(host) is None else ""
        except BadClientHello as exc:
            raise ValueError(f"{host!r} is no server name that a client can ask for") from exc
        return cls(secure=secure, name=name, port=parts.port or 0, client=client, listener=listener)


def is_tcp(url: str) -> bool:
    """Whether a URL asks for a connection, not for a request."""
    return urlsplit(url).scheme in _SECURE_TCP


def _check_client(client: str) -> None:
    if client != "unix" and ip_address(client) is None:
        raise ValueError(f'{client!r} is no address, and not "unix"')


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
