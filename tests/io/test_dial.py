"""Connecting to a node, and the error for each way in which that fails."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from proxy.config.address import Address
from proxy.config.load import parse_config
from proxy.errors import DialError, DialRefused, DialTimeout, Full, NodeTlsError
from proxy.io import dial as module
from proxy.io.contexts import make_contexts
from proxy.io.dial import dial
from proxy.io.node_security import NodeSecurity
from proxy.io.tls import TlsTransport
from proxy.io.transport import SocketTransport, take

from .rig import LIMIT


def refusing() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Address(host="127.0.0.1", port=listener.getsockname()[1])


async def test_connects() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        transport = await dial(address, None, limit=LIMIT)
        accepted, _ = listener.accept()
        await transport.send_all(b"hello")

        assert accepted.recv(5) == b"hello"
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        transport.close()
        accepted.close()


async def test_connects_to_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "node")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        transport = await dial(Address(path=path), None, limit=LIMIT)
        transport.close()
        with pytest.raises(DialError):
            await dial(Address(path=path + "-not"), None, limit=LIMIT)


async def test_header_goes_out_before_all_else(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """However long it is: the first one does not fit into any socket's buffer."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])

    async def serve(header: bytes) -> None:
        plain = await listener.accept()
        received = b""
        while len(received) < len(header):
            received += await plain.receive_some(len(header) - len(received))
        assert received == header
        stream = trio.SSLStream(plain, server_tls, server_side=True)
        await stream.send_all(b"hello")
        await trio.aclose_forcefully(stream)

    for header in (b"PROXY" * 2_000_000, b"PROXY UNKNOWN\r\n"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, header)
            security = NodeSecurity(client_tls, "localhost")
            transport = await dial(address, security, limit=LIMIT, header=header)
            assert await transport.receive_some() == b"hello"
            transport.close()
    await listener.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "unix"])
async def test_header_is_made_of_the_connections_ends(host: str, tmp_path: Path) -> None:
    def make(ends: tuple[Address, Address]) -> bytes:
        seen.append(ends)
        return b"x"

    seen: list[tuple[Address, Address]] = []
    family = {"::1": socket.AF_INET6, "unix": socket.AF_UNIX}.get(host, socket.AF_INET)
    with socket.socket(family) as listener:
        listener.bind(str(tmp_path / "s") if host == "unix" else (host, 0))
        listener.listen()
        path = str(tmp_path / "s") if host == "unix" else ""
        address = Address(path=path) if path else Address(host, listener.getsockname()[1])
        transport = await dial(address, None, limit=LIMIT, header=make)
        accepted, _ = listener.accept()

        assert accepted.recv(5) == b"x"
        ours = Address() if path else Address(host, transport.sock.getsockname()[1])
        assert seen == [(ours, Address() if path else address)]
        transport.close()
        accepted.close()


async def test_node_that_resets_what_it_was_sent_first() -> None:
    async def slam() -> None:
        transport = SocketTransport(take((await listener.accept()).socket))
        transport.abort()

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slam)
        with pytest.raises(DialError):
            await dial(address, None, limit=LIMIT, header=b"PROXY" * 2_000_000)
    await listener.aclose()


async def test_refused() -> None:
    with pytest.raises(DialRefused) as caught:
        await dial(address := refusing(), None, limit=LIMIT)

    assert (caught.value.node, caught.value.token) == (str(address), "connection_refused")


async def test_a_name_is_not_looked_up_here() -> None:
    with pytest.raises(ValueError, match="no-such-node"):
        await dial(Address(host="no-such-node.invalid", port=1), None, limit=LIMIT)


async def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(_: Address) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(module, "_connect", wait)
    with pytest.raises(DialTimeout):
        await dial(refusing(), None, limit=0.01)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EMFILE, Full),
        (errno.ENOMEM, Full),
        (errno.EADDRNOTAVAIL, Full),
        (errno.EAGAIN, Full),
        (errno.EHOSTUNREACH, DialError),
        (errno.ECONNRESET, DialError),
        (errno.ETIMEDOUT, DialTimeout),
    ],
)
async def test_what_the_system_says(
    number: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Address) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(number, "as the system has it")

    monkeypatch.setattr(module, "_connect", fail)
    with pytest.raises(error) as caught:
        await dial(refusing(), None, limit=LIMIT)

    assert type(caught.value) is error


