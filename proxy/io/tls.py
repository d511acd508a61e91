"""TLS: contexts, made from the configuration once, and the transport that uses them.

The transport runs TLS over two memory BIOs rather than a wrapped socket: one `recv` brings several
records where an `SSLSocket` needs two reads for each, and one `send` carries several.

A memory BIO never shrinks: what once went through it at a time, the connection holds until its end.
So it gets small pieces, until a connection has moved so much that the CPU time which large ones
save is worth their memory.
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress
from typing import Final

import attrs
import trio

from proxy.config.model import Config, ListenerTls
from proxy.config.upstream import NodeTls
from proxy.errors import ConfigError

from .client_tls import ClientTls, note_name
from .transport import BUFFER, CHUNK, Bytes, SocketTransport, translated

#: How much a TLS peer may make us say that no application has sent.
MAX_UNASKED: Final = 64 * 1024
#: What comes from the network: between a `recv` into it and its use there is no `await`.
_CIPHERTEXT: Final = memoryview(bytearray(CHUNK))
#: What a memory BIO is given at a time, and of how many larger chunks, some 16 MiB, it gets more.
#: After a message of 1 MiB a session holds half as much again as before, where it would be nine
#: times as much; but pieces of 4 KiB cost a third more CPU than whole chunks.
PIECE: Final = 4 * 1024
PATIENCE: Final = 256
#: A peer that ends its stream without close_notify can still be sent to.  Some builds of Python set
#: it, others don't: OpenSSL then answers such an end with an alert and takes nothing more.
_HALF_CLOSE: Final = ssl.OP_IGNORE_UNEXPECTED_EOF
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsTransport(SocketTransport):
    """A TCP or unix connection with TLS on it, as the server unless a `server_name` is given.

    `server_name` is the name to ask for and to check as a client.
    """

    __slots__ = ("_ended", "_incoming", "_large", "_more", "_outgoing", "_piece", "tls")

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: There may be something to decrypt without reading from the network.
        self._more = False
        self._ended = False
        self._piece = PIECE
        self._large = 0
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )

    @property
    def pending(self) -> bool:
        return self._more

    async def do_handshake(self) -> None:
        """Shake hands.

        Raises:
            trio.BrokenResourceError: the peer hung up or is no TLS peer; the cause says which.
        """
        # A server has nothing to say before it has heard something.
        wants_more = self.tls.server_side
        while True:
            if wants_more and not await self._receive_ciphertext():
                raise trio.BrokenResourceError("closed during the TLS handshake")
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_ciphertext()
                wants_more = True
            except ssl.SSLError as exc:
                # The alert tells the peer what was wrong.
                with suppress(trio.BrokenResourceError):
                    await self._send_ciphertext()
                raise trio.BrokenResourceError("TLS handshake failed") from exc
            else:
                # What a server of TLS 1.3 has left are tickets: they go with its first answer.
                if not self.tls.server_side or self.tls.version() != "TLSv1.3":
                    await self._send_ciphertext()
                # A request that came in one segment with the end of the handshake.
                self._more = self._incoming.pending > 0
                return

    async def _send_ciphertext(self) -> None:
        try:
            while not self.flush():
                await self.wait_send_all_might_not_block()
        except OSError as exc:
            raise translated(exc) from exc

    async def _receive_ciphertext(self) -> bool:
        """Wait for bytes from the network; return whether some came."""
        while True:
            try:
                received = self.sock.recv_into(_CIPHERTEXT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
            except OSError as exc:
                raise translated(exc) from exc
            else:
                self._incoming.write(_CIPHERTEXT[:received])
                return received > 0

    def recv_into(self, buffer: memoryview) -> int:
        """Receive without waiting; return the number of bytes, 0 at the end of the stream.

        What does not fit in `buffer` is there for the next call, though the socket may not be
        readable any more: offer `BUFFER` bytes, or call until it raises `BlockingIOError`.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken, or what came is not TLS.
        """
        if self._more and (filled := self._decrypt(buffer)):
            return filled
        if self._ended:
            return 0
        received = self.sock.recv_into(_CIPHERTEXT)
        if received <= self._piece:
            if received:
                self._incoming.write(_CIPHERTEXT[:received])
            else:
                self._incoming.write_eof()
            filled = self._decrypt(buffer)
        else:
            filled = self._decrypt_pieces(received, buffer)
        if self._outgoing.pending:
            self._answer_key_updates()
        if not filled and not self._ended:
            raise BlockingIOError
        return filled

    def _decrypt_pieces(self, received: int, buffer: memoryview) -> int:
        filled = 0
        for piece in self._pieces(_CIPHERTEXT[:received]):
            self._incoming.write(piece)
            if filled < len(buffer):
                filled += self._decrypt(buffer[filled:])
        return filled

    def _pieces(self, chunk: memoryview) -> list[memoryview]:
        """Cut what is too large for the BIOs as they are."""
        piece = self._piece
        self._large += 1
        if self._large == PATIENCE:
            self._piece = BUFFER
        return [chunk[start : start + piece] for start in range(0, len(chunk), piece)]

    def _decrypt(self, buffer: memoryview) -> int:
        size = len(buffer)
        filled = 0
        try:
            # With a buffer it returns a count, which typeshed does not say of SSLObject.  A cast
            # would be a call for every message, as `super()` would be in `send`.
            count: int = self.tls.read(size, buffer)  # type: ignore[assignment]  # as said
            filled = count
            while self._incoming.pending and count and filled < size:
                rest = buffer[filled:]
                count = self.tls.read(size - filled, rest)  # type: ignore[assignment]  # as said
                filled += count
            self._ended = not count
            self._more = filled == size
        except ssl.SSLWantReadError:
            self._more = False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # With or without close_notify: WebSocket and HTTP framing show whether all has come.
            self._more = False
            self._ended = True
        return filled

    def _answer_key_updates(self) -> None:
        """Send what TLS itself has to say to what was read, and bound it (RFC 8446 section 4.6.3).

        Raises:
            OSError: the peer asks and asks, and does not read the answers.
        """
        if not self.flush() and len(self.backlog) > MAX_UNASKED:
            raise OSError(errno.ENOBUFS, "too many TLS key updates")

    def send(self, data: Bytes) -> bool:
        """Send without waiting; return whether all is out.  What is not, is in `backlog`.

        Raises:
            OSError: the connection is broken.
        """
        if len(data) <= self._piece:
            if data:
                self.tls.write(data)
            return SocketTransport.send(self, self._outgoing.read())
        records = []
        for piece in self._pieces(memoryview(data)):
            self.tls.write(piece)
            records.append(self._outgoing.read())
        return super().send(b"".join(records))

    def flush(self) -> bool:
        """Send what is left, of the handshake and of alerts too; return whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        if self._outgoing.pending:
            return self.send(b"")
        return super().flush()

    def say_eof(self) -> None:
        """Say close_notify, then that nothing more comes."""
        with suppress(OSError):
            # Raises SSLWantReadError: the peer's own close_notify has not come yet.
            self.tls.unwrap()
        with suppress(OSError):
            self.flush()
        super().say_eof()


