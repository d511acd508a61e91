"""CAs and revocation lists that change on disk come into use, without a reload.

A list is published every few days or hours, and refuses everybody once it is too old: nobody should
have to think of a signal.  New files make new contexts, as in a reload, so that tickets from before
are worth nothing; what cannot be used changes nothing.  Nothing else is read: a certificate or a
node's CA that is broken must not keep those in who were revoked.
"""

from __future__ import annotations

from functools import partial
from operator import is_not
from pathlib import Path
from typing import Final

import trio

from proxy.config.model import Config
from proxy.errors import ConfigError
from proxy.io.certificates import Look, look_at_files
from proxy.io.contexts import Contexts, judge_anew
from proxy.io.server_tls import Shown
from proxy.observe.log import LOG

from .service import Service

#: After which what could not be used is tried again, in seconds: another file may be to blame.
_AGAIN: Final = 10.0


class Revocation:
    """Looks after the files by which listeners judge their clients' certificates."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: What there was then; a reload has made others, of files that it read before.
        self._contexts: Contexts | None = None
        #: How the files were when they were read here, and at the look before this one.
        self._used: Look = ()
        self._seen: Look = ()
        self._not_before = 0.0

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            await trio.sleep(self._service.config.tls.renewal_interval)
            await self.look()

    async def look(self) -> None:
        """Take up what has changed since the look before, and was not changing at this one."""
        config, contexts = self._service.config, self._service.contexts
        files = _files(config)
        look: Look = ()
        if files:
            look = await trio.to_thread.run_sync(look_at_files, files, abandon_on_cancel=True)
        if contexts is not self._contexts:
            # They may have changed since the reload read them; to read them twice changes nothing.
            self._contexts, self._used = contexts, ()
        settled, self._seen = look == self._seen, look
        if settled and look != self._used and trio.current_time() >= self._not_before:
            await self._read(config, contexts, look)

    async def _read(self, config: Config, contexts: Contexts, look: Look) -> None:
        shown = _shown(contexts)
        make = partial(judge_anew, config, "config", contexts)
        try:
            made = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
        except ConfigError as exc:
            self._not_before = trio.current_time() + _AGAIN
            for problem in exc.problems:
                LOG.error("revocation lists not renewed", extra={"reason": problem})
            return
        renewed = any(map(is_not, shown, _shown(contexts)))
        if renewed or self._service.contexts is not contexts:
            # A reload, or a certificate that was renewed meanwhile: the next look does it again.
            return
        self._used = look
        for listener, old, new in zip(config.listeners, contexts.listeners, made, strict=True):
            if old is not None and new is not None and old.ingredients != new.ingredients:
                old.shown, old.make, old.ingredients = new.shown, new.make, new.ingredients
                name = listener.name or str(listener.bind)
                LOG.info("revocation lists renewed", extra={"listener": name})


def _shown(contexts: Contexts) -> list[Shown | None]:
    return [tls.shown if tls is not None else None for tls in contexts.listeners]


def _files(config: Config) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for listener in config.listeners:
        if listener.tls is not None:
            asked = listener.tls.over(config.tls).client_certificates
            found |= dict.fromkeys(asked.files if asked is not None else ())
    return tuple(found)
