"""The command: run, check, explain, demo."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from . import __version__
from .errors import ConfigError, TidegateError

if TYPE_CHECKING:
    import trio

    from .config.model import Config
    from .io.contexts import Contexts
    from .serve.listeners import Bound
    from .serve.server import Server

#: What ends it, and, where there is such a signal, what has it read its configuration again.
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
_SIGNALS: Final = (*_ENDS, signal.SIGHUP) if hasattr(signal, "SIGHUP") else _ENDS
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
    from .io.contexts import remarks
    from .serve.explanation import label
    from .serve.routes import Routes

    config, contexts = _load(file)
    click.echo("ok")
    for listener in config.listeners:
        name = f" ({listener.name})" if listener.name else ""
        mode = ", bytes unseen" if listener.mode == "tcp" else ""
        click.echo(f"would bind {listener.bind} {'TLS' if listener.tls else 'plain'}{mode}{name}")
    for remark in remarks(config, contexts, time.time()):
        click.echo(f"warning: {remark}", err=True)
    names = [listener.name for listener in config.listeners]
    for route, by in Routes(config.routes).shadowed(names):
        hidden, first = (label(config, one) for one in (route, by))
        click.echo(f"warning: {hidden} never gets a request: {first} takes them all", err=True)


@main.command()
@_config_file
def run(file: Path) -> None:
    """Run the proxy until SIGTERM or SIGINT, which drain it; a second one ends it at once.

    SIGHUP has it read its configuration again, and certificates, without touching a session.
    """
    if hasattr(signal, "SIGHUP"):
        # Until it can be obeyed it should not kill.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    import trio

    from .observe.log import configure

    config, _ = _load(file)
    configure(config.log)
    sys.exit(trio.run(_run, file, config))


@main.command()
@_config_file
@click.argument("url")
@click.option("-X", "--method", default="GET", show_default=True)
@click.option("-H", "--header", "headers", multiple=True, help='Like "Name: value"; repeatable.')
@click.option(
    "--client", default="127.0.0.1", show_default=True, help="Who asks: an address, or unix."
)
@click.option("--websocket", is_flag=True, help="It is a WebSocket handshake, as with ws and wss.")
@click.option("-0", "--http1.0", "old", is_flag=True, help='HTTP/1.0; -H "Host:" is no Host then.')
@click.option("--listener", help="Where it comes in, by name or bind; default: by scheme and port.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    file: Path,
    url: str,
    method: str,
    headers: tuple[str, ...],
    client: str,
    listener: str | None,
    *,
    websocket: bool,
    old: bool,
    as_json: bool,
) -> None:
    """Say what would become of a request for URL, and why, without sending anything.

    With tcp://HOST:PORT or tls://HOST:PORT: of a connection to a listener of mode "tcp".

    Exit code 0 if it has a route, 1 if it would be refused (403, 404, 405, 426 ..., or a reset), 2
    if the configuration has faults or nothing listens for that.
    """
    from .serve.explain import explain
    from .serve.explain_tcp import explain_tcp
    from .serve.explanation import Explained, text
    from .serve.question import Question, TcpQuestion, is_tcp

    config, _ = _load(file)
    try:
        explanation: Explained
        if is_tcp(url):
            if headers or websocket or old or method != "GET":
                raise ValueError("-X, -H, -0 and --websocket are for requests: here are none")
            question = TcpQuestion.of(url, client=client, listener=listener)
            explanation = explain_tcp(config, question)
        else:
            request = Question.of(
                url,
                method=method,
                headers=headers,
                client=client,
                websocket=websocket,
                listener=listener,
                old=old,
            )
            explanation = explain(config, request)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    click.echo(json.dumps(explanation.fields(), indent=2) if as_json else text(explanation))
    sys.exit(1 if explanation.refused else 0)


@main.command()
@click.option("--stay", is_flag=True, help="Keep running after the story, and print what to try.")
def demo(*, stay: bool) -> None:
    """Show the main job: a cluster behind one wss:// address, and a node that dies."""
    import trio

    from .testing.demo import tell

    sys.exit(trio.run(partial(tell, stay=stay)))


