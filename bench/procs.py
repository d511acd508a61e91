"""Child processes that never outlive the benchmark, and what the kernel knows about them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Cpu", "cpu_of", "pss_of", "running", "tree"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@attrs.frozen
class Cpu:
    """CPU seconds."""

    user: float
    system: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)

    @property
    def total(self) -> float:
        return self.user + self.system


def _prepare(cpus: Iterable[int] | None) -> Callable[[], None]:
    mask = None if cpus is None else set(cpus)

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if mask:
            os.sched_setaffinity(0, mask)

    return prepare


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    cpus: Iterable[int] | None = None,
    stdout: IO[Any] | int = subprocess.DEVNULL,
    stderr: IO[Any] | int | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a command, on these CPUs, for as long as the block lasts.

    It gets a process group of its own: Ctrl-C is for us, and what it started ends with it.  But no
    session: Linux may share the CPU among sessions first (autogroups), and a priority counts within
    one only, so that a flood of the lowest would get as much as the generator it should yield to.
    """
    process = subprocess.Popen(
        [str(part) for part in argv],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        text=True,
        process_group=0,
        preexec_fn=_prepare(cpus),
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    if process.stdout:
        process.stdout.close()


def _stat(pid: int) -> list[str]:
    # The command's name, in parentheses, may itself hold blanks and parentheses.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return this process and all its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children[int(_stat(int(entry))[1])].append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children[pid])
    return found


def cpu_of(pids: Iterable[int]) -> Cpu:
    """Return what these processes have used so far, their ended threads included."""
    user = system = 0
    for pid in pids:
        fields = _stat(pid)
        user += int(fields[11])
        system += int(fields[12])
    return Cpu(user / _TICKS, system / _TICKS)


def pss_of(pids: Iterable[int]) -> int:
    """Return the bytes that these processes keep resident, shared pages in proportion."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
