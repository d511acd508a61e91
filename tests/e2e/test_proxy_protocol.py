"""PROXY headers between the proxy and real HAProxy and nginx, before it and behind it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from proxy.config.address import Address
from proxy.config.upstream import ProxyVersion
from proxy.wire.proxy_protocol import (
    ALPN,
    SSL,
    UNIQUE_ID,
    Source,
    TlsFacts,
    build,
    own_tlvs,
    read,
)

from .balancers import open_haproxy, open_nginx
from .harness import Certificate, Proxy, open_proxy
from .nodes import free_port
from .program import DEADLINE, deadline

pytestmark = pytest.mark.usefixtures("haproxy", "nginx")

#: Not the address that the balancers connect from.
CLIENT = "127.0.0.5"
GET = b"GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CONFIG = """
[log]
format = "json"
[[listeners]]
name = "public"
bind = "127.0.0.1:0"
proxy_protocol.trusted = [ "127.0.0.1", "::1" ]
{public_tls}
[[listeners]]
name = "direct"
bind = "127.0.0.1:0"
[[listeners]]
name = "secure"
bind = "127.0.0.1:0"
{tls}
[[routes]]
prefix = "/"
upstream = "nodes"
[upstreams.nodes]
nodes = [ "127.0.0.1:{node}" ]
{upstream}
"""


@contextlib.asynccontextmanager
async def open_tidegate(
    certificate: Certificate, node: int, *, upstream: str = "", tls: bool = False
) -> AsyncIterator[Proxy]:
    files = f'cert_file = "{certificate.cert_file}", key_file = "{certificate.key_file}"'
    line = f"tls = {{ certificates = [ {{ {files} }} ] }}"
    text = CONFIG.format(node=node, upstream=upstream, tls=line, public_tls=line if tls else "")
    async with open_proxy(text) as proxy:
        yield proxy


@attrs.define
class Capture:
    """A node that keeps the first bytes of its connections, and answers what is asked."""

    port: int
    firsts: list[bytes] = attrs.field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        first = b""
        while b" HTTP/1.1\r\n" not in first or not first.endswith(b"\r\n\r\n"):
            if not (data := await stream.receive_some()):
                return
            first += data
        self.firsts.append(first)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


@contextlib.asynccontextmanager
async def open_capture(host: str = "127.0.0.1") -> AsyncIterator[Capture]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        capture = Capture(listener.socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, capture.serve, [listener])
        yield capture
        nursery.cancel_scope.cancel()


@attrs.frozen
class Answer:
    text: str
    #: The client's address, as it knows it.
    client: Address


async def ask(
    port: int, context: ssl.SSLContext | None = None, *, host: str = "127.0.0.1"
) -> Answer:
    """Ask once, over TLS with a context."""
    local = CLIENT if host == "127.0.0.1" else None
    with deadline(DEADLINE, "an answer"):
        plain = await trio.open_tcp_stream(host, port, local_address=local)
        stream: trio.abc.Stream = plain
        if context is not None:
            stream = trio.SSLStream(
                plain, context, server_hostname="localhost", https_compatible=True
            )
        received = b""
        async with stream:
            await stream.send_all(GET)
            client = Address(*plain.socket.getsockname()[:2])
            while data := await stream.receive_some():
                received += data
    return Answer(received.decode(), client)


@pytest.fixture
def client_tls(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.ca_file)


@pytest.fixture
def ada(tmp_path: Path) -> tuple[trustme.LeafCert, Path]:
    """A client's certificate, and the file of the CA that it is from."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return ca.issue_cert("ada@example.org", common_name="ada"), tmp_path / "clients.pem"


def bundle(certificate: Certificate, folder: Path) -> Path:
    """A certificate and its key in one file, as HAProxy wants them."""
    path = folder / "bundle.pem"
    parts = (certificate.cert_file, certificate.key_file)
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    return path


