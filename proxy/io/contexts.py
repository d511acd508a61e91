"""TLS contexts, made from the configuration once, for all handshakes until the next reload."""

from __future__ import annotations

import ssl
from typing import Final

import attrs

from proxy.config.model import Config
from proxy.config.tls import ListenerTls
from proxy.config.upstream import NodeTls
from proxy.errors import ConfigError

from .server_tls import ServerTls

#: A peer that ends its stream without close_notify can still be sent to.  Some builds of Python set
#: it, others don't: OpenSSL then answers such an end with an alert and takes nothing more.
_HALF_CLOSE: Final = ssl.OP_IGNORE_UNEXPECTED_EOF
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@attrs.frozen
class Contexts:
    """What a configuration says of TLS, made ready for new handshakes."""

    #: Each listener's, None where it is plain.
    listeners: list[ServerTls | None]
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


def _listener_contexts(config: Config, source: str, problems: list[str]) -> list[ServerTls | None]:
    contexts: list[ServerTls | None] = []
    for index, listener in enumerate(config.listeners):
        try:
            tls = listener.tls
            contexts.append(ServerTls(_server_context(tls, listener.mode)) if tls else None)
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
