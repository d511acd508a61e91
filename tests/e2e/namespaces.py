"""Machines of one's own: network namespaces with a wire between them, and the wire cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
#: No machine has this address, so what is sent to it is lost, and nobody is told.
_NOBODY = "02:00:00:00:00:ff"


def ip(*words: str) -> str:
    """Run one command of iproute2."""
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


@attrs.frozen
class Machine:
    """A network namespace, wired to the one that is called its hub."""

    name: str
    hub: str
    #: Its own address, and the hub's on this wire.
    address: str
    hub_address: str

    def socket(self) -> socket.socket:
        """Return a TCP socket of this machine's."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path("/run/netns", self.name).open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket())

        # It is the thread that goes there, and it ends there.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def cut(self) -> None:
        """Lose all that is sent over the wire from now on, either way, without a word."""
        for here, device, there in (
            (self.hub, self.name, self.address),
            (self.name, "hub", self.hub_address),
        ):
            ip("-n", here, "neigh", "replace", there, "lladdr", _NOBODY, "dev", device)


@contextlib.contextmanager
def open_machines(count: int) -> Iterator[list[Machine]]:
    """Make a hub and machines around it; all of it vanishes with the block."""
    tag = f"t{os.getpid() % 10**5}{secrets.token_hex(2)}"
    hub = f"{tag}h"
    names = [f"{tag}{n}" for n in range(count)]
    machines = []
    try:
        ip("netns", "add", hub)
        for n, name in enumerate(names):
            machine = Machine(name, hub, f"10.99.{n}.2", f"10.99.{n}.1")
            ip("netns", "add", name)
            ip("-n", hub, "link", "add", name, "type", "veth", "peer", "hub", "netns", name)
            for where, device, address in (
                (hub, name, machine.hub_address),
                (name, "hub", machine.address),
            ):
                ip("-n", where, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", where, "link", "set", device, "up")
            machines.append(machine)
        yield machines
    finally:
        for name in (hub, *names):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def possible() -> bool:
    """Whether this user may make such machines here."""
    try:
        with open_machines(1) as [machine]:
            machine.socket().close()
    except (OSError, subprocess.SubprocessError):
        return False
    return True
