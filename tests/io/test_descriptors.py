"""Room for sockets: the table itself is looked at, as the kernel tells of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress

import pytest

from proxy.io.descriptors import make_room, needed, sufficing

#: The table of this process may have grown already: it is looked at in one of its own.
_PROGRAM = """
import os
import resource
from pathlib import Path
from proxy.io.descriptors import make_room

def table():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("FDSize:"))

resource.setrlimit(resource.RLIMIT_NOFILE, (900, 900))
before, files = table(), os.listdir("/proc/self/fd")
make_room({wanted})
assert os.listdir("/proc/self/fd") == files
print(before, table())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how large its table is")
@pytest.mark.parametrize(("wanted", "large"), [(600, 1024), (100_000, 1024), (5, 0)])
def test_the_table_is_large_enough_at_once(wanted: int, large: int) -> None:
    program = _PROGRAM.format(wanted=wanted)
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    before, after = map(int, output.split())
    assert before < 600
    assert after == (large or before)


def test_that_there_is_no_descriptor_left_is_no_fault() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        assert opened
        make_room(1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)


@pytest.mark.parametrize("connections", [1, 64, 10_000])
def test_what_is_needed_suffices(connections: int) -> None:
    assert sufficing(needed(connections)) == connections
    assert sufficing(needed(connections) - 1) == max(1, connections - 1)


def test_one_connection_is_always_tried() -> None:
    assert sufficing(20) == 1
