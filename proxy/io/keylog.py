"""The keys of connections, in the format of NSS, written for whoever has to debug them.

Only what the configuration names gets them: the variable SSLKEYLOGFILE, which contexts of
`ssl.create_default_context` obey, means nothing here.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path


def write_keys(context: ssl.SSLContext, file: Path | None) -> None:
    """Have the keys of all connections of a context written to the end of a file, if one is given.

    Raises:
        OSError: it cannot be written, or others than its owner may read it.
    """
    if file is None:
        return
    # OpenSSL would make it readable for all.
    number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        status = os.fstat(number)
    finally:
        os.close(number)
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(f"others may read {file}: chmod 600, or name one that is not there yet")
    context.keylog_filename = str(file)


def warning(file: Path) -> str:
    """Return what to say of a configuration that has this."""
    return f"the keys of all connections are written to {file}: who reads it can read them all"
