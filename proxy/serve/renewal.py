"""Certificates that change on disk come into use, without a reload.

Once in a while it is looked whether the files are still the same, behind all symbolic links: so it
does not matter who replaces them, how, and on what file system.  That costs less than having the
kernel tell: one turn of a thread a second, with a call for each file.

Certificate and key are written one after the other, and each takes a moment: what changed is read
once it has stayed the same from one look to the next, and what cannot be used is complained of only
when it had some time to become whole.  What is in use stays until then, and after.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from proxy.config.checks import Invalid
from proxy.config.model import Config
from proxy.config.tls import Certificate
from proxy.io.certificates import Look, Pair, day, expiry, look_at, read_pair
from proxy.io.contexts import Contexts, remarks
from proxy.io.server_tls import ServerTls, Shown
from proxy.observe.live import CertificateStatistics
from proxy.observe.log import LOG

from .service import Service

#: How long a pair that cannot be used may be a renewal under way, in seconds.
PATIENCE: Final = 10.0
#: After this it is tried again, in seconds, for something else may have been to blame; once before
#: anybody is told.
AGAIN: Final = 5.0
#: How often it is said that a certificate is about to expire.
_DAY: Final = 86_400.0


@attrs.define
class _Change:
    """What a certificate's files have become, and are not in use as."""

    look: Look
    since: float
    #: They were the same twice.
    settled: bool = False
    #: Why they are not in use, if they were read, and when that is to be tried again.
    reason: str = ""
    again: float = 0.0
    told: bool = False


@attrs.frozen
class _Found:
    """What it has brought to read certificates of a listener again."""

    #: What is to be shown now; None: what is shown is to stay.
    shown: Shown | None
    #: By the places of those that cannot be used.
    faults: dict[int, str]


class Renewal:
    """Looks after the certificates of all listeners."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changes: dict[Certificate, _Change] = {}
        self._next_warning = 0.0

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            now = trio.current_time()
            if now >= self._next_warning:
                self._next_warning = now + _DAY
                for name, tls in self._listeners():
                    for certificate, pair in zip(tls.certificates, tls.shown.pairs, strict=True):
                        _warn(name, certificate, pair, time.time())
            await trio.sleep(self._service.config.tls.renewal_interval)
            await self.look()

    async def look(self) -> None:
        """Take up what has changed since the look before, and was not changing at this one."""
        certificates = {one for _, tls in self._listeners() for one in tls.certificates}
        if not certificates:
            return
        # In threads: disks may be slow, and making contexts takes milliseconds.
        looks = await trio.to_thread.run_sync(_look_at, certificates, abandon_on_cancel=True)
        ready = self._settled(looks)
        listeners = self._listeners()
        others = [tls for _, tls in listeners]
        for name, tls in listeners:
            places = [place for place, one in enumerate(tls.certificates) if one in ready]
            if places:
                read = partial(_read, tls, places, others)
                make = tls.make
                found = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
                # Else there is a new revocation list meanwhile, and some of this was made with the
                # old one: the next look does it again.
                if tls.make is make:
                    self._take(name, tls, found)

    def _listeners(self) -> list[tuple[str, ServerTls]]:
        both = zip(self._service.config.listeners, self._service.contexts.listeners, strict=True)
        return [(config.name or str(config.bind), tls) for config, tls in both if tls is not None]

    def _settled(self, looks: dict[Certificate, Look]) -> set[Certificate]:
        """Return what has to be read: it has changed, and was the same at the look before.

        What was read in vain comes along: two may fit together that do not fit one by one.
        """
        used: dict[Certificate, set[Look]] = {}
        for _, tls in self._listeners():
            for one, pair in zip(tls.certificates, tls.shown.pairs, strict=True):
                used.setdefault(one, set()).add(pair.look)
        known, self._changes = self._changes, {}
        for one in looks.keys() & used.keys():
            if used[one] != {looks[one]}:
                self._changes[one] = self._follow(one, known.get(one), looks[one])
        settled = {one: change for one, change in self._changes.items() if change.settled}
        now = trio.current_time()
        if any(not change.reason or now >= change.again for change in settled.values()):
            return set(settled)
        return set()

    def _follow(self, certificate: Certificate, change: _Change | None, look: Look) -> _Change:
        """Return what is known now of files that are not what is in use."""
        now = trio.current_time()
        if change is None or change.look != look:
            since = now if change is None or change.told else change.since
            return _Change(look, since)
        change.settled = True
        if change.reason and not change.told and now >= change.since + PATIENCE:
            change.told = True
            extra = {"file": str(certificate.cert_file), "reason": change.reason}
            LOG.error("certificate not renewed", extra=extra)
        return change

    def _take(self, name: str, tls: ServerTls, found: _Found) -> None:
        """Have a listener show what was read, and remember what could not be used."""
        before = tls.shown.pairs
        if found.shown is not None:
            tls.shown = found.shown
        for place, certificate in enumerate(tls.certificates):
            if place in found.faults and certificate in self._changes:
                change = self._changes[certificate]
                change.reason = found.faults[place]
                change.again = trio.current_time() + AGAIN
            if (pair := tls.shown.pairs[place]) != before[place]:
                LOG.info("certificate renewed", extra=_facts(name, certificate, pair))
                _warn(name, certificate, pair, time.time())

    def statistics(self) -> tuple[CertificateStatistics, ...]:
        """Return what is in use, in the order of the configuration."""
        return tuple(
            CertificateStatistics(
                listener=name,
                names=pair.names,
                file=str(certificate.cert_file),
                not_after=pair.not_after,
            )
            for name, tls in self._listeners()
            for certificate, pair in zip(tls.certificates, tls.shown.pairs, strict=True)
        )


def _look_at(certificates: Iterable[Certificate]) -> dict[Certificate, Look]:
    return {one: look_at(one) for one in certificates}


def _read(tls: ServerTls, places: Sequence[int], others: Iterable[ServerTls]) -> _Found:
    """Read some certificates of a listener again, and make ready what is to be shown then."""
    pairs = list(tls.shown.pairs)
    faults: dict[int, str] = {}
    for place in places:
        try:
            pairs[place] = read_pair(tls.certificates[place])
        except Invalid as exc:
            faults[place] = str(exc)
    if len(faults) == len(places):
        return _Found(None, faults)
    try:
        return _Found(tls.renewed(pairs, others), faults)
    except (Invalid, ssl.SSLError, OSError) as exc:
        return _Found(None, {place: faults.get(place, str(exc)) for place in places})


def _warn(listener: str, certificate: Certificate, pair: Pair, now: float) -> None:
    if reason := expiry(pair, now):
        facts = _facts(listener, certificate, pair)
        level = logging.ERROR if now >= pair.not_after else logging.WARNING
        LOG.log(level, "certificate expires", extra=facts | {"reason": reason})


def _facts(listener: str, certificate: Certificate, pair: Pair) -> dict[str, str]:
    return {
        "listener": listener,
        "file": str(certificate.cert_file),
        "names": ", ".join(pair.names),
        "not_after": day(pair.not_after),
    }


def tell_remarks(config: Config, contexts: Contexts, told: Iterable[str] = ()) -> None:
    """Log what works, and is not as it should be; the time of certificates is watched apart."""
    known = set(told)
    for remark in remarks(config, contexts):
        if remark not in known:
            LOG.warning("configuration", extra={"reason": remark})
