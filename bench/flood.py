"""What a flood of TLS handshakes does to sessions: their p99 beside it, and without it.

The clients are OpenSSL's own (`openssl s_time`): each makes one full handshake after the other, and
nothing else.  They get what the generator and the node leave of their CPUs (SCHED_IDLE): what is
measured is how the proxy shares its CPU, not how the load's is shared.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from .procs import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .measure import Bench

__all__ = ["Flood", "flooding"]

_COUNT = re.compile(r"(\d+) connections in (\d+) real seconds")


class Flood:
    """So many clients that shake hands with a port, for a number of seconds."""

    def __init__(self, clients: list[subprocess.Popen[str]], seconds: int) -> None:
        self._clients = clients
        self._seconds = seconds

    def rate(self) -> float:
        """Wait for its end, and return the handshakes per second."""
        found = 0
        for client in self._clients:
            output, _ = client.communicate(timeout=self._seconds + 30)
            counts = _COUNT.search(output)
            if counts is None:
                raise RuntimeError(f"a handshake failed: {output[-300:]}")
            found += int(counts[1])
        return found / self._seconds


@contextlib.contextmanager
def flooding(bench: Bench, port: int, clients: int, seconds: int) -> Iterator[Flood]:
    """Flood a port for so many seconds, or until the block ends."""
    if shutil.which("openssl") is None:
        raise SystemExit("bench: the flood needs openssl: apt-get install openssl")
    command = ["chrt", "--idle", "0", "openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new"]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                running(
                    [*command, "-time", str(seconds)],
                    cpus=bench.load_cpus,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
            for _ in range(clients)
        ]
        yield Flood(started, seconds)
