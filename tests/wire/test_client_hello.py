"""What a TLS client asks for: from real ClientHellos however they come, and from bad ones."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadClientHello
from proxy.wire.alert import Alert
from proxy.wire.client_hello import MAX_HELLO, ClientHello

NAME = "rt.example.org"
Version = ssl.TLSVersion


def openssl_hello(name: str | None, newest: Version = Version.TLSv1_3) -> bytes:
    """Return what OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = newest
    context.set_alpn_protocols(["mqtt", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def vector(head: int, content: bytes) -> bytes:
    return len(content).to_bytes(head, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, content)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes((kind,)) + vector(2, name) for name in names)
    return extension(0, vector(2, listed))


def message(extensions: bytes | None, *, kind: int = 1, more: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01") + b"\x01\0"
    if extensions is not None:
        body += vector(2, extensions)
    return bytes((kind,)) + vector(3, body + more)


def record(payload: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes((kind,)) + version + vector(2, payload)


def hello(extensions: bytes | None) -> bytes:
    return record(message(extensions))


def fed(pieces: Iterable[bytes]) -> ClientHello:
    """Feed pieces until it is done."""
    one = ClientHello()
    for piece in pieces:
        assert not one.done
        one.receive(piece)
    return one


def whole(data: bytes) -> ClientHello:
    return fed([data])


def bytewise(data: bytes) -> ClientHello:
    return fed(bytes((byte,)) for byte in data)


@pytest.mark.parametrize("feed", [whole, bytewise])
@pytest.mark.parametrize("newest", [Version.TLSv1_2, Version.TLSv1_3])
@pytest.mark.parametrize("name", [NAME, None])
def test_openssl_asks(name: str | None, newest: Version, feed: Callable[..., ClientHello]) -> None:
    data = openssl_hello(name, newest)
    one = feed(data)

    assert (one.done, one.tls, one.name) == (True, True, name or "")
    assert one.received == data


def test_it_is_not_done_before_its_last_byte() -> None:
    data = openssl_hello(NAME)
    for cut in range(len(data)):
        one = whole(data[:cut])
        assert not one.done
        one.receive(data[cut:])
        assert (one.done, one.name) == (True, NAME)
        assert one.received == data


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("feed", [whole, bytewise])
def test_one_message_in_many_records(size: int, feed: Callable[..., ClientHello]) -> None:
    payload = openssl_hello(NAME)[5:]
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    one = feed(b"".join(map(record, pieces)))

    assert (one.done, one.name) == (True, NAME)


def test_what_comes_behind_it_is_kept() -> None:
    """Early data of TLS 1.3, in the same segment."""
    data = openssl_hello(NAME) + record(bytes(500), kind=23)
    one = whole(data)

    assert (one.name, bytes(one.received)) == (NAME, data)


@pytest.mark.parametrize(
    ("extensions", "name"),
    [
        (None, ""),
        (b"", ""),
        (extension(16, b"\0\0"), ""),
        (server_name(b"RT.Example.org"), NAME),
        (extension(21, bytes(900)) + server_name(b"rt.example.org."), NAME),
        (server_name(b"localhost"), "localhost"),
        (server_name(b"under_score.xn--bcher-kva.example"), "under_score.xn--bcher-kva.example"),
        # As some clients do, against RFC 6066: a name like any other.
        (server_name(b"192.0.2.7"), "192.0.2.7"),
    ],
)
def test_names(extensions: bytes | None, name: str) -> None:
    one = whole(hello(extensions))

    assert (one.done, one.tls, one.name) == (True, True, name)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x10\x0c\0\x04MQTT", b"\x80\x2e\x01\x03\x01", b"\x16\x02\0"]
)
def test_another_protocol_asks_for_nothing(data: bytes) -> None:
    one = whole(data)

    assert (one.done, one.tls, one.name) == (True, False, "")
    assert one.received == data


def test_of_one_byte_nothing_is_known() -> None:
    one = whole(b"\x16")

    assert (one.done, one.tls) == (False, False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record(b"\x02\x28", kind=21, version=b"\x03\x01"), None),
        (record(b""), "Within the ClientHello is a record of something else."),
        (record(bytes(2**14 + 1)), "A record of the ClientHello is too long."),
        (
            record(message(b"")[:5]) + record(bytes(9), kind=23),
            "Within the ClientHello is a record of something else.",
        ),
        (record(message(b"", kind=2)), "The TLS handshake begins with another message."),
        (record(b"\x01\0\xff\xff"), f"The ClientHello is longer than {MAX_HELLO} bytes."),
        (record(b"\x01\0\0\x05" + bytes(5)), "The ClientHello ends within a field."),
        (hello(b"\0\0\0\x09"), "The ClientHello ends within a field."),
        (
            record(message(b"", more=b"x")),
            "Something stands behind the extensions of the ClientHello.",
        ),
        (hello(server_name(b"a") * 2), "The ClientHello has two lists of names."),
        (
            hello(extension(0, vector(2, b"\0\0\x01a") + b"x")),
            "Something stands behind the names of the ClientHello.",
        ),
        (hello(server_name(b"a", b"b")), "The ClientHello asks for several names, or for none."),
        (hello(server_name(b"a", kind=1)), "The ClientHello asks for several names, or for none."),
        (hello(server_name()), "The ClientHello asks for several names, or for none."),
        *(
            (hello(server_name(name)), "The ClientHello asks for a name that is none.")
            for name in (b"", b"a..b", b".a", b"a b", b"a\n", b"b\xc3\xbccher", b"*.a", b"a" * 254)
        ),
    ],
)
def test_malformed(data: bytes, reason: str | None) -> None:
    if reason is None:
        # An alert is no beginning of TLS at all.
        assert not whole(data).tls
        return
    for feed in (whole, bytewise):
        with pytest.raises(BadClientHello) as caught:
            feed(data)

        assert caught.value.detail == reason


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (record(b""), Alert.UNEXPECTED_MESSAGE),
        (record(message(b"", kind=2)), Alert.UNEXPECTED_MESSAGE),
        (record(bytes(2**14 + 1)), Alert.RECORD_OVERFLOW),
        (record(b"\x01\0\xff\xff"), Alert.ILLEGAL_PARAMETER),
        (hello(server_name(b"a") * 2), Alert.ILLEGAL_PARAMETER),
        (hello(b"\0\0\0\x09"), Alert.DECODE_ERROR),
        (hello(server_name()), Alert.DECODE_ERROR),
        (hello(server_name(b"b\xc3\xbccher")), Alert.UNRECOGNIZED_NAME),
    ],
)
def test_what_tls_says_of_it(data: bytes, alert: Alert) -> None:
    with pytest.raises(BadClientHello) as caught:
        whole(data)

    assert caught.value.alert == alert