async def serve_tls(listener: trio.SocketListener, context: ssl.SSLContext) -> None:
    stream = trio.SSLStream(await listener.accept(), context, server_side=True)
    try:
        await stream.do_handshake()
        await stream.send_all(b"hello")
    except trio.BrokenResourceError:
        pass
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("name", ["localhost", "other.example"])
async def test_tls(name: str, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls, listener, server_tls)
        security = NodeSecurity(client_tls, name)
        if name == "localhost":
            transport = await dial(address, security, limit=LIMIT)
            assert isinstance(transport, TlsTransport)
            assert await transport.receive_some() == b"hello"
            transport.close()
        else:
            with pytest.raises(NodeTlsError, match="Hostname mismatch"):
                await dial(address, security, limit=LIMIT)
    await listener.aclose()


@pytest.mark.parametrize("shown", [True, False])
async def test_node_that_wants_to_see_a_certificate(
    ca: trustme.CA, tmp_path: Path, *, shown: bool
) -> None:
    """TLS 1.2, where the handshake itself fails: in 1.3 a client learns it with the first read."""
    mine = ca.issue_cert("proxy.example")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = 'cert_file = "cert.pem", key_file = "key.pem",' if shown else ""
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "127.0.0.1:1" ]
        tls = {{ {certificate} ca_file = "ca.pem", server_name = "localhost" }}
    """
    contexts = make_contexts(parse_config(text, folder=tmp_path)).upstreams
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.maximum_version = ssl.TLSVersion.TLSv1_2
    strict.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("localhost").configure_cert(strict)
    ca.configure_trust(strict)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls, listener, strict)
        security = NodeSecurity(contexts["u"], "localhost")
        if shown:
            transport = await dial(address, security, limit=LIMIT)
            assert await transport.receive_some() == b"hello"
            transport.close()
        else:
            with pytest.raises(NodeTlsError):
                await dial(address, security, limit=LIMIT)
    await listener.aclose()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_session_is_taken_up_again(
    version: ssl.TLSVersion, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    """And where the node has lost it: one that was started anew has other keys for its tickets."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    security = NodeSecurity(client_tls, "localhost")
    reused = []
    for _ in range(2):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        ca.issue_cert("localhost").configure_cert(context)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_tls, listener, context)
                transport = await dial(address, security, limit=LIMIT)
                assert isinstance(transport, TlsTransport)
                assert await transport.receive_some() == b"hello"
                reused.append(transport.tls.session_reused)
                transport.close()
    await listener.aclose()

    assert reused == [False, True, True] * 2


async def test_tls_session_is_not_offered_again_after_a_failure(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    security = NodeSecurity(client_tls, "localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls, listener, server_tls)
        transport = await dial(address, security, limit=LIMIT)
        assert await transport.receive_some() == b"hello"
        transport.close()
    assert security.session(trio.current_time()) is not None

    async def hang_up() -> None:
        await (await listener.accept()).aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up)
        with pytest.raises(NodeTlsError):
            await dial(address, security, limit=LIMIT)
    await listener.aclose()

    assert security.session(trio.current_time()) is None


async def test_tls_of_an_unknown_authority(server_tls: ssl.SSLContext) -> None:
    stranger = ssl.create_default_context()
    trustme.CA().configure_trust(stranger)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls, listener, server_tls)
        with pytest.raises(NodeTlsError, match="not accepted"):
            await dial(address, NodeSecurity(stranger, "localhost"), limit=LIMIT)
    await listener.aclose()


async def test_plain_node_behind_tls() -> None:
    async def answer() -> None:
        stream = await listener.accept()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        security = NodeSecurity(ssl.create_default_context(), "localhost")
        with pytest.raises(NodeTlsError):
            await dial(address, security, limit=LIMIT)
    await listener.aclose()
