"""Client certificates on real sockets: who is served, and what nodes, records, hooks are told."""

from __future__ import annotations

import json
import socket
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio
import trustme

from proxy import Allow, Handshake, Hooks, Record, Server, open_proxy, parse_config
from proxy.serve import arrival
from proxy.wire.proxy_protocol import SSL, read
from tests.io.certificates import revoked
from tests.serve.test_proxy_protocol import LIMIT, Node, open_node
from tests.serve.world import UPGRADE

TEMPLATE = """
[timeouts]
linger = 0.1
close = 0.1
[shutdown]
deadline = 0.1
[forwarding]
client_certificates = {told}
[[listeners]]
bind = "127.0.0.1:0"
name = "asking"
{mode}
[listeners.tls]
certificates = [ {{ cert_file = "it.pem", key_file = "it.pem" }} ]
client_certificates = {{ {asked} }}
[[listeners]]
bind = "127.0.0.1:0"
name = "plain"
{routes}
[upstreams.nodes]
nodes = [ "127.0.0.1:{port}" ]
{upstream}
"""
ROUTES = """
[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
[[routes]]
prefix = "/api"
upstream = "nodes"
"""
ALL = '["verify", "subject", "serial", "fingerprint", "certificate"]'
GET = b"GET /api HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
FORGED = (
    b"X-SSL-Client-Verify: SUCCESS\r\nx_ssl_client_subject: CN=Eve\r\nCLIENT-CERT: :AAAA:\r\n"
    b"X-SSL-Client-S-DN: CN=Eve\r\nX-Forwarded-Client-Cert: By=Eve\r\n"
)


def claiming(request: bytes, headers: bytes = FORGED) -> bytes:
    return request.removesuffix(b"\r\n") + headers + b"\r\n"


CLOSE = UPGRADE.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")


@attrs.frozen
class Rig:
    """A proxy whose first listener asks for certificates; what its node was sent, and records."""

    server: Server
    node: Node
    #: Those that were not looked at yet.
    records: trio.MemoryReceiveChannel[Record]
    folder: Path
    text: str
    ca: trustme.CA
    clients: trustme.CA

    def context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    async def ask(self, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
        """Send a request over TLS, or to the plain listener; return all that comes back."""
        address = self.server.address("asking" if context else "plain")
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        if context is not None:
            stream = trio.SSLStream(
                stream, context, server_hostname="localhost", https_compatible=True
            )
        try:
            await stream.send_all(request)
            received = b""
            # A session would go on.
            while b" 101 " not in received and (data := await stream.receive_some()):
                received += data
            return received
        except trio.BrokenResourceError:
            return b""
        finally:
            await trio.aclose_forcefully(stream)

    def told(self) -> dict[str, str]:
        """Return what the node was told of certificates the last time."""
        lines = self.node.heads[-1].decode().split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines if ": " in line]
        words = ("cert", "ssl")
        return {name: value for name, value in pairs if any(word in name.lower() for word in words)}


@asynccontextmanager
async def open_rig(
    folder: Path,
    ca: trustme.CA,
    asked: str = 'ca_file = "ca.pem"',
    *,
    told: str = ALL,
    mode: str = "",
    routes: str = ROUTES,
    upstream: str = "",
    hooks: Hooks | None = None,
) -> AsyncIterator[Rig]:
    send, records = trio.open_memory_channel[Record](100)
    clients = trustme.CA()
    clients.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "crl.pem").write_bytes(revoked(clients))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "it.pem")
    with trio.fail_after(LIMIT):
        async with open_node() as node:
            text = TEMPLATE.format(
                asked=asked, told=told, mode=mode, routes=routes, port=node.port, upstream=upstream
            )
            config = parse_config(text, folder=folder)
            by_route = {"/deepstream": hooks} if hooks else {}
            async with open_proxy(config, on_record=send.send_nowait, hooks=by_route) as server:
                yield Rig(server, node, records, folder, text, ca, clients)


@pytest.mark.parametrize("request_", [GET, CLOSE], ids=["plain", "websocket"])
async def test_node_is_told_of_the_certificate(
    request_: bytes, tmp_path: Path, ca: trustme.CA
) -> None:
    async with open_rig(tmp_path, ca) as rig:
        ada = rig.clients.issue_cert("ada@example.org", common_name="Ada Lövelace")
        der = ssl.PEM_cert_to_DER_cert(ada.cert_chain_pems[0].bytes().decode())
        forged = claiming(request_)
        for _ in range(2):
            assert await rig.ask(forged, rig.context(ada))
            told = rig.told()
            assert told.pop("X-SSL-Client-Subject").startswith("CN=Ada L\\C3\\B6velace,OU=")
            assert int(told.pop("X-SSL-Client-Serial"), 16)
            assert b64decode(told.pop("Client-Cert").strip(":")) == der
            assert told == {
                "X-SSL-Client-Verify": "SUCCESS",
                "X-SSL-Client-Fingerprint": sha256(der).hexdigest(),
            }
            assert b"Eve" not in rig.node.heads[-1]
            assert (await rig.records.receive()).client_subject.startswith("CN=Ada")


