"""TLS contexts, made from the configuration once and used for every connection."""

from __future__ import annotations

import ssl
from typing import Final

from proxy.config.model import Config, ListenerTls, NodeTls
from proxy.errors import ConfigError

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def listener_contexts(config: Config, source: str = "config") -> list[ssl.SSLContext | None]:
    """Return a context for each listener, None where it is plain.

    `source` is what the configuration is called in faults.

    Raises:
        ConfigError: with every certificate and key that can't be used.
    """
    contexts: list[ssl.SSLContext | None] = []
    problems: list[str] = []
    for index, listener in enumerate(config.listeners):
        try:
            contexts.append(_server_context(listener.tls) if listener.tls else None)
        except (ssl.SSLError, OSError) as exc:
            where = f"listeners[{index}].tls.certificates[0]"
            problems.append(f"{source}: {where}: {_reason(exc)}")
    if problems:
        raise ConfigError(problems)
    return contexts


def upstream_contexts(config: Config, source: str = "config") -> dict[str, ssl.SSLContext]:
    """Return a context for each upstream that has TLS, by name.

    Raises:
        ConfigError: with every CA file that can't be used.
    """
    contexts = {}
    problems = []
    for name, upstream in config.upstreams.items():
        if upstream.tls is None:
            continue
        try:
            contexts[name] = _client_context(upstream.tls)
        except (ssl.SSLError, OSError) as exc:
            problems.append(f"{source}: upstreams.{name}.tls.ca_file: {_reason(exc)}")
    if problems:
        raise ConfigError(problems)
    return contexts


def check_tls(config: Config, source: str) -> None:
    """Try everything that a configuration says of TLS.

    Raises:
        ConfigError: with every certificate, key and CA file that can't be used.
    """
    problems: list[str] = []
    for make in (listener_contexts, upstream_contexts):
        try:
            make(config, source)
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(problems)


def _server_context(tls: ListenerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimum_version]
    # A client that renegotiates costs a handshake each time (TLS 1.2 only).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # deepstream's clients offer none; browsers must not think of HTTP/2.
    context.set_alpn_protocols(["http/1.1"])
    certificate = tls.certificates[0]
    context.load_cert_chain(certificate.cert_file, certificate.key_file, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    """Stand in for OpenSSL's question on the terminal, which nobody would answer."""
    raise OSError("the key is protected by a passphrase")


def _client_context(tls: NodeTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


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
