"""The command, in this process where it can be, as a process where signals are the point."""

from __future__ import annotations

import datetime as dt
import json
import resource
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from click.testing import CliRunner, Result

import proxy
from proxy import cli
from proxy.config.load import parse_config
from proxy.testing.node import open_nodes
from proxy.testing.websocket import Closed, WebSocket

CONFIG = """
[log]
format = "json"
[shutdown]
{shutdown}
[timeouts]
close = 60
[[listeners]]
bind = "{bind}"
name = "public"
[[routes]]
path = "/deepstream"
websocket = true
upstream = "deepstream"
[upstreams.deepstream]
nodes = ["{node}"]
"""

TLS = """
[[listeners]]
bind = "127.0.0.1:8443"
tls.certificates = [{ cert_file = "cert.pem", key_file = "key.pem" }]
"""

TCP = """
[[listeners]]
name = "mqtt"
bind = "127.0.0.1:1883"
mode = "tcp"

[[routes]]
listener = "mqtt"
upstream = "deepstream"
"""


def write(
    folder: Path, *, bind: str = "127.0.0.1:0", node: str = "127.0.0.1:1", shutdown: str = ""
) -> Path:
    file = folder / "tidegate.toml"
    file.write_text(CONFIG.format(bind=bind, node=node, shutdown=shutdown))
    return file


def command(*args: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def write_certificate(folder: Path, ca: trustme.CA, not_after: dt.datetime | None = None) -> None:
    certificate = ca.issue_cert("localhost", not_after=not_after)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")


def test_check_says_what_it_would_bind(tmp_path: Path, ca: trustme.CA) -> None:
    write_certificate(tmp_path, ca)
    file = write(tmp_path, bind="[::1]:8080")
    file.write_text(file.read_text() + TLS + TCP)
    result = command("check", "-c", file)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "ok",
        "would bind [::1]:8080 plain (public)",
        "would bind 127.0.0.1:8443 TLS",
        "would bind 127.0.0.1:1883 plain, bytes unseen (mqtt)",
    ]


def test_check_warns_of_keys_in_a_file(tmp_path: Path, ca: trustme.CA) -> None:
    write_certificate(tmp_path, ca)
    file = write(tmp_path)
    file.write_text(file.read_text() + TLS + 'tls.keylog_file = "keys.log"\n')
    result = command("check", "-c", file)

    assert result.exit_code == 0
    assert result.stderr == (
        "warning: listeners[1].tls.keylog_file: the keys of all connections are written to "
        f"{tmp_path}/keys.log: who reads it can read them all\n"
    )


def test_check_warns_of_what_works_and_should_not_stay(tmp_path: Path, ca: trustme.CA) -> None:
    write_certificate(tmp_path, ca, not_after=dt.datetime(2020, 1, 2, tzinfo=dt.UTC))
    file = write(tmp_path)
    file.write_text(f'{file.read_text()}{TLS}tls.minimum_version = "1.1"\n')
    result = command("check", "-c", file)

    assert result.exit_code == 0
    old, expired = result.stderr.splitlines()
    where = "warning: listeners[1].tls"
    assert old.startswith(f"{where}.minimum_version: 1.1 is deprecated")
    assert expired.startswith(f"{where}.certificates[0].cert_file: has expired on 2020-01-02")


def test_check_reads_tidegate_toml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert command("check").exit_code == 0


def test_check_warns_of_routes_that_nobody_gets_to(tmp_path: Path) -> None:
    file = write(tmp_path)
    more = (
        '[[routes]]\nlistener = "public"\nprefix = "/"\nwebsocket = true\nupstream = "deepstream"\n'
    )
    file.write_text(file.read_text() + more)
    result = command("check", "-c", file)

    assert result.exit_code == 0
    assert result.stderr == (
        "warning: routes[0] /deepstream never gets a request: routes[1] /* takes them all\n"
    )


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["ws://h/deepstream"], 0, "route     routes[0] /deepstream"),
        (["http://h/deepstream", "--websocket"], 0, "nodes     127.0.0.1:1 (weight 1)"),
        (["http://h/deepstream"], 1, "answer    426 Upgrade Required: "),
        (["http://h/x", "-X", "PUT", "-H", "X: y"], 1, "answer    404 Not Found: "),
        (["http://h/x", "-0", "-H", "Host:"], 1, "request   GET /x HTTP/1.0 (plain request"),
        (["ws://h/deepstream", "--client", "unix"], 0, "from unix)"),
        (["ws://h/deepstream", "--listener", "public"], 0, "listener  public 127.0.0.1:0 (http)"),
    ],
)
def test_explain(tmp_path: Path, args: list[str], code: int, line: str) -> None:
    result = command("explain", "-c", write(tmp_path), *args)

    assert (result.exit_code, result.stderr) == (code, "")
    assert line in result.stdout


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["tcp://h:1883"], 0, "listener  mqtt 127.0.0.1:1883 (tcp)"),
        (["tcp://h:1883", "--client", "192.0.2.7"], 0, "client    192.0.2.7"),
        (["tls://h:1", "--listener", "mqtt"], 0, "tls       passed through"),
        (["tcp://h:1883", "--json"], 0, '"route": "routes[1] tcp:mqtt",'),
        (["tcp://h:1883", "--client", "192.0.2.9"], 1, "answer    a reset: "),
    ],
)
def test_explain_a_connection(tmp_path: Path, args: list[str], code: int, line: str) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + TCP + 'deny = ["192.0.2.9"]\n')
    result = command("explain", "-c", file, *args)

    assert (result.exit_code, result.stderr) == (code, "")
    assert line in result.stdout