@attrs.frozen
class Contexts:
    """What a configuration says of TLS, made ready for new handshakes."""

    #: Each listener's, None where it is plain.
    listeners: list[ssl.SSLContext | None]
    #: Towards the nodes of each upstream that has TLS.
    upstreams: dict[str, ssl.SSLContext]


def make_contexts(config: Config, source: str = "config") -> Contexts:
    """Read all that a configuration names for TLS; `source` is what it is called in faults.

    Raises:
        ConfigError: with every certificate, key and CA file that can't be used.
    """
    problems: list[str] = []
    listeners = _listener_contexts(config, source, problems)
    upstreams = _upstream_contexts(config, source, problems)
    if problems:
        raise ConfigError(problems)
    return Contexts(listeners, upstreams)


def _listener_contexts(
    config: Config, source: str, problems: list[str]
) -> list[ssl.SSLContext | None]:
    contexts: list[ssl.SSLContext | None] = []
    # Only where somebody is told: of a name that is not ASCII, Python prints a traceback.
    named = any(upstream.proxy_protocol == "v2" for upstream in config.upstreams.values())
    for index, listener in enumerate(config.listeners):
        try:
            context = _server_context(listener.tls, listener.mode) if listener.tls else None
            if context is not None and named:
                context.sslobject_class, context.sni_callback = ClientTls, note_name
            contexts.append(context)
        except (ssl.SSLError, OSError) as exc:
            where = f"listeners[{index}].tls.certificates[0]"
            problems.append(f"{source}: {where}: {_reason(exc)}")
    return contexts


def _upstream_contexts(
    config: Config, source: str, problems: list[str]
) -> dict[str, ssl.SSLContext]:
    contexts: dict[str, ssl.SSLContext] = {}
    # The system's CAs take some 20 ms to load, and 2 to forget: once is enough.
    made: dict[tuple[NodeTls, bool], ssl.SSLContext] = {}
    spoken = {route.upstream for route in config.routes if route.kind != "tcp"}
    unseen = {route.upstream for route in config.routes} - spoken
    for name, upstream in config.upstreams.items():
        if upstream.tls is None:
            continue
        files = attrs.evolve(upstream.tls, server_name=None)
        kind = files, name not in unseen
        key = "ca_file"
        try:
            if kind not in made:
                context = _client_context(*kind)
                key = "cert_file"
                _show_certificate(context, files)
                made[kind] = context
            contexts[name] = made[kind]
        except (ssl.SSLError, OSError) as exc:
            problems.append(f"{source}: upstreams.{name}.tls.{key}: {_reason(exc)}")
    return contexts


def _server_context(tls: ListenerTls, mode: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= _HALF_CLOSE
    context.minimum_version = _VERSIONS[tls.minimum_version]
    # A client that renegotiates costs a handshake each time (TLS 1.2 only).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Of the two that OpenSSL sends, one is never used: every resumption brings a new one.
    context.num_tickets = 1
    if mode == "http":
        # deepstream's clients offer none; browsers must not think of HTTP/2.
        context.set_alpn_protocols(["http/1.1"])
    certificate = tls.certificates[0]
    context.load_cert_chain(certificate.cert_file, certificate.key_file, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    """Stand in for OpenSSL's question on the terminal, which nobody would answer."""
    raise OSError("the key is protected by a passphrase")


def _client_context(tls: NodeTls, http: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.options |= _HALF_CLOSE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if http:
        context.set_alpn_protocols(["http/1.1"])
    return context


def _show_certificate(context: ssl.SSLContext, tls: NodeTls) -> None:
    """Have something to show to nodes that ask for a client's certificate."""
    if tls.cert_file and tls.key_file:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)


def _reason(exc: ssl.SSLError | OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        reason: str | None = exc.reason  # typeshed leaves out that there may be none
        match reason:
            case "KEY_VALUES_MISMATCH":
                return "the key does not belong to the certificate"
            case "" | "NO_START_LINE" | None:
                return "not a PEM certificate and key"
            case _:
                return f"cannot be used: {reason.lower().replace('_', ' ')}"
    return exc.strerror or str(exc)
