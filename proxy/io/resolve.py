"""Ask which addresses a node's name stands for, and for how long.

dnspython asks, over UDP, and over TCP what does not fit there.  It is imported when the first name
is resolved: nobody pays for it whose nodes are addresses.

An answer is whole or an error.  If A is answered and AAAA is not, taking the half would take nodes
away that are there; only what a server says is missing is missing.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from proxy.config.address import Address
from proxy.config.upstream import Discovery
from proxy.errors import DnsError

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

#: What the system's resolver reads too.
_SYSTEM = "/etc/resolv.conf"
#: How much of the time is for DNS when the system may be asked after it.
_DNS_SHARE = 0.8
#: One try of one server: a dead server that comes first, and a lost packet, leave time for others,
#: for a target of SRV as well.
_TRY_SHARE = 0.2
#: Questions in flight; an SRV may have hundreds of targets.
_AT_ONCE = 20


@attrs.frozen
class Answer:
    """The addresses behind a name, none if the service is said to be unavailable."""

    addresses: tuple[Address, ...]
    #: In how many seconds to ask again.
    lifetime: float


async def resolve(name: Address, config: Discovery, random: Random) -> Answer:
    """Return the addresses behind a host or an SRV name, in an order drawn from `random`.

    An SRV's weights are ignored: how much each node gets is up to the upstream's policy.

    Raises:
        DnsError: no answer within the configured time, or one without addresses; it says why.
    """
    with _dns_errors(str(name)), trio.fail_after(config.timeout):
        found = await (_resolve_service if name.srv else _resolve_host)(name, config)
    # Servers rotate what they answer: sorted, the order is `random`'s alone.
    addresses = sorted(set(found.addresses), key=str)
    random.shuffle(addresses)
    lifetime = min(max(found.lifetime, config.shortest), config.longest)
    return Answer(tuple(addresses), lifetime)


async def _resolve_host(name: Address, config: Discovery) -> Answer:
    """Ask DNS, and for what it does not know the system, unless name servers were chosen.

    RFC 6761 section 6.3: localhost is not a name to ask DNS for.
    """
    from dns.exception import DNSException

    ports = {name.host: (name.port,)}
    if config.nameservers:
        return await _ask_hosts(_resolver(config), ports)
    if name.host.lower().rstrip(".") == "localhost" and (found := await _ask_system(name, config)):
        return found
    try:
        return await _ask_hosts(_resolver(config, _DNS_SHARE), ports)
    except DNSException as exc:
        if _is_ignorance(exc) and (found := await _ask_system(name, config)):
            return found
        raise


async def _resolve_service(name: Address, config: Discovery) -> Answer:
    """Take the lowest priority that has an address; "." for a target says that there is none.

    The additional section is not used: it does not say whether it is complete.
    """
    from dns.resolver import NXDOMAIN, NoAnswer

    resolver = _resolver(config)
    answer = await _ask(resolver, name.srv, "SRV")
    lifetime = float(answer.chaining_result.minimum_ttl)
    priorities: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in answer:
        if (host := record.target.to_text()) != ".":
            priorities[record.priority][host].add(record.port)
    missing: dns.exception.DNSException | None = None
    for _, ports in sorted(priorities.items()):
        try:
            found = await _ask_hosts(resolver, ports)
        except (NXDOMAIN, NoAnswer) as exc:
            missing = exc
        else:
            return Answer(found.addresses, min(lifetime, found.lifetime))
    if missing:
        raise missing
    return Answer((), lifetime)


async def _ask_hosts(
    resolver: dns.asyncresolver.Resolver, ports: Mapping[str, Collection[int]]
) -> Answer:
    """Ask for A and AAAA of all hosts at once; hosts without any are passed over if others have."""
    from dns.exception import DNSException
    from dns.resolver import NXDOMAIN, NoAnswer

    found: list[tuple[str, dns.resolver.Answer]] = []
    missing: list[DNSException] = []
    failed: list[DNSException] = []
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def ask(host: str, kind: str) -> None:
        try:
            async with limiter:
                found.append((host, await _ask(resolver, host, kind)))
        except (NXDOMAIN, NoAnswer) as exc:
            missing.append(exc)
        except DNSException as exc:
            failed.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for host in ports:
            nursery.start_soon(ask, host, "A")
            nursery.start_soon(ask, host, "AAAA")
    if failed or not found:
        raise (failed or missing)[0]
    addresses = {
        Address(host=record.address, port=port)
        for host, answer in found
        for record in answer
        for port in ports[host]
    }
    lifetime = min(answer.chaining_result.minimum_ttl for _, answer in found)
    return Answer(tuple(addresses), lifetime)


async def _ask(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> dns.resolver.Answer:
    from dns.asyncbackend import get_backend

    return await resolver.resolve(name, kind, backend=get_backend("trio"))


async def _ask_system(name: Address, config: Discovery) -> Answer | None:
    """Return what /etc/hosts and its like know, None for nothing.

    That has no time to live.  It changes when somebody edits it, so the longest will do.
    """
    try:
        found = await trio.socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return None
    addresses = tuple(Address(host=str(sockaddr[0]), port=name.port) for *_, sockaddr in found)
    return Answer(addresses, config.longest)


def _resolver(config: Discovery, share: float = 1.0) -> dns.asyncresolver.Resolver:
    """Make a resolver; the system's file is read each time, as it may have changed.

    Like the system's own it tries the file's search list; a chosen server gets names as they are.
    """
    from dns.asyncresolver import Resolver
    from dns.nameserver import Do53Nameserver
    from dns.resolver import NoResolverConfiguration

    if config.nameservers:
        resolver = Resolver(configure=False)
        resolver.nameservers = [Do53Nameserver(at.host, at.port) for at in config.nameservers]
    else:
        try:
            resolver = Resolver(_SYSTEM)
        except ValueError as exc:  # a name server that is no address
            raise NoResolverConfiguration from exc
        resolver.use_search_by_default = True
    resolver.lifetime = config.timeout * share
    resolver.timeout = min(resolver.timeout, config.timeout * _TRY_SHARE)
    return resolver


def _is_ignorance(exc: dns.exception.DNSException) -> bool:
    """Whether a failure says no more than that DNS does not know: another may."""
    from dns import resolver
    from dns.exception import Timeout

    if isinstance(exc, resolver.NoNameservers):
        return all(isinstance(error[3], OSError) for error in exc.kwargs["errors"])
    return isinstance(
        exc, (resolver.NXDOMAIN, resolver.NoAnswer, resolver.NoResolverConfiguration, Timeout)
    )


@contextmanager
def _dns_errors(node: str) -> Iterator[None]:
    from dns.exception import DNSException

    try:
        yield
    except (DNSException, trio.TooSlowError) as exc:
        raise DnsError(node, f"The node's name cannot be resolved: {_reason(exc)}.") from exc


def _reason(exc: Exception) -> str:
    from dns import resolver
    from dns.exception import Timeout

    match exc:
        case resolver.NXDOMAIN():
            return "there is no such name"
        case resolver.NoAnswer():
            return "it has no addresses"
        case Timeout() | trio.TooSlowError():
            return "no name server answered in time"
        case resolver.NoResolverConfiguration():
            return "no name server is configured"
        case resolver.NoNameservers(kwargs={"errors": [*_, (_, _, _, OSError() as cause, _)]}):
            return f"no name server can be reached, {cause.strerror}"
        case resolver.NoNameservers(kwargs={"errors": [*_, (_, _, _, cause, _)]}):
            return f"the name servers failed, {cause}".rstrip(".")
    return str(exc).rstrip(".")