def _load(file: Path) -> tuple[Config, Contexts]:
    """Load a configuration and whatever it names, or print its faults and exit with code 2."""
    from .config.load import load_config
    from .io.contexts import make_contexts

    try:
        config = load_config(file)
        contexts = make_contexts(config, str(file))
    except ConfigError as exc:
        click.echo(exc, err=True)
        sys.exit(2)
    return config, contexts


async def _run(file: Path, config: Config) -> int:
    import trio

    from .observe.log import LOG
    from .serve.server import Server

    server = Server(_within_file_limit(config))
    code = 0
    # Of those that come while one is obeyed, one more is enough.
    hang_ups, heard = trio.open_memory_channel[None](1)
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal code
                ending = False
                async for number in signals:
                    if number not in _ENDS:
                        with suppress(trio.WouldBlock):
                            hang_ups.send_nowait(None)
                    elif not ending:
                        ending = True
                        server.shut_down()
                    else:
                        code = _KILLED + number
                        nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            try:
                await nursery.start(server.run)
            except OSError as exc:
                LOG.error("cannot start", extra={"reason": exc.strerror or str(exc)})
                nursery.cancel_scope.cancel()
                return 1
            _quiet_garbage_collector()
            _say_listening(server.bound)
            LOG.info("ready", extra={"version": __version__, "pid": os.getpid()})
            nursery.start_soon(_obey_hang_ups, heard, server, file)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()
    return code


async def _obey_hang_ups(
    heard: trio.MemoryReceiveChannel[None], server: Server, file: Path
) -> None:
    from .observe.log import LOG

    async for _ in heard:
        try:
            await _reload(server, file)
        except Exception:
            LOG.exception("bug")


async def _reload(server: Server, file: Path) -> None:
    """Have the server go by its file as it is now; one that has faults changes nothing."""
    import trio

    from .config.load import load_config
    from .observe.log import configure
    from .serve.reload import tell_refused

    log, bound = server.config.log, server.bound
    try:
        # In a thread: disks may be slow, and sessions go on meanwhile.
        config = await trio.to_thread.run_sync(load_config, file, abandon_on_cancel=True)
    except ConfigError as exc:
        tell_refused(exc)
        return
    # What the server refuses it tells the log itself.
    with suppress(TidegateError, OSError):
        in_force = server.config.limits.connections
        await server.reload(_within_file_limit(config, in_force), source=str(file))
        if config.log != log:
            configure(config.log)
        _say_listening([one for one in server.bound if one not in bound])


def _quiet_garbage_collector() -> None:
    """Have the cyclic garbage collector walk less, and seldom far.

    What is there now stays for good, so it need not be walked; and what comes is freed by its
    reference counts, but for the few cycles of Trio's and h11's that a connection leaves behind.
    With Python's thresholds a full collection walks all sessions every few hundred handshakes.  But
    the youngest generation is small: to walk 2,000 objects takes less than a millisecond, and all
    sessions wait for that; with 20,000 it was five to eight, for no less work in all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 20, 200)


def _say_listening(listeners: Iterable[Bound]) -> None:
    from .observe.log import LOG

    for bound in listeners:
        extra = {"listener": bound.name, "address": str(bound.address), "tls": bound.tls}
        LOG.info("listening", extra=extra)


def _within_file_limit(config: Config, in_force: int = 0) -> Config:
    """Raise this process's limit of open files as far as needed, or lower the connection limit.

    That is told if it is not the one that is `in_force` already.
    """
    try:
        import resource
    except ImportError:  # Windows, where sockets are not files
        return config

    import attrs

    from .io.descriptors import needed, sufficing
    from .observe.log import LOG

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(config.limits.connections)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return config
    allowed = sufficing(soft)
    if allowed != in_force:
        LOG.info("connection limit lowered", extra={"connections": allowed, "open_files": soft})
    return attrs.evolve(config, limits=attrs.evolve(config.limits, connections=allowed))
