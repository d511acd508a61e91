"""CAs and revocation lists that change on disk come into use, without a reload.

A list is published every few days or hours, and refuses everybody once it is too old: nobody should
have to think of a signal.  New files make new contexts, as in a reload, so that tickets from before
are worth nothing; what cannot be used changes nothing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import trio

from proxy.config.model import Config
from proxy.errors import ConfigError
from proxy.io.certificates import Look, look_at_files
from proxy.io.contexts import make_contexts
from proxy.observe.log import LOG

from .service import Service

#: After which what could not be used is tried again, in seconds: another file may be to blame.
_AGAIN: Final = 10.0


class Revocation:
    """Looks after the files by which listeners judge their clients' certificates."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config
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
        config = self._service.config
        files = _files(config)
        look: Look = ()
        if files:
            look = await trio.to_thread.run_sync(look_at_files, files, abandon_on_cancel=True)
        if config is not self._config:
            # They may have changed since the reload read them; to read them twice changes nothing.
            self._config, self._used = config, ()
        settled, self._seen = look == self._seen, look
        if settled and look != self._used and trio.current_time() >= self._not_before:
            await self._read(config, look)

    async def _read(self, config: Config, look: Look) -> None:
        make = partial(make_contexts, config, before=self._service.contexts)
        try:
            contexts = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
        except ConfigError as exc:
            self._not_before = trio.current_time() + _AGAIN
            for problem in exc.problems:
                LOG.error("revocation lists not renewed", extra={"reason": problem})
            return
        if self._service.config is not config:
            return
        self._used = look
        pairs = zip(self._service.contexts.listeners, contexts.listeners, strict=True)
        for index, (old, new) in enumerate(pairs):
            if old is not None and new is not None and old.ingredients != new.ingredients:
                old.shown, old.make, old.ingredients = new.shown, new.make, new.ingredients
                listener = config.listeners[index]
                name = listener.name or str(listener.bind)
                LOG.info("revocation lists renewed", extra={"listener": name})


def _files(config: Config) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for listener in config.listeners:
        if listener.tls is not None:
            asked = listener.tls.over(config.tls).client_certificates
            found |= dict.fromkeys(asked.files if asked is not None else ())
    return tuple(found)