HAPROXY_BEFORE = """
listen front
  mode tcp
  bind 127.0.0.1:{front}
  server tidegate {tidegate} {options} check inter 50ms
"""
NGINX_BEFORE = """
stream {{
  server {{ listen 127.0.0.1:{front}; proxy_pass {tidegate}; proxy_protocol on; }}
}}
"""


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("balancer", ["send-proxy", "send-proxy-v2", "nginx"])
async def test_clients_behind_a_balancer(
    balancer: str, tls: bool, certificate: Certificate, client_tls: ssl.SSLContext
) -> None:
    front = free_port()
    async with open_capture() as node, open_tidegate(certificate, node.port, tls=tls) as proxy:
        template = NGINX_BEFORE if balancer == "nginx" else HAPROXY_BEFORE
        text = template.format(front=front, tidegate=proxy.address(), options=balancer)
        async with (open_nginx if balancer == "nginx" else open_haproxy)(text, front):
            # So that HAProxy has checked us some times.
            await trio.sleep(0.3)
            answers = [await ask(front, client_tls if tls else None) for _ in range(3)]

        assert all(answer.text.startswith("HTTP/1.1 200 ") for answer in answers)
        assert len(node.firsts) == 3
        for first in node.firsts:
            assert f"\r\nX-Forwarded-For: {CLIENT}\r\n".encode() in first
            assert f"\r\nX-Forwarded-Port: {front}\r\n".encode() in first
        records = await proxy.until_records(3)
        assert [record["client"] for record in records] == [str(one.client) for one in answers]
        assert [record["status"] for record in records] == [200] * 3


@pytest.mark.parametrize("shown", [False, True])
async def test_what_a_balancer_knows_of_tls_goes_on_to_the_nodes(
    shown: bool,
    certificate: Certificate,
    client_tls: ssl.SSLContext,
    ada: tuple[trustme.LeafCert, Path],
    tmp_path: Path,
) -> None:
    if shown:
        ada[0].configure_cert(client_tls)
    front = free_port()
    upstream = 'proxy_protocol = "v2"'
    async with (
        open_capture() as node,
        open_tidegate(certificate, node.port, upstream=upstream) as proxy,
        open_haproxy(
            f"""
listen front
  mode http
  bind 127.0.0.1:{front} ssl crt {bundle(certificate, tmp_path)} ca-file {ada[1]} verify optional
  server tidegate {proxy.address()} send-proxy-v2-ssl-cn proxy-v2-options crc32c,authority
""",
            front,
        ),
    ):
        answer = await ask(front, client_tls)

        assert answer.text.startswith("HTTP/1.1 200 ")
        (record,) = await proxy.until_records(1)
        assert b"\r\nX-Forwarded-Proto: https\r\n" in node.firsts[0]
        found = read(node.firsts[0])
        assert found is not None
        assert found[0].ends == (answer.client, Address("127.0.0.1", front))
        tlvs = dict(found[0].tlvs)
        assert tlvs[UNIQUE_ID] == record["id"].encode()
        assert tlvs[2] == b"localhost"
        assert tlvs[SSL][0] == (7 if shown else 1)
        assert (b"\x22\0\3ada" in tlvs[SSL]) is shown


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_byte_for_byte_as_haproxy(version: ProxyVersion, host: str) -> None:
    front = free_port()
    option = "send-proxy" if version == "v1" else "send-proxy-v2"
    async with open_capture() as node:
        text = f"""
listen front
  mode tcp
  bind {f"[{host}]" if ":" in host else host}:{front}
  server node 127.0.0.1:{node.port} {option}
"""
        async with open_haproxy(text, front):
            answer = await ask(front, host=host)

        source = Source((answer.client, Address(host, front)))
        assert node.firsts == [build(version, source) + GET]