async def test_every_request_of_a_connection_has_them(tmp_path: Path, ca: trustme.CA) -> None:
    async with open_rig(tmp_path, ca, told='["verify", "subject"]') as rig:
        ada = rig.clients.issue_cert("ada@example.org", common_name="Ada")
        keep = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"
        assert (await rig.ask(keep * 2 + GET, rig.context(ada))).count(b"HTTP/1.1 200") == 3
        heads = b"".join(rig.node.heads)
        assert heads.count(b"X-SSL-Client-Verify: SUCCESS") >= 1
        assert b"Client-Cert" not in heads
        subjects = [(await rig.records.receive()).client_subject for _ in range(3)]
        assert [subject[:7] for subject in subjects] == ["CN=Ada,"] * 3


async def test_clients_without_a_certificate(tmp_path: Path, ca: trustme.CA) -> None:
    """And on the plain listener, where nobody is asked: what they say of themselves is dropped."""
    async with open_rig(tmp_path, ca, 'mode = "optional", ca_file = "ca.pem"') as rig:
        for context in (rig.context(), None):
            assert (await rig.ask(claiming(GET), context)).startswith(b"HTTP/1.1 200")
            assert rig.told() == {"X-SSL-Client-Verify": "NONE"}
            assert (await rig.records.receive()).client_subject == ""


async def test_without_the_key_nothing_is_told_or_dropped(tmp_path: Path, ca: trustme.CA) -> None:
    async with open_rig(tmp_path, ca, told="[]") as rig:
        ada = rig.clients.issue_cert("ada@example.org")
        await rig.ask(claiming(GET, b"X-SSL-Client-Verify: a proxy of mine\r\n"), rig.context(ada))
        assert rig.told() == {"X-SSL-Client-Verify": "a proxy of mine"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_is_refused_and_why(
    version: ssl.TLSVersion, tmp_path: Path, ca: trustme.CA
) -> None:
    """In TLS 1.3 a client has finished before it is judged: it learns it when it reads."""
    async with open_rig(tmp_path, ca, 'ca_file = "ca.pem", crl_file = "crl.pem"') as rig:
        ada, bob = (rig.clients.issue_cert(f"{name}@example.org") for name in ("ada", "bob"))
        eve = ca.issue_cert("eve@example.org")
        (tmp_path / "crl.pem").write_bytes(revoked(rig.clients, bob))
        await rig.server.reload(parse_config(rig.text, folder=tmp_path))
        for who, reason in (
            (None, "The client has shown no certificate."),
            (bob, "The client's certificate was not accepted: certificate revoked."),
            (eve, "The client's certificate was not accepted: self-signed certificate in"),
        ):
            context = rig.context(who)
            context.maximum_version = version
            assert await rig.ask(GET, context) == b""
            assert (await rig.records.receive()).detail.startswith(reason)
            assert rig.node.heads == []
        context = rig.context(ada)
        context.maximum_version = version
        assert (await rig.ask(GET, context)).startswith(b"HTTP/1.1 200")


async def test_client_hears_why_it_was_refused(tmp_path: Path, ca: trustme.CA) -> None:
    async with open_rig(tmp_path, ca) as rig:
        address = rig.server.address("asking")
        plain = await trio.open_tcp_stream("127.0.0.1", address.port)
        stream = trio.SSLStream(plain, rig.context(), server_hostname="localhost")
        await stream.do_handshake()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert caught.value.__cause__.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        await trio.aclose_forcefully(stream)


def resuming(
    rig: Rig, leaf: trustme.LeafCert
) -> Callable[[ssl.SSLSession | None], Awaitable[tuple[bytes, ssl.SSLSession | None, bool]]]:
    """Ask as a client does that takes up its session: trio's streams have no such thing."""
    context, address = rig.context(leaf), rig.server.address("asking")

    def connect(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool]:
        sock = socket.create_connection(("127.0.0.1", address.port), timeout=LIMIT)
        with sock, context.wrap_socket(sock, server_hostname="localhost", session=session) as tls:
            try:
                tls.sendall(GET)
                answer = tls.recv(4096)
            except OSError:
                answer = b""
            return answer, tls.session, bool(tls.session_reused)

    async def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool]:
        return await trio.to_thread.run_sync(connect, session)

    return ask