GREASE = 0x0A0A


@pytest.mark.parametrize("feed", [whole, bytewise])
def test_a_hello_as_browsers_send_it(feed: Callable[..., ClientHello]) -> None:
    """A post-quantum key share (X25519MLKEM768) of 1216 bytes, ECH, GREASE: more than a segment."""
    share = GREASE.to_bytes(2, "big") + vector(2, b"\0")
    share += (0x11EC).to_bytes(2, "big") + vector(2, bytes(1216))
    share += (0x001D).to_bytes(2, "big") + vector(2, bytes(32))
    encrypted = b"\0\0\x01\0\x01\x2a" + vector(2, bytes(32)) + vector(2, bytes(240))
    data = hello(
        extension(GREASE, b"")
        + extension(51, vector(2, share))
        + extension(0xFE0D, encrypted)
        + server_name(NAME.encode())
        + extension(GREASE, b"\0")
    )

    assert len(data) > 1460
    one = feed(data)
    assert (one.done, one.name) == (True, NAME)


def test_it_has_to_be_whole_before_too_much_has_come() -> None:
    """Many small records are within the limit of the message, and not within that of bytes."""
    one = ClientHello()
    one.receive(record(b"\x01\0\x30\0"))
    while one.room >= 12:
        one.receive(record(b"\0"))
    assert not one.done
    with pytest.raises(BadClientHello, match="longer than"):
        one.receive((record(b"\0") * 2)[: one.room])


def test_a_hello_may_fill_the_limit() -> None:
    room = MAX_HELLO - len(hello(extension(21, b"") + server_name(NAME.encode())))
    data = hello(extension(21, bytes(room)) + server_name(NAME.encode()))

    assert len(data) == MAX_HELLO
    assert whole(data).name == NAME
    assert bytewise(data).name == NAME


@given(st.data())
def test_it_is_read_or_refused_whatever_comes(data: st.DataObject) -> None:
    """Real ones with bytes changed, cut out, put in; in any pieces: the outcome is the same."""
    original = bytearray(openssl_hello(NAME))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(original) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "put"]))
        new = data.draw(st.binary(min_size=1, max_size=3))
        end = {"change": at + len(new), "cut": at + len(new), "put": at}[kind]
        original[at:end] = b"" if kind == "cut" else new
        if not original:
            break
    assert outcome(bytes(original), [len(original)]) == outcome(
        bytes(original), data.draw(st.lists(st.integers(1, 200), max_size=30))
    )


@given(st.binary(max_size=300))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    for begin in (b"", b"\x16\x03", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc"):
        outcome(begin + noise, [])


def outcome(data: bytes, sizes: list[int]) -> tuple[object, ...]:
    """Return what is known after pieces of these sizes and the rest."""
    one = ClientHello()
    try:
        for size in [*sizes, len(data)]:
            piece, data = data[:size], data[size:]
            one.receive(piece)
    except BadClientHello as exc:
        return ("bad", exc.detail)
    return one.done, one.tls, one.name
