"""The opening handshake: who is refused, what a node is asked, which 101 is believed."""

from __future__ import annotations

import attrs
import pytest

from proxy.errors import BadUpgrade, BadUpgradeResponse, OriginDenied, Refusal, WrongVersion
from proxy.wire.handshake import (
    check_upgrade,
    client_response,
    node_request,
    reserved_bits,
    wants_websocket,
)
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers, get

# The key and the answer to it that RFC 6455 section 1.3 gives.
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
CLIENT: dict[bytes, bytes] = {
    b"Host": b"rt.example.org",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}
NODE: dict[bytes, bytes] = {
    b"Upgrade": b"WebSocket",
    b"Connection": b"upgrade",
    b"Sec-WebSocket-Accept": ACCEPT,
}


def headers(base: dict[bytes, bytes], **changes: bytes | None) -> Headers:
    """Return headers with some changed, added or, by None, taken out."""
    changed: dict[bytes, bytes | None] = dict(base)
    changed.update({name.replace("_", "-").encode(): value for name, value in changes.items()})
    return [(name, value) for name, value in changed.items() if value is not None]


def check(**changes: bytes | None) -> None:
    check_upgrade(b"GET", b"/deepstream", b"1.1", headers(CLIENT, **changes), None)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Sec_WebSocket_Key": None}, BadUpgrade),
        ({"Sec_WebSocket_Key": b"short"}, BadUpgrade),
        ({"Sec_WebSocket_Key": b"AAAAAAAAAAAAAAAAAAAAAA"}, BadUpgrade),
        ({"Sec_WebSocket_Key": KEY + b" "}, BadUpgrade),
        ({"Sec_WebSocket_Version": None}, BadUpgrade),
        ({"Sec_WebSocket_Version": b"12"}, WrongVersion),
        ({"Connection": b"keep-alive"}, BadUpgrade),
        ({"Upgrade": b"h2c"}, BadUpgrade),
        ({"Host": None}, BadUpgrade),
        ({"Content_Length": b"5"}, BadUpgrade),
        ({"Transfer_Encoding": b"chunked"}, BadUpgrade),
    ],
)
def test_broken_handshakes(changes: dict[str, bytes | None], error: type[Refusal]) -> None:
    with pytest.raises(error) as caught:
        check(**changes)

    assert caught.value.status == (426 if error is WrongVersion else 400)


def test_two_keys_are_none() -> None:
    doubled = [*headers(CLIENT), (b"Sec-WebSocket-Key", KEY)]
    with pytest.raises(BadUpgrade):
        check_upgrade(b"GET", b"/", b"1.1", doubled, None)


def test_wrong_version_names_the_right_one() -> None:
    with pytest.raises(WrongVersion) as caught:
        check(Sec_WebSocket_Version=b"8")

    assert get(caught.value.headers, b"sec-websocket-version") == b"13"