async def test_no_ticket_outlives_the_certificate(
    tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    async with open_rig(tmp_path, ca, 'ca_file = "ca.pem"') as rig:
        ask = resuming(rig, rig.clients.issue_cert("ada@example.org", not_after=end))
        _, session, _ = await ask(None)
        answer, session, reused = await ask(session)
        assert (answer[:12], reused) == (b"HTTP/1.1 200", True)

        monkeypatch.setattr(arrival, "time", SimpleNamespace(time=lambda: end.timestamp() + 1))
        answer, _, reused = await ask(session)
        assert (answer, reused) == (b"", True)
        details = [(await rig.records.receive()).detail for _ in range(3)]
        assert details[2].endswith("certificate has expired since it was shown.")


async def test_a_new_list_holds_for_tickets_of_before(tmp_path: Path, ca: trustme.CA) -> None:
    async with open_rig(tmp_path, ca, 'ca_file = "ca.pem", crl_file = "crl.pem"') as rig:
        ada = rig.clients.issue_cert("ada@example.org")
        ask = resuming(rig, ada)
        answer, session, _ = await ask(None)
        assert answer.startswith(b"HTTP/1.1 200")
        answer, _, reused = await ask(session)
        assert (answer[:12], reused) == (b"HTTP/1.1 200", True)
        assert rig.told()["X-SSL-Client-Verify"] == "SUCCESS"

        (tmp_path / "crl.pem").write_bytes(revoked(rig.clients, ada))
        await rig.server.reload(parse_config(rig.text, folder=tmp_path))
        answer, _, reused = await ask(session)
        assert (answer, reused) == (b"", False)
        details = [(await rig.records.receive()).detail for _ in range(3)]
        assert [detail.rpartition(": ")[2] for detail in details] == [
            "",
            "",
            "certificate revoked.",
        ]


async def test_hooks_see_it(tmp_path: Path, ca: trustme.CA) -> None:
    seen: list[Handshake] = []

    async def on_handshake(handshake: Handshake) -> Allow:
        await trio.lowlevel.checkpoint()
        seen.append(handshake)
        return Allow()

    hooks = Hooks(on_handshake=on_handshake)
    async with open_rig(
        tmp_path, ca, 'mode = "optional", ca_file = "ca.pem"', told="[]", hooks=hooks
    ) as rig:
        ada = rig.clients.issue_cert("ada@example.org", common_name="Ada")
        for context in (rig.context(ada), rig.context()):
            assert (await rig.ask(CLOSE, context)).startswith(b"HTTP/1.1 101")
        shown, none = (handshake.certificate for handshake in seen)
        assert none is None
        assert shown is not None
        assert (shown.common_name, shown.subject[:7]) == ("Ada", "CN=Ada,")


@pytest.mark.parametrize("mode", ["http", "tcp"])
async def test_proxy_header_tells_of_it(mode: str, tmp_path: Path, ca: trustme.CA) -> None:
    tcp = '[[routes]]\nlistener = "asking"\nupstream = "nodes"\n'
    async with open_rig(
        tmp_path,
        ca,
        'mode = "optional", ca_file = "ca.pem"',
        mode=f'mode = "{mode}"',
        routes=ROUTES + (tcp if mode == "tcp" else ""),
        upstream='proxy_protocol = "v2"',
    ) as rig:
        ada = rig.clients.issue_cert("ada@example.org", common_name="Ada")
        for context in (rig.context(ada), rig.context()):
            # In TCP mode the node's connection ends only with the client's.
            asked = CLOSE if mode == "tcp" else GET
            assert (await rig.ask(asked, context)).startswith(b"HTTP/1.1 ")
        found = [dict(header[0].tlvs)[SSL] for head in rig.node.heads if (header := read(head))]
        # Over TLS, with a certificate in this connection and in this session, verified.
        assert [value[:5] for value in found] == [b"\x07\0\0\0\0", b"\x01\0\0\0\1"]
        assert [b"Ada" in value for value in found] == [True, False]
    told = [rig.records.receive_nowait().client_subject[:6] for _ in range(2)]
    assert told == ["CN=Ada", ""]


def test_what_is_told_can_be_explained(tmp_path: Path, ca: trustme.CA) -> None:
    from proxy.serve.explain import explain
    from proxy.serve.question import Question

    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "it.pem")

    def sent(mode: str, url: str, *headers: str) -> list[str]:
        text = TEMPLATE.format(
            asked=f'mode = "{mode}", ca_file = "it.pem"',
            told=ALL,
            mode="",
            routes=ROUTES,
            port=1,
            upstream="",
        )
        question = Question.of(url, headers=headers, listener=None)
        found = explain(parse_config(text, folder=tmp_path), question)
        return [line for line in found.sent if "SSL" in line or "Cert" in line]

    forged = "X-SSL-Client-Verify: SUCCESS"
    none = ["X-SSL-Client-Verify: NONE"]
    assert sent("required", "http://a/api", forged) == none
    assert sent("optional", "https://a/api", forged) == none
    told = sent("required", "wss://a/deepstream", forged)
    assert told == sent("required", "https://a/api")
    assert told[:2] == [
        "X-SSL-Client-Verify: SUCCESS",
        "X-SSL-Client-Subject: (of each certificate)",
    ]
    assert json.dumps(told).count("(of each certificate)") == 4
