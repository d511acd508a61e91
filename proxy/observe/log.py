"""Logging: the standard library's loggers inside, structlog's rendering for the process.

The library only ever logs an event's name, with its facts as `extra`, to the logger `tidegate`: a
program that embeds it sees them as it sees all its logs.  The command calls `configure`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.config.model import Log

    from .record import Record

#: Life of the process: what it binds, why it ends, what went wrong.
LOG: Final = logging.getLogger("tidegate")
#: One event per record; its own logger, so that it can be silenced or sent elsewhere.
ACCESS: Final = logging.getLogger("tidegate.access")


def access(record: Record) -> None:
    """Log a record as the event `exchange`."""
    if ACCESS.isEnabledFor(logging.INFO):
        ACCESS.info("exchange", extra=record.fields())


def configure(config: Log) -> None:
    """Write this process's log to standard error, as the configuration says."""
    # Here, since only the command needs structlog.
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    order = ["timestamp", "level", "event"]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if config.format == "json"
        else structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(config.level.upper())
    ACCESS.setLevel(logging.INFO if config.access else logging.CRITICAL)