@pytest.mark.parametrize(("method", "version"), [(b"POST", b"1.1"), (b"GET", b"1.0")])
def test_handshake_is_a_get_of_http_1_1(method: bytes, version: bytes) -> None:
    with pytest.raises(BadUpgrade):
        check_upgrade(method, b"/", version, headers(CLIENT), None)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(b"https://good.example", True), (b"https://evil.example", False), (None, True)],
)
def test_origins(origin: bytes | None, *, allowed: bool) -> None:
    asked = headers(CLIENT, Origin=origin)
    if allowed:
        upgrade = check_upgrade(b"GET", b"/", b"1.1", asked, ("https://good.example",))
        assert upgrade.accept == ACCEPT
    else:
        with pytest.raises(OriginDenied):
            check_upgrade(b"GET", b"/", b"1.1", asked, ("https://good.example",))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (headers(CLIENT), True),
        (headers(CLIENT, Upgrade=None), True),
        (headers(CLIENT, Upgrade=b"h2c"), True),
        ([(b"upgrade", b"WebSocket")], True),
        ([(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")], False),
        ([(b"Host", b"a")], False),
    ],
)
def test_any_sign_of_websocket_counts(given: Headers, *, expected: bool) -> None:
    assert wants_websocket(Request(b"GET", b"/", given)) is expected


def test_the_node_gets_the_clients_own_handshake() -> None:
    asked = headers(
        CLIENT,
        Connection=b"keep-alive, Upgrade, X-Hop",
        X_Hop=b"1",
        Sec_WebSocket_Protocol=b"a, b",
        Sec_WebSocket_Extensions=b"permessage-deflate; client_max_window_bits",
        Cookie=b"c=1",
        Authorization=b"Bearer t",
        Origin=b"https://o",
    )
    upgrade = check_upgrade(b"GET", b"/deepstream", b"1.1", asked, None)
    request = node_request(upgrade, ClientFacts("192.0.2.7", "https", 443, "id-1"))
    sent = dict(request.headers)

    assert (request.method, request.target) == (b"GET", b"/deepstream")
    for name in (b"host", b"cookie", b"authorization", b"origin", b"sec-websocket-key"):
        assert sent[name] == get(asked, name)
    assert sent[b"sec-websocket-protocol"] == b"a, b"
    assert sent[b"sec-websocket-extensions"] == b"permessage-deflate; client_max_window_bits"
    assert sent[b"connection"] == b"Upgrade"
    assert sent[b"x-forwarded-for"] == b"192.0.2.7"
    assert b"x-hop" not in sent


def test_changes_are_the_last_word() -> None:
    asked = headers(CLIENT, Cookie=b"c=1", Sec_WebSocket_Extensions=b"permessage-deflate")
    upgrade = check_upgrade(b"GET", b"/", b"1.1", asked, None)
    changes = ((b"cookie", None), (b"Host", b"other"), (b"X-Forwarded-For", b"6.6.6.6"))
    upgrade = attrs.evolve(upgrade, changes=changes).without_extensions()
    sent = dict(node_request(upgrade, ClientFacts("192.0.2.7", "https", 443, "id-1")).headers)

    assert b"cookie" not in sent
    assert b"sec-websocket-extensions" not in sent
    assert (sent[b"host"], sent[b"x-forwarded-for"]) == (b"other", b"6.6.6.6")
    # Where the client wanted to go is not lost.
    assert sent[b"x-forwarded-host"] == b"rt.example.org"


def test_extension_that_was_taken_out_of_the_offer_is_not_believed() -> None:
    asked = headers(CLIENT, Sec_WebSocket_Extensions=b"permessage-deflate")
    upgrade = check_upgrade(b"GET", b"/", b"1.1", asked, None).without_extensions()
    with pytest.raises(BadUpgradeResponse):
        client_response(upgrade, headers(NODE, Sec_WebSocket_Extensions=b"permessage-deflate"), "n")


def answer(**changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """Put a node's 101 to the check, the client having offered two subprotocols and deflate."""
    offer = {
        "Sec_WebSocket_Protocol": b"chat, Super",
        "Sec_WebSocket_Extensions": b"permessage-deflate; a=1, x-other",
    }
    upgrade = check_upgrade(b"GET", b"/", b"1.1", headers(CLIENT, **offer), None)
    return list(client_response(upgrade, headers(NODE, **changes), "node:1").headers)


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec_WebSocket_Accept": None},
        {"Sec_WebSocket_Accept": ACCEPT.lower()},
        {"Upgrade": None},
        {"Upgrade": b"h2c"},
        {"Connection": b"close"},
        {"Sec_WebSocket_Protocol": b"super"},
        {"Sec_WebSocket_Protocol": b"chat, Super"},
        {"Sec_WebSocket_Extensions": b"x-unasked"},
    ],
)
def test_wrong_101_is_not_believed(changes: dict[str, bytes | None]) -> None:
    with pytest.raises(BadUpgradeResponse) as caught:
        answer(**changes)

    assert (caught.value.status, caught.value.node) == (502, "node:1")


def test_right_101_goes_through() -> None:
    given = answer(
        Sec_WebSocket_Protocol=b"Super",
        Sec_WebSocket_Extensions=b"permessage-deflate; a=1",
        Set_Cookie=b"c=1",
        Keep_Alive=b"5",
    )

    assert given == [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", ACCEPT),
        (b"sec-websocket-protocol", b"Super"),
        (b"sec-websocket-extensions", b"permessage-deflate; a=1"),
        (b"set-cookie", b"c=1"),
    ]
    assert reserved_bits(given) == 0x40


@pytest.mark.parametrize(
    ("extensions", "bits"), [(None, 0), (b"permessage-deflate", 0x40), (b"x-unknown; y", 0x70)]
)
def test_reserved_bits(extensions: bytes | None, bits: int) -> None:
    assert reserved_bits(headers(NODE, Sec_WebSocket_Extensions=extensions)) == bits
