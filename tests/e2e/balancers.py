"""HAProxy and nginx, as they are installed, each with the configuration that a test gives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .program import DEADLINE, Program, deadline, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_HAPROXY = """
global
  log stderr local0
defaults
  timeout connect 5s
  timeout client 10s
  timeout server 10s
{text}
"""
_NGINX = """
load_module {module};
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 64; }}
{text}
"""
#: What nginx would otherwise write where only root may.
_TEMPORARY = "\n".join(
    f"{kind}_temp_path {{folder}}/{kind};"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


@contextlib.asynccontextmanager
async def open_haproxy(text: str, *ports: int) -> AsyncIterator[Program]:
    """Run HAProxy; it listens on the ports that the text tells it."""
    with tempfile.TemporaryDirectory() as folder:
        path = trio.Path(folder, "haproxy.cfg")
        await path.write_text(_HAPROXY.format(text=text))
        async with _open("haproxy", ["haproxy", "-db", "-f", str(path)], ports) as program:
            yield program


@contextlib.asynccontextmanager
async def open_nginx(text: str, *ports: int) -> AsyncIterator[Program]:
    """Run nginx, with its module for streams; {temporary} belongs into an http block."""
    with tempfile.TemporaryDirectory() as folder:
        path = trio.Path(folder, "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        text = text.replace("{temporary}", _TEMPORARY.format(folder=folder))
        whole = _NGINX.format(module=NGINX_STREAM, user=user, folder=folder, text=text)
        await path.write_text(whole)
        command = ["nginx", "-e", "stderr", "-p", folder, "-c", str(path)]
        async with _open("nginx", command, ports) as program:
            yield program


@contextlib.asynccontextmanager
async def _open(name: str, command: Sequence[str], ports: Sequence[int]) -> AsyncIterator[Program]:
    # Debian has them where only root looks.
    found = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert found is not None
    async with open_program(name, [found, *command[1:]]) as program:
        with deadline(DEADLINE, f"{name} to listen"):
            while not all(map(_listens, ports)):
                assert program.alive, f"{name} has ended"
                await trio.sleep(0.02)
        yield program


def _listens(port: int) -> bool:
    """Whether anybody does; to connect would be seen behind it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A" and local.endswith(f":{port:04X}"):
                return True
    return False
