"""TLS contexts, made from the configuration once, for all handshakes until the next reload."""

from __future__ import annotations

import ssl
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import attrs

from proxy.config.checks import Invalid
from proxy.config.model import Config
from proxy.config.node_tls import NodeTls
from proxy.config.tls import Certificate, ListenerTls, Tls
from proxy.errors import ConfigError

from .agreement import VERSIONS, agree_on, hand_out_tickets
from .certificates import Pair, expiry, read_pair
from .client_certificates import ask_for_certificates, contents
from .keylog import write_keys
from .peer_remarks import peer_remarks
from .server_tls import ServerTls, show

#: A peer that ends its stream without close_notify can still be sent to.  Some builds of Python set
#: it, others don't: OpenSSL then answers such an end with an alert and takes nothing more.
_HALF_CLOSE: Final = ssl.OP_IGNORE_UNEXPECTED_EOF
#: All those of one kind, by the certificates that they show.
_Made = defaultdict[Hashable, dict[tuple[Pair, ...], ssl.SSLContext]]


@attrs.frozen
class Contexts:
    """What a configuration says of TLS, made ready for new handshakes."""

    #: Each listener's, None where it is plain.
    listeners: list[ServerTls | None]
    #: Towards the nodes of each upstream that has TLS.
    upstreams: dict[str, ssl.SSLContext]
    #: See `remarks`.
    peer_remarks: tuple[str, ...] = ()


