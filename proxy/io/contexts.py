"""TLS contexts, made from the configuration once, for all handshakes until the next reload."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from proxy.config.checks import Invalid
from proxy.config.model import Config
from proxy.config.node_tls import NodeTls
from proxy.config.tls import ListenerTls
from proxy.errors import ConfigError

from .client_certificates import ask_for_certificates
from .keylog import write_keys
from .passphrase import Passphrase, load_certificate
from .peer_remarks import peer_remarks
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
    #: See `remarks`.
    peer_remarks: tuple[str, ...] = ()


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
    return Contexts(listeners, upstreams, tuple(peer_remarks(config, time.time())))


def remarks(config: Config, contexts: Contexts, now: float | None = None) -> Iterator[str]:
    """Tell of what works, and is not as it should be, each as `path.to.key: what to do`."""
    yield from contexts.peer_remarks


def _listener_contexts(config: Config, source: str, problems: list[str]) -> list[ServerTls | None]:
    contexts: list[ServerTls | None] = []
    for index, listener in enumerate(config.listeners):
        try:
            tls = listener.tls
            contexts.append(ServerTls(_server_context(tls, listener.mode)) if tls else None)
        except Invalid as exc:
            where = f"listeners[{index}].tls"
            problems += [f"{source}: {where}.{key}: {reason}" for key, reason in exc.faults]
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
        kind = attrs.evolve(upstream.tls, server_name=None), name not in unseen
        try:
            if kind not in made:
                made[kind] = _client_context(*kind)
            contexts[name] = made[kind]
        except Invalid as exc:
            for key, reason in exc.faults:
                problems.append(f"{source}: upstreams.{name}.tls.{key}: {reason}")
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
    load_certificate(context, certificate.cert_file, certificate.key_file, Passphrase())
    with _fault_of("client_certificates"):
        ask_for_certificates(context, tls.client_certificates)
    with _fault_of("keylog_file"):
        write_keys(context, tls.keylog_file)
    return context


def _client_context(tls: NodeTls, http: bool) -> ssl.SSLContext:
    """Make what the nodes of some upstreams are spoken to with.

    Raises:
        Invalid: a file cannot be used.
    """
    # Not as `ssl.create_default_context` does it: that is stricter with each version of Python, and
    # writes keys to where SSLKEYLOGFILE points.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= _HALF_CLOSE
    context.minimum_version = _VERSIONS[tls.minimum_version]
    context.maximum_version = _VERSIONS[tls.maximum_version]
    if http:
        context.set_alpn_protocols(["http/1.1"])
    with _fault_of("ca_file"):
        _trust(context, tls)
    with _fault_of("cert_file"):
        _show_certificate(context, tls)
    with _fault_of("keylog_file"):
        write_keys(context, tls.keylog_file)
    return context


def _trust(context: ssl.SSLContext, tls: NodeTls) -> None:
    if tls.ca_file is None:
        context.load_default_certs()
        return
    context.load_verify_locations(tls.ca_file)
    # What is in the file is trusted: it may be a node's own certificate, that nobody has signed.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _show_certificate(context: ssl.SSLContext, tls: NodeTls) -> None:
    """Have something to show to nodes that ask for a client's certificate."""
    if tls.cert_file and tls.key_file:
        passphrase = Passphrase(tls.passphrase_file, tls.passphrase_env)
        load_certificate(context, tls.cert_file, tls.key_file, passphrase)


@contextmanager
def _fault_of(key: str) -> Iterator[None]:
    """Have what goes wrong within be a fault of this key.

    Raises:
        Invalid: it has.
    """
    try:
        yield
    except Invalid as exc:
        raise Invalid(*((f"{key}.{inner}", reason) for inner, reason in exc.faults)) from exc
    except (ssl.SSLError, OSError) as exc:
        raise Invalid((key, _reason(exc))) from exc


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
