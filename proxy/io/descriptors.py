"""Room for all sockets, made before they come.

A process has a table of its open files, which doubles whenever it is full.  If the process has a
second thread, as this one has while it asks for a name or looks at a file, Linux first waits until
no CPU can be using the old table any more (`synchronize_rcu` in the kernel's fs/file.c): 5 to 25 ms
in which `accept` does not return, and no session is served.  A table never shrinks, so it is made
large once, for 8 bytes a descriptor of the kernel's memory.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

if sys.platform == "linux":
    import fcntl
    import resource

#: For listeners, the log, and dials under way.
_SPARE: Final = 256


def needed(connections: int) -> int:
    """Return how many descriptors so many clients' connections take: each has one to a node."""
    return 2 * connections + _SPARE


def sufficing(descriptors: int) -> int:
    """Return for how many clients' connections so many descriptors suffice, at least 1."""
    return max(1, (descriptors - _SPARE) // 2)


def make_room(descriptors: int) -> None:
    """Have the table hold so many descriptors, or as many as the process may have."""
    if sys.platform == "linux":
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed != resource.RLIM_INFINITY:
            descriptors = min(descriptors, allowed)
        # Only a try: there may be no descriptor left, or no memory.
        with suppress(OSError), open(os.devnull, "rb") as file:
            os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, descriptors - 1))
