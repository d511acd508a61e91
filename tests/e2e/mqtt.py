"""A real MQTT client: paho's, whose thread tells Trio what comes."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import CallbackAPIVersion

from .program import deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .harness import Certificate

PATIENCE = 15.0


@attrs.define(eq=False)
class Device:
    """A client that connects again, by itself, and subscribes again when it has."""

    client: paho.Client
    #: What paho has told: a word, and what belongs to it.
    _told: trio.MemoryReceiveChannel[tuple[str, Any]]
    #: Of what was told, that nobody has asked for yet.
    _kept: list[tuple[str, Any]] = attrs.field(factory=list)

    async def until(self, word: str) -> Any:
        """Return what belongs to the next of these words."""
        with deadline(PATIENCE, f"a device to be told of a {word}"):
            while True:
                for one in self._kept:
                    if one[0] == word:
                        self._kept.remove(one)
                        return one[1]
                self._kept.append(await self._told.receive())

    async def subscribe(self, topic: str) -> None:
        """Subscribe, and wait until that is confirmed: twice, as an event and as a record."""
        self.client.subscribe(topic)
        for _ in range(2):
            await self.until("subscription")

    def publish(self, topic: str, payload: str) -> None:
        self.client.publish(topic, payload)

    async def message(self) -> tuple[str, str]:
        """Return the topic and the payload of the next message."""
        topic, payload = await self.until("message")
        return topic, payload


@contextlib.asynccontextmanager
async def open_device(address: str, certificate: Certificate, name: str) -> AsyncIterator[Device]:
    """Connect to host:port over TLS, trusting the test's CA only, and log in."""
    host, port = address.rsplit(":", 1)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.username_pw_set(name)
    client.tls_set(ca_certs=certificate.ca_file)
    client.reconnect_delay_set(min_delay=1, max_delay=1)
    # What one test has a client told is less.
    tell, told = trio.open_memory_channel[tuple[str, Any]](1000)
    _listen(client, tell)
    with deadline(PATIENCE, f"a connection to {address}"):
        await trio.to_thread.run_sync(partial(client.connect, host, int(port), keepalive=60))
    client.loop_start()
    try:
        device = Device(client, told)
        assert await device.until("connection") == "Success"
        yield device
    finally:
        client.disconnect()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            await trio.to_thread.run_sync(client.loop_stop)


def _listen(client: paho.Client, channel: trio.MemorySendChannel[tuple[str, Any]]) -> None:
    token = trio.lowlevel.current_trio_token()

    def tell(word: str, what: object) -> None:
        trio.from_thread.run_sync(channel.send_nowait, (word, what), trio_token=token)

    client.on_connect = lambda _, __, ___, reason, ____: tell("connection", str(reason))
    client.on_subscribe = lambda _, __, number, *___: tell("subscription", number)
    client.on_message = lambda _, __, one: tell("message", (one.topic, one.payload.decode()))
    client.on_disconnect = lambda _, __, ___, reason, ____: tell("disconnection", str(reason))