def make_contexts(
    config: Config, source: str = "config", before: Contexts | None = None
) -> Contexts:
    """Read all that a configuration names for TLS; `source` is what it is called in faults.

    Contexts of listeners that are in `before` already, and would be the same, are taken from there:
    what tickets are sealed with goes with the context.

    Raises:
        ConfigError: with every certificate, key and CA file that can't be used.
    """
    problems: list[str] = []
    listeners = _listener_contexts(config, source, problems, before)
    upstreams = _upstream_contexts(config, source, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Contexts(listeners, upstreams, tuple(peer_remarks(config, time.time())))


def judge_anew(config: Config, source: str, before: Contexts) -> list[ServerTls | None]:
    """Read only what judges clients again, with the certificates that are shown already.

    `before` is what was made of the same configuration.

    Raises:
        ConfigError: with every file of these that can't be used.
    """
    problems: list[str] = []
    shown = [known.shown.pairs if known is not None else () for known in before.listeners]
    listeners = _listener_contexts(config, source, problems, before, shown)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return listeners


def _listener_contexts(
    config: Config,
    source: str,
    problems: list[str],
    before: Contexts | None,
    shown: Sequence[Sequence[Pair]] | None = None,
) -> list[ServerTls | None]:
    """Make each listener's; `shown` is what they show, None: it has to be read."""
    made: _Made = defaultdict(dict)
    for known in before.listeners if before else ():
        if known is not None:
            made[known.ingredients].update(known.shown.made)
    contexts: list[ServerTls | None] = []
    for index, listener in enumerate(config.listeners):
        if listener.tls is None:
            contexts.append(None)
            continue
        try:
            pairs = shown[index] if shown else _read_pairs(listener.tls.certificates)
            contexts.append(_server_tls(listener.tls, config.tls, listener.mode, pairs, made))
        except Invalid as exc:
            for key, reason in exc.faults:
                own = key.partition(".")[0]
                inherited = hasattr(config.tls, own) and getattr(listener.tls, own, None) is None
                where = f"tls.{key}" if inherited else f"listeners[{index}].tls.{key}"
                problems.append(f"{source}: {where}: {reason}")
    return contexts


def _server_tls(
    tls: ListenerTls, defaults: Tls, mode: str, pairs: Sequence[Pair], made: _Made
) -> ServerTls:
    """Make what the clients of a listener shake hands with, as far as it is not made already.

    Raises:
        Invalid: something that is named in `tls` can't be used.
    """
    settings = tls.over(defaults)
    make = partial(_server_context, tls, settings, mode)
    with _fault_of("client_certificates"):
        ingredients = _ingredients(settings, mode)
    shown = show(pairs, make, made[ingredients])
    made[ingredients].update(shown.made)
    reject = settings.unknown_sni == "reject"
    if reject and not shown.named:
        raise Invalid(("unknown_sni", "refuses everybody: no certificate is for any DNS name"))
    return ServerTls(shown, reject, settings.handshake_timeout, tls.certificates, make, ingredients)


def _ingredients(settings: Tls, mode: str) -> Hashable:
    """Return all that a context is made of besides certificates, contents of other files too.

    What changes only who is shown what, and when, leaves contexts as they are.
    """
    alike = attrs.evolve(
        settings, unknown_sni="default", handshake_timeout=1.0, renewal_interval=1.0
    )
    return alike, mode, contents(settings.client_certificates)


def _read_pairs(certificates: Sequence[Certificate]) -> list[Pair]:
    pairs: list[Pair] = []
    faults: list[tuple[str, str]] = []
    for index, certificate in enumerate(certificates):
        try:
            pairs.append(read_pair(certificate))
        except Invalid as exc:
            where = f"certificates[{index}]"
            faults += [(f"{where}.{key}" if key else where, why) for key, why in exc.faults]
    if faults:
        raise Invalid(*faults)
    return pairs


def remarks(config: Config, contexts: Contexts, now: float | None = None) -> Iterator[str]:
    """Tell of what works, and is not as it should be, each as `path.to.key: what to do`.

    `now` is in seconds since the epoch; None: nothing is said of certificates' time.
    """
    for index, (listener, made) in enumerate(
        zip(config.listeners, contexts.listeners, strict=True)
    ):
        if listener.tls is None or made is None:
            continue
        where = f"listeners[{index}].tls"
        if (oldest := listener.tls.over(config.tls).minimum_version) < "1.2":
            reason = f"{oldest} is deprecated (RFC 8996), and weak with any cipher"
            yield f"{where}.minimum_version: {reason}; name 1.2 once no client needs it any more"
        for place, pair in enumerate(made.shown.pairs):
            certificate = f"{where}.certificates[{place}]"
            yield from (f"{certificate}.{key}: {what}" for key, what in pair.remarks)
            if now is not None and (late := expiry(pair, now)):
                yield f"{certificate}.cert_file: {late}"
    yield from _uncovered(config, contexts)
    yield from contexts.peer_remarks


def _uncovered(config: Config, contexts: Contexts) -> Iterator[str]:
    """Tell of routes that are for a name which no certificate is for, wherever they are served."""
    both = zip(config.listeners, contexts.listeners, strict=True)
    listeners = [(one.name, tls) for one, tls in both if tls is not None and one.mode == "http"]
    for index, route in enumerate(config.routes):
        if route.host is None or route.host.startswith("*."):
            continue
        there = [tls for name, tls in listeners if route.listener in (None, name)]
        if there and not any(tls.is_for(route.host) for tls in there):
            reason = f"no certificate is for {route.host!r}: clients refuse what they are shown"
            yield f"routes[{index}].host: {reason}; or it is a plain listener's: name that"


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


def _server_context(
    tls: ListenerTls, settings: Tls, mode: str, pairs: tuple[Pair, ...]
) -> ssl.SSLContext:
    """Make a context that shows some of a listener's certificates.

    Raises:
        Invalid: OpenSSL does not take what the settings say.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= _HALF_CLOSE
    # A client that renegotiates costs a handshake each time (TLS 1.2 only).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    agree_on(context, settings)
    hand_out_tickets(context, settings.tickets)
    if mode == "http":
        # deepstream's clients offer none; browsers must not think of HTTP/2.
        context.set_alpn_protocols(["http/1.1"])
    with _fault_of("certificates"):
        for pair in pairs:
            pair.load_into(context)
    with _fault_of("client_certificates"):
        ask_for_certificates(context, settings.client_certificates)
    with _fault_of("keylog_file"):
        write_keys(context, settings.keylog_file)
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
    context.minimum_version = VERSIONS[tls.minimum_version]
    context.maximum_version = VERSIONS[tls.maximum_version]
    if http:
        context.set_alpn_protocols(["http/1.1"])
    with _fault_of("ca_file"):
        _trust(context, tls)
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
    if tls.certificate is not None:
        pair = read_pair(tls.certificate)
        with _fault_of("cert_file"):
            pair.load_into(context)


@contextmanager
def _fault_of(key: str) -> Iterator[None]:
    """Have what goes wrong within be a fault of this key.

    Raises:
        Invalid: it has.
    """
    try:
        yield
    except Invalid as exc:
        faults = ((f"{key}.{inner}" if inner else key, why) for inner, why in exc.faults)
        raise Invalid(*faults) from exc
    except (ssl.SSLError, OSError) as exc:
        raise Invalid((key, _reason(exc))) from exc


def _reason(exc: ssl.SSLError | OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        reason: str | None = exc.reason  # typeshed leaves out that there may be none
        match reason:
            case "" | "NO_START_LINE" | None:
                return "not a PEM certificate and key"
            case _:
                return f"cannot be used: {reason.lower().replace('_', ' ')}"
    return exc.strerror or str(exc)
