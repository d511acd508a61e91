"""Run Autobahn's cases with and without the proxy, side by side, each before a node of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.e2e.harness import open_proxy
from tests.e2e.program import open_program

from .compare import Comparison, Outcome, Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ROOT = Path(__file__).parent.parent.parent

#: A prefix takes the path that the fuzzing client asks for, whatever it is.
CONFIG = """
[log]
format = "json"

[[listeners]]
name = "public"
bind = "127.0.0.1:0"

[[routes]]
prefix = "/"
websocket = true
upstream = "echo"
frames = "{frames}"
{more}

[upstreams.echo]
nodes = ["{node}"]
"""

_BOUNDLESS = """
limits = { message_bytes = 0, fragments = 0 }
ping = { client = 0, node = 0 }
"""


def config_for(node: str, frames: str) -> str:
    """The configuration of a proxy that has these rules for frames, no limits and no pings."""
    # Some cases send a message of 16 MiB, or one of 65,536 fragments; and all of them count the
    # frames they get, a ping too.  A tunnel has none of that.
    more = "" if frames == "tunnel" else _BOUNDLESS
    return CONFIG.format(node=node, frames=frames, more=more)


@contextlib.asynccontextmanager
async def open_echo(name: str) -> AsyncIterator[str]:
    """Run an echo server and yield its address."""
    command = [sys.executable, "-m", "tests.autobahn.echo"]
    async with open_program(name, command, cwd=str(ROOT)) as program:
        await program.until_ready()
        yield program.named("ready")[0]["address"]


async def fuzz(
    address: str, cases: Sequence[str], reports: Path, *, parallel: int, within: float
) -> Run:
    """Run the cases against a server; Autobahn's reports are then in a folder."""
    # Those of an earlier run would pass for this one's.
    shutil.rmtree(reports, ignore_errors=True)
    # It is a command of this environment; its Python interface is asyncio's.
    kosoku = Path(sys.executable).with_name("kosoku")
    options = [f"--include={case}" for case in cases]
    options += [f"--outdir={reports}", f"--parallelism={parallel}"]
    started = trio.current_time()
    async with open_program("kosoku", [str(kosoku), *options, f"ws://{address}"]) as program:
        exit_code = await program.ended(within=within)
        # 1 is for cases that failed as well as for a failure of its own, which has no reports.
        assert exit_code in (0, 1), f"kosoku ended with {exit_code}"
    return Run(read_outcomes(reports), trio.current_time() - started)


def read_outcomes(reports: Path) -> dict[str, Outcome]:
    """Return the verdict on each case, by its number, in the order of the cases."""
    index = json.loads((reports / "index.json").read_text())
    # By what servers call themselves, which is nothing where there was no handshake.
    outcomes = {
        case: Outcome(verdict["behavior"], verdict["behaviorClose"])
        for verdicts in index.values()
        for case, verdict in verdicts.items()
    }
    return {case: outcomes[case] for case in sorted(outcomes, key=_numbers)}


def _numbers(case: str) -> list[int]:
    return [int(number) for number in case.split(".")]


async def run_both(
    folder: Path, cases: Sequence[str], *, parallel: int, within: float, frames: str = "strict"
) -> Comparison:
    """Run the cases, given as patterns like `9.*`, both ways at once."""
    runs: dict[str, Run] = {}

    async def run(name: str, address: str) -> None:
        reports = folder / name
        runs[name] = await fuzz(address, cases, reports, parallel=parallel, within=within)

    async with (
        open_echo("echo without the proxy") as alone,
        open_echo("echo behind the proxy") as node,
        open_proxy(config_for(node, frames)) as proxy,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "direct", alone)
            nursery.start_soon(run, "proxied", proxy.address())
        sessions = await proxy.until_records(len(runs["proxied"].outcomes), status=101)
    return Comparison(runs["direct"], runs["proxied"], len(sessions))
