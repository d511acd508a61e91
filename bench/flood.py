"""A flood of TLS handshakes, beside which sessions are to be served as if there were none."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING

from .procs import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .measure import Bench

__all__ = ["Flood", "flooding"]


class Flood:
    """Clients that shake hands with a port, hang up, and come again, all in one process."""

    def __init__(self, clients: subprocess.Popen[str]) -> None:
        self._clients = clients

    def rate(self) -> float:
        """Wait for its end, and return the handshakes per second.

        Raises:
            RuntimeError: one of them failed.
        """
        output, _ = self._clients.communicate(timeout=120)
        if self._clients.returncode:
            raise RuntimeError("a handshake of the flood failed")
        result = json.loads(output.splitlines()[-1])
        handshakes: float = result["messages"] / result["seconds"]
        return handshakes


@contextlib.contextmanager
def flooding(bench: Bench, port: int, clients: int, seconds: float) -> Iterator[Flood]:
    """Flood a port with so many clients for so many seconds, or until the block ends.

    They get what the generator and the node leave of their CPUs (SCHED_IDLE): how the proxy shares
    its own is measured, not how the load's are shared.
    """
    times = ["--warmup", "0", "--seconds", str(seconds), "--sessions", str(clients)]
    command = ["chrt", "--idle", "0", str(bench.load), "drive", "shake", "--port", str(port)]
    with running([*command, *times], cpus=bench.load_cpus, stdout=subprocess.PIPE) as process:
        yield Flood(process)
