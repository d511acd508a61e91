"""Tell the log what works, and is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.config.model import Config
from proxy.io.contexts import Contexts, remarks
from proxy.observe.log import LOG


def tell_remarks(config: Config, contexts: Contexts, told: Iterable[str] = ()) -> None:
    """Log it, except for what was told before."""
    known = set(told)
    for remark in remarks(config, contexts):
        if remark not in known:
            LOG.warning("configuration", extra={"reason": remark})
