"""Ask which addresses a node's name stands for, and for how long.

dnspython asks, over UDP, and over TCP what does not fit there.  It is imported with the first name:
nobody pays for it whose nodes are addresses.

An answer is whole or an error: half of it, A without AAAA, would take nodes away that are there.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from proxy.config.address import Address
from proxy.config.upstream import Discovery
from proxy.errors import DnsError

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver


@attrs.frozen
class Answer:
    """The addresses behind a name; none if it says that the service is not available."""

    addresses: tuple[Address, ...]
    #: In how many seconds to ask again.
    lifetime: float


class _Failure(Exception):
    """There is no answer; the text ends a sentence that says why."""


class _Unknown(_Failure):
    """DNS doesn't know; the system may."""


class _Missing(_Unknown):
    """A name server says that there is none."""


async def resolve(name: Address, config: Discovery, random: Random) -> Answer:
    """Return the addresses behind a host or an SRV name, in an order drawn from `random`.

    Of an SRV's priorities the first alone counts, weights do not: the upstream's policy decides.

    Raises:
        DnsError: no answer within the configured time, or one without addresses.
    """
    try:
        with trio.fail_after(config.timeout):
            found = await (_resolve_service if name.srv else _resolve_host)(name, config)
    except (_Failure, trio.TooSlowError) as exc:
        reason = exc if isinstance(exc, _Failure) else "no answer came in time"
        raise DnsError(str(name), f"The node's name cannot be resolved: {reason}.") from exc
    # Servers rotate what they answer: sorted first, the order is `random`'s alone.
    addresses = sorted(set(found.addresses), key=str)
    random.shuffle(addresses)
    return Answer(tuple(addresses), min(max(found.lifetime, config.shortest), config.longest))


async def _resolve_host(name: Address, config: Discovery) -> Answer:
    """Ask DNS and, in the last fifth of the time, the system, unless name servers were chosen.

    DNS isn't asked for localhost, which is none of its business (RFC 6761 section 6.3).
    """
    targets = {(name.host, name.port)}
    if config.nameservers:
        return await _ask_hosts(_resolver(config), targets)
    try:
        if name.host.lower().rstrip(".") == "localhost":
            raise _Unknown("this machine has no localhost")
        with trio.fail_after(0.8 * config.timeout):
            return await _ask_hosts(_resolver(config), targets)
    except (_Unknown, trio.TooSlowError):
        if found := await _ask_system(name, config):
            return found
        raise


async def _resolve_service(name: Address, config: Discovery) -> Answer:
    """Ask for an SRV and for its targets; "." for a target says that there is none (RFC 2782).

    The additional section isn't used: it doesn't say whether it is complete.
    """
    resolver = _resolver(config)
    answer = await _ask(resolver, name.srv, "SRV")
    lifetime = float(answer.chaining_result.minimum_ttl)
    records = [record for record in answer if record.target.to_text() != "."]
    if not records:
        return Answer((), lifetime)
    first = min(record.priority for record in records)
    targets = {(str(record.target), record.port) for record in records if record.priority == first}
    found = await _ask_hosts(resolver, targets)
    return Answer(found.addresses, min(lifetime, found.lifetime))


async def _ask_system(name: Address, config: Discovery) -> Answer | None:
    """Return what /etc/hosts and its like know, None for nothing.

    That has no time to live.  It changes when somebody edits a file, so the longest will do.
    """
    try:
        found = await trio.socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return None
    return Answer(tuple(Address(str(at[0]), name.port) for *_, at in found), config.longest)


async def _ask_hosts(resolver: dns.asyncresolver.Resolver, targets: set[tuple[str, int]]) -> Answer:
    """Ask for A and AAAA of all hosts at once; a host may lack both if another has one."""
    found: list[tuple[int, dns.resolver.Answer]] = []
    missing: list[_Failure] = []
    failed: list[_Failure] = []

    async def ask(host: str, port: int, kind: str) -> None:
        try:
            found.append((port, await _ask(resolver, host, kind)))
        except _Missing as exc:
            missing.append(exc)
        except _Failure as exc:
            failed.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for host, port in targets:
            nursery.start_soon(ask, host, port, "A")
            nursery.start_soon(ask, host, port, "AAAA")
    if failed or not found:
        raise (failed or missing)[0]
    addresses = [Address(rdata.address, port) for port, answer in found for rdata in answer]
    return Answer(tuple(addresses), min(a.chaining_result.minimum_ttl for _, a in found))


async def _ask(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> dns.resolver.Answer:
    from dns.asyncbackend import get_backend
    from dns.exception import DNSException, Timeout
    from dns.resolver import NXDOMAIN, NoAnswer, NoNameservers

    try:
        return await resolver.resolve(name, kind, backend=get_backend("trio"))
    except NXDOMAIN as exc:
        raise _Missing("there is no such name") from exc
    except NoAnswer as exc:
        raise _Missing("it has no addresses") from exc
    except Timeout as exc:
        raise _Unknown("no answer came in time") from exc
    except NoNameservers as exc:
        causes = [error[3] for error in exc.kwargs["errors"]]
        if all(isinstance(cause, OSError) for cause in causes):
            raise _Unknown("no name server can be reached") from exc
        raise _Failure(f"the name servers failed, {causes[-1]}") from exc
    except DNSException as exc:
        raise _Failure(str(exc).rstrip(".")) from exc


def _resolver(config: Discovery) -> dns.asyncresolver.Resolver:
    """Make a resolver; the system's settings, with their search list, are read each time."""
    from dns.asyncresolver import Resolver
    from dns.exception import DNSException
    from dns.nameserver import Do53Nameserver

    resolver = Resolver(configure=False)
    if config.nameservers:
        resolver.nameservers = [Do53Nameserver(at.host, at.port) for at in config.nameservers]
    else:
        with suppress(DNSException, ValueError):  # none, or one that is no address
            resolver.read_resolv_conf("/etc/resolv.conf")
        resolver.use_search_by_default = True
    resolver.lifetime = config.timeout
    # One try of one server: after a dead one there is time for others, twice for an SRV.
    resolver.timeout = min(resolver.timeout, config.timeout / 5)
    return resolver