def test_explain_for_programs(tmp_path: Path) -> None:
    result = command("explain", "-c", write(tmp_path), "ws://h/deepstream", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["upstream"] == "deepstream"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["nowhere"], "is no URL like https://rt.example.org/path"),
        (["https://h/"], "no listener has TLS"),
        (["http://h/", "-H", "X"], "is no header like"),
        (["tcp://h"], "needs a port"),
        (["tcp://h:1"], 'no listener is bound to port 1; of mode "tcp" there are: none'),
        (["tcp://h:1", "-X", "PUT"], "-X, -H, -0 and --websocket are for requests"),
        (["tls://[h:1"], "Invalid IPv6 URL"),
    ],
)
def test_explain_needs_a_request(tmp_path: Path, args: list[str], reason: str) -> None:
    result = command("explain", "-c", write(tmp_path), *args)

    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr


@pytest.mark.parametrize("verb", ["check", "run"])
def test_faults_are_on_stderr_all_of_them(tmp_path: Path, verb: str) -> None:
    file = write(tmp_path, bind="nowhere", shutdown="rate = 'x'\nfoo = 1")
    result = command(verb, "--config", file)

    assert (result.exit_code, result.stdout) == (2, "")
    assert sorted(line.split(": ")[1] for line in result.stderr.splitlines()) == [
        "listeners[0].bind",
        "shutdown.foo",
        "shutdown.rate",
    ]
    assert all(line.startswith(f"{file}: ") for line in result.stderr.splitlines())


def test_file_that_is_not_there(tmp_path: Path) -> None:
    result = command("check", "-c", tmp_path / "none.toml")

    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}/none.toml: No such file or directory\n"


def test_certificate_that_cannot_be_used(tmp_path: Path, ca: trustme.CA) -> None:
    write_certificate(tmp_path, ca)
    ca.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    file = write(tmp_path)
    file.write_text(f'{file.read_text()}tls.ca_file = "tidegate.toml"\n{TLS}')
    result = command("check", "-c", file)

    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    where = "listeners[1].tls.certificates[0].key_file"
    assert first.startswith(f"{file}: {where}: the key does not belong to the certificate: ")
    assert second.startswith(f"{file}: upstreams.deepstream.tls.ca_file: ")


