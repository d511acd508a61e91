"""The command: run, check, demo."""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import __version__
from .errors import ConfigError

if TYPE_CHECKING:
    from .config.model import Config
    from .serve.server import Server

#: What a shell reports of a process that a signal ended; a second one asks for just that.
_KILLED = 128

_config_file = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("tidegate.toml"),
    show_default=True,
    help="The configuration file.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tidegate")
def main() -> None:
    """Tidegate, a WebSocket-aware reverse proxy and load balancer for deepstream.io."""


@main.command()
@_config_file
def check(file: Path) -> None:
    """Check a configuration and say what it would bind; exit code 2 if it has faults."""
    config = _load(file)
    click.echo("ok")
    for listener in config.listeners:
        name = f" ({listener.name})" if listener.name else ""
        click.echo(f"would bind {listener.bind} {'TLS' if listener.tls else 'plain'}{name}")


@main.command()
@_config_file
def run(file: Path) -> None:
    """Run the proxy until SIGTERM or SIGINT, which drain it; a second one ends it at once."""
    import trio

    from .observe.log import configure

    config = _load(file)
    configure(config.log)
    sys.exit(trio.run(_run, config))


@main.command()
@click.option("--stay", is_flag=True, help="Keep running after the story, and print what to try.")
def demo(*, stay: bool) -> None:
    """Show the main job: a cluster behind one wss:// address, and a node that dies."""
    import trio

    from .testing.demo import tell

    sys.exit(trio.run(partial(tell, stay=stay)))


def _load(file: Path) -> Config:
    """Load a configuration and whatever it names, or print its faults and exit with code 2."""
    from .config.load import load_config
    from .io.tls import check_tls

    try:
        config = load_config(file)
        check_tls(config, str(file))
    except ConfigError as exc:
        click.echo(exc, err=True)
        sys.exit(2)
    return config


async def _run(config: Config) -> int:
    import trio

    from .observe.log import LOG
    from .serve.server import Server

    server = Server(_within_file_limit(config))
    code = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal code
                await anext(signals)
                server.shut_down()
                code = _KILLED + await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            try:
                await nursery.start(server.run)
            except OSError as exc:
                LOG.error("cannot start", extra={"reason": exc.strerror or str(exc)})
                nursery.cancel_scope.cancel()
                return 1
            _quiet_garbage_collector()
            _say_ready(server)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()
    return code


def _quiet_garbage_collector() -> None:
    """Have the cyclic garbage collector walk less, and less often.

    What is there now stays for good, so it need not be walked; and what comes is freed by its
    reference counts, but for the few cycles of Trio's and h11's that a connection leaves behind.
    With Python's thresholds a full collection walks all sessions every few hundred handshakes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _say_ready(server: Server) -> None:
    from .observe.log import LOG

    for bound in server.bound:
        extra = {"listener": bound.name, "address": str(bound.address), "tls": bound.tls}
        LOG.info("listening", extra=extra)
    LOG.info("ready", extra={"version": __version__, "pid": os.getpid()})


def _within_file_limit(config: Config) -> Config:
    """Raise this process's limit of open files as far as needed, or lower the connection limit."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not files
        return config

    import attrs

    from .observe.log import LOG

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A session has two descriptors; some are left for listeners, the log and dials under way.
    spare = 256
    wanted = config.limits.connections * 2 + spare
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return config
    allowed = max(1, (soft - spare) // 2)
    LOG.info("connection limit lowered", extra={"connections": allowed, "open_files": soft})
    return attrs.evolve(config, limits=attrs.evolve(config.limits, connections=allowed))