async def test_byte_for_byte_as_haproxy_with_tls(
    certificate: Certificate,
    client_tls: ssl.SSLContext,
    ada: tuple[trustme.LeafCert, Path],
    tmp_path: Path,
) -> None:
    """All that we say ourselves, its checksum apart, which is right or it would not be read."""
    ada[0].configure_cert(client_tls)
    client_tls.set_alpn_protocols(["http/1.1"])
    front = free_port()
    accepted = f"ssl crt {bundle(certificate, tmp_path)} ca-file {ada[1]} verify required"
    options = "ssl,cert-cn,ssl-cipher,unique-id,authority,crc32c"
    async with open_capture() as node:
        text = f"""
listen front
  mode http
  unique-id-format an-id
  bind 127.0.0.1:{front} {accepted} alpn http/1.1
  server node 127.0.0.1:{node.port} send-proxy-v2 proxy-v2-options {options}
"""
        async with open_haproxy(text, front):
            answer = await ask(front, client_tls)

    (first,) = node.firsts
    found = read(first)
    assert found is not None
    facts = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", "http/1.1", "localhost", True, "ada")
    told = Source((answer.client, Address("127.0.0.1", front)), own_tlvs("an-id", facts))
    assert found[0] == told
    assert found[0].tlvs[0] == (ALPN, b"http/1.1")
    # With the seven bytes of its checksum, which comes first.
    ours = build("v2", told)
    length = int.from_bytes(first[14:16], "big")
    assert length == int.from_bytes(ours[14:16], "big") + 7
    assert first[:14] + first[16:28] + first[35 : found[1]] == ours[:14] + ours[16:]


HAPROXY_BEHIND = """
frontend node
  mode http
  bind 127.0.0.1:{node} accept-proxy
  http-request return status 200 content-type text/plain lf-string "{says}"
"""
HAPROXY_SAYS = "%[src]:%[src_port] %[dst]:%[dst_port] [%[fc_pp_authority]] [%[fc_pp_unique_id]]"
NGINX_BEHIND = """
http {{
  {{temporary}}
  access_log off;
  server {{
    listen 127.0.0.1:{node} proxy_protocol;
    set $source $proxy_protocol_addr:$proxy_protocol_port;
    set $destination $proxy_protocol_server_addr:$proxy_protocol_server_port;
    location / {{ return 200 "$source $destination [] []"; }}
  }}
}}
"""


@pytest.mark.parametrize(
    ("peer", "version", "listener"),
    [
        ("haproxy", "v1", "direct"),
        ("haproxy", "v1", "secure"),
        ("haproxy", "v2", "direct"),
        ("haproxy", "v2", "secure"),
        ("nginx", "v1", "direct"),
        ("nginx", "v1", "secure"),
        # nginx 1.22 has no room for what we say of TLS.
        ("nginx", "v2", "direct"),
    ],
)
async def test_nodes_that_want_a_header(
    peer: str,
    version: ProxyVersion,
    listener: str,
    certificate: Certificate,
    client_tls: ssl.SSLContext,
) -> None:
    node = free_port()
    template, opened = (
        (HAPROXY_BEHIND, open_haproxy) if peer == "haproxy" else (NGINX_BEHIND, open_nginx)
    )
    # Its probes are taken too, or nobody would be sent there.
    upstream = f"""
proxy_protocol = "{version}"
panic = "refuse"
hold.timeout = 0
probe = {{ kind = "http", path = "/", status = [200] }}
"""
    async with (
        opened(template.format(node=node, says=HAPROXY_SAYS), node) as program,
        open_tidegate(certificate, node, upstream=upstream) as proxy,
    ):
        port = Address.parse(proxy.address(listener)).port
        answer = await ask(port, client_tls if listener == "secure" else None)

        head, _, body = answer.text.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 ")
        (record,) = await proxy.until_records(1)
        known = version == "v2" and peer == "haproxy"
        name = "localhost" if known and listener == "secure" else ""
        unique = record["id"] if known else ""
        assert body == f"{answer.client} 127.0.0.1:{port} [{name}] [{unique}]"
        assert not program.said("broken header")