def test_version() -> None:
    result = command("--version")

    assert (result.exit_code, result.output) == (0, f"tidegate, version {proxy.__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_verb(flag: str) -> None:
    result = command(flag)

    assert result.exit_code == 0
    assert all(f"\n  {verb} " in result.output for verb in cli.main.commands)


def test_unknown_verb_is_a_usage_error() -> None:
    result = command("dmeo")

    assert result.exit_code == 2
    assert "No such command 'dmeo'" in result.stderr


@pytest.mark.parametrize(
    ("limits", "connections", "raised"),
    [
        ((4096, 4096), 1000, None),
        ((1024, 4096), 1000, (2256, 4096)),
        ((1024, resource.RLIM_INFINITY), 1000, (2256, resource.RLIM_INFINITY)),
        ((1024, 1256), 500, (1256, 1256)),
        ((64, 64), 1, (64, 64)),
    ],
)
def test_connection_limit_fits_the_file_limit(
    limits: tuple[int, int],
    connections: int,
    raised: tuple[int, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(tmp_path)
    config = parse_config(f"limits.connections = 1000\n{file.read_text()}")
    calls: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: calls.append(wanted))

    assert cli._within_file_limit(config).limits.connections == connections
    assert calls == ([] if raised is None else [raised])


class Running:
    """The command as a process, and what it has logged."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stderr is not None
        self._process = process
        self._stderr = process.stderr
        self._buffer = b""
        self._seen: list[str] = []

    async def event(self, *names: str) -> Mapping[str, Any]:
        """Return the next event of that name, or of these."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                chunk = await self._stderr.receive_some()
                assert chunk, f"no event {names}, but {self._buffer!r}"
                self._buffer += chunk
                continue
            self._buffer = rest
            event: dict[str, Any] = json.loads(line)
            if event["event"] in names:
                return event
            self._seen.append(event["event"])

    def seen(self, name: str) -> bool:
        """Whether there was such an event among those that were passed over."""
        return name in self._seen

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        return await self._process.wait()


@asynccontextmanager
async def open_command(file: Path) -> AsyncIterator[Running]:
    """Run `tidegate run` for the length of a block."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            args = [sys.executable, "-m", "proxy", "run", "-c", str(file)]
            process = await nursery.start(
                partial(trio.run_process, args, stderr=subprocess.PIPE, check=False)
            )
            yield Running(process)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_runs_until_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    async with open_command(write(tmp_path)) as running:
        listening = await running.event("listening")
        ready = await running.event("ready")
        running.signal(number)
        await running.event("draining")

        assert await running.exit_code() == 0
        assert (listening["listener"], listening["tls"]) == ("public", False)
        assert listening["address"].startswith("127.0.0.1:")
        assert ready["version"] == proxy.__version__


async def test_address_in_use(tmp_path: Path) -> None:
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_command(write(tmp_path, bind=address)) as running:
            event = await running.event("cannot start")

            assert await running.exit_code() == 1
            assert event["level"] == "error"
            assert event["reason"] == f"cannot bind {address}: Address already in use"


@asynccontextmanager
async def open_session(port: int) -> AsyncIterator[WebSocket]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield await WebSocket.connect(stream, f"127.0.0.1:{port}", "/deepstream")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    async with open_nodes("anna") as [node]:
        file = write(tmp_path, node=node.address, shutdown="rate = 0.01\ndeadline = 100")
        async with open_command(file) as running:
            address = (await running.event("listening"))["address"]
            port = int(address.rpartition(":")[2])
            # The goodbyes are spread: the second session's turn comes after half a minute.
            async with open_session(port), open_session(port):
                running.signal(signal.SIGTERM)
                assert (await running.event("draining"))["sessions"] == 2
                running.signal(number)

                assert await running.exit_code() == 128 + number


async def test_first_signal_says_goodbye_to_sessions(tmp_path: Path) -> None:
    async with open_nodes("anna") as [node]:
        file = write(tmp_path, node=node.address, shutdown="rate = 1000")
        async with open_command(file) as running:
            address = (await running.event("listening"))["address"]
            async with open_session(int(address.rpartition(":")[2])) as client:
                running.signal(signal.SIGTERM)
                with pytest.raises(Closed) as caught:
                    await client.receive()

            assert caught.value.code == 1012
            assert (await running.event("exchange"))["ending"] == "shutdown"
            assert await running.exit_code() == 0


# SIGHUP.

ROUTE = """
[[routes]]
path = "/deepstream"
host = "{host}"
websocket = true
on_removed = "keep"
upstream = "deepstream"
"""


def rewrite(file: Path, *changes: tuple[str, str], more: str = "") -> None:
    """Change what stands in a file."""
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text + more)


@asynccontextmanager
async def open_reloadable(
    folder: Path, more: str = ""
) -> AsyncIterator[tuple[Running, Path, list[int]]]:
    """The command in front of a node, its file, and the ports of its listeners.

    A session of the host 127.0.0.1 stays, whatever becomes of its route.
    """
    async with open_nodes("anna") as [node]:
        file = write(folder, node=node.address, shutdown="rate = 1000")
        rewrite(file, more=ROUTE.format(host="127.0.0.1") + more)
        async with open_command(file) as running:
            ports = []
            while (event := await running.event("listening", "ready"))["event"] == "listening":
                ports.append(int(event["address"].rpartition(":")[2]))
            yield running, file, ports


async def is_alive(client: WebSocket) -> bool:
    await client.send(bytes.fromhex("0610021a020805"))
    return await client.receive() == bytes.fromhex("0610021a020804")


async def test_reload_changes_what_the_file_says_and_no_session(tmp_path: Path) -> None:
    async with (
        open_reloadable(tmp_path) as (running, file, [port]),
        open_session(port) as client,
    ):
        listener = '[[listeners]]\nname = "more"\nbind = "127.0.0.1:0"\n'
        host = ('host = "127.0.0.1"', 'host = "elsewhere"')
        rewrite(file, host, ("[shutdown]", listener + "[shutdown]"), more="weight = 1")
        running.signal(signal.SIGHUP)
        # A key in the wrong place: nothing of it holds.
        refused = await running.event("reload refused")
        assert refused["reason"].startswith(f"{file}: routes[1].weight: unknown key")
        assert refused["level"] == "error"
        rewrite(file, ("weight = 1", ""))
        # Twice is as good as once.
        running.signal(signal.SIGHUP)
        running.signal(signal.SIGHUP)
        reloaded = await running.event("reloaded")
        assert reloaded["listeners_added"] == "more"
        assert reloaded["routes_removed"] == "127.0.0.1/deepstream"
        assert reloaded["sessions"] == 1
        more = await running.event("listening")
        assert more["listener"] == "more"
        async with open_session(int(more["address"].rpartition(":")[2])) as other:
            assert await is_alive(other)
            await other.close()
        assert await is_alive(client)
        running.signal(signal.SIGTERM)
        await client.close()

        assert await running.exit_code() == 0


async def test_reload_of_a_file_that_is_gone(tmp_path: Path) -> None:
    async with (
        open_reloadable(tmp_path) as (running, file, [port]),
        open_session(port) as client,
    ):
        text = file.read_text()
        file.unlink()
        running.signal(signal.SIGHUP)
        refused = await running.event("reload refused")
        assert refused["reason"] == f"{file}: No such file or directory"
        file.write_text(text.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
        running.signal(signal.SIGHUP)
        refused = await running.event("reload refused")
        assert refused["reason"].startswith(f"cannot bind 127.0.0.1:{port}: Address already in use")
        assert await is_alive(client)


async def test_reload_takes_renewed_certificates_and_another_log(
    tmp_path: Path, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    write_certificate(tmp_path, ca)
    tls = TLS.replace("127.0.0.1:8443", "127.0.0.1:0")
    async with open_reloadable(tmp_path, "[[listeners]]" + tls.partition("]]")[2]) as opened:
        running, file, [_, port] = opened
        shown = await certificate_of(port, client_tls)
        write_certificate(tmp_path, ca)
        rewrite(file, ("[log]", '[log]\nlevel = "warning"'))
        running.signal(signal.SIGHUP)
        assert (await running.event("reloaded"))["settings"] == "log"
        renewed = await certificate_of(port, client_tls)
        assert renewed != shown
        write_certificate(tmp_path, ca)
        running.signal(signal.SIGHUP)
        # The log is not told of it any more.
        while await certificate_of(port, client_tls) == renewed:
            await trio.lowlevel.checkpoint()
        (tmp_path / "key.pem").write_text("")
        running.signal(signal.SIGHUP)
        refused = await running.event("reload refused")
        assert refused["reason"].startswith(f"{file}: listeners[1].tls.certificates[0].key_file: ")
        assert not running.seen("reloaded")


async def certificate_of(port: int, tls: ssl.SSLContext) -> bytes:
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", port),
        tls,
        server_hostname="localhost",
        https_compatible=True,
    )
    async with stream:
        await stream.do_handshake()
        certificate: bytes = stream.getpeercert(binary_form=True)
        return certificate


async def test_end_while_it_reloads(tmp_path: Path) -> None:
    """New nodes are asked before anybody is sent there, and the end does not wait for them."""
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_reloadable(tmp_path) as (running, file, _), silent:
        address = f"127.0.0.1:{silent.socket.getsockname()[1]}"
        probe = 'probe = { kind = "deepstream", timeout = 60.0 }'
        rewrite(file, more=f'\n[upstreams.slow]\nnodes = ["{address}"]\n{probe}\n')
        running.signal(signal.SIGHUP)
        asked = await silent.accept()
        running.signal(signal.SIGHUP)
        running.signal(signal.SIGTERM)
        refused = await running.event("reload refused")

        assert await running.exit_code() == 0
        assert refused["reason"] == "the proxy is shutting down"
        await asked.aclose()


async def test_reload_that_is_asked_for_before_the_start_comes_after_it(tmp_path: Path) -> None:
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with silent:
        file = write(tmp_path, node=f"127.0.0.1:{silent.socket.getsockname()[1]}")
        rewrite(file, more='probe = { kind = "deepstream", timeout = 60.0 }')
        async with open_command(file) as running:
            async with await silent.accept():
                running.signal(signal.SIGHUP)
                rewrite(file, ("[log]", "[limits]\nconnections = 5\n[log]"))
            reloaded = await running.event("reloaded")

            assert reloaded["settings"] == "limits"
            assert running.seen("ready")


def python(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout


def test_runs_as_a_module() -> None:
    assert python("-m", "proxy", "--help").startswith("Usage: ")


def test_import_is_light() -> None:
    loaded = set(python("-c", "import sys, proxy; print(*sys.modules)").split())

    assert {"proxy", "trio"} <= loaded
    assert not {"structlog", "click", "trustme", "cryptography", "rich", "asyncio", "dns"} & loaded
