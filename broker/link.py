"""The way to the broker: a small protocol, MQTT behind it, and an in-memory twin for programs in one process."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from broker.codec import RECEIVE_LIMIT_BYTES
from broker.errors import ConfigError
from broker.mailbox import Mailbox

# Must exceed the time that the largest message takes: 1 MB at 0.5 Mbit/s is 17 s.
KEEPALIVE_SECONDS = 60
# A broker that restarts is back in seconds; a fleet that lost its uplink should not knock every second for hours.
RECONNECT_SECONDS = (1, 30)
# Deliveries not yet read. A robot's window is a few messages, so a trainer has room for a good hundred robots.
INBOX_LIMIT = 1024


class Delivery(NamedTuple):
    """One message as it came in. retained: the broker kept it from before we subscribed."""

    topic: str
    payload: bytes
    retained: bool


class Link(Protocol):
    """Publishes and receives. Nothing here waits for the network except receive(), for as long as it is told."""

    @property
    def connected(self) -> bool:
        """Whether messages can leave now."""

    @property
    def connections(self) -> int:
        """How often the link has come up: a change means that retained states should be published again."""

    @property
    def trouble(self) -> str:
        """Why the link is down, for people; empty while it is up."""

    def subscribe(self, topic_filter: str) -> None:
        """Receive what matches, from now on and after every reconnection."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Hand a message to the broker; False (and nothing kept) while the link is down."""

    def receive(self, timeout: float) -> Delivery | None:
        """Return the next delivery, waiting up to timeout seconds; None where none came."""

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Publish a last retained message, if given, and let go of the connection."""


class BrokerAddress(NamedTuple):
    """Where a broker is."""

    host: str
    port: int
    tls: bool


def parse_broker_url(url: str) -> BrokerAddress:
    """Take mqtt://HOST[:PORT] or mqtts://HOST[:PORT] apart. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker {url!r}: {error}") from error
    if parts.username or parts.password:
        raise ConfigError(
            "the broker's URL holds a user or password, which every process list shows: put them into "
            "REFLEXARC_MQTT_USERNAME and REFLEXARC_MQTT_PASSWORD instead"
        )
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or port == 0 or parts.path.strip("/"):
        raise ConfigError(f"broker {url!r}: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, port or (8883 if tls else 1883), tls)


class MqttLink:
    """A Link over MQTT 3.1.1. paho's thread does nothing but move bytes to and from the inbox."""

    def __init__(self, url: str, client_id: str, will: tuple[str, bytes] | None = None) -> None:
        """Start connecting, and go on trying until closed.

        will: topic and payload of the retained message that the broker publishes when we are gone without a word.
        Raises ConfigError where the URL is none.
        """
        self.address = parse_broker_url(url)
        self._inbox: Mailbox[Delivery] = Mailbox(INBOX_LIMIT)
        self._filters: list[str] = []
        self._connections = 0
        self._trouble = f"no broker at {self.address.host}:{self.address.port}"
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311, clean_session=True
        )
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_socket_open = _send_at_once
        self._client.reconnect_delay_set(*RECONNECT_SECONDS)
        if username := os.environ.get("REFLEXARC_MQTT_USERNAME"):
            self._client.username_pw_set(username, os.environ.get("REFLEXARC_MQTT_PASSWORD"))
        if self.address.tls:
            self._client.tls_set_context(ssl.create_default_context())
        if will:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.connect_async(self.address.host, self.address.port, KEEPALIVE_SECONDS)
        self._client.loop_start()

    @property
    def connected(self) -> bool:
        return self._client.is_connected()

    @property
    def connections(self) -> int:
        return self._connections

    @property
    def trouble(self) -> str:
        return "" if self.connected else self._trouble

    @property
    def dropped(self) -> int:
        """How many deliveries were dropped because nobody read them or they were too large."""
        return self._inbox.dropped

    def subscribe(self, topic_filter: str) -> None:
        self._filters.append(topic_filter)
        if self.connected:
            self._client.subscribe(topic_filter, qos=1)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        # paho would keep what is published while offline, without bound and only in memory.
        return self.connected and self._client.publish(topic, payload, qos, retain).rc == mqtt.MQTT_ERR_SUCCESS

    def receive(self, timeout: float) -> Delivery | None:
        return self._inbox.take(timeout)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        if farewell and self.connected:
            sent = self._client.publish(farewell[0], farewell[1], qos=1, retain=True)
            sent.wait_for_publish(timeout=2)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._trouble = f"the broker at {self.address.host}:{self.address.port} refuses us: {reason}"
            return
        # In this order, so that states come in before what refers to them.
        for topic_filter in self._filters:
            client.subscribe(topic_filter, qos=1)
        self._connections += 1
        self._trouble = f"lost the broker at {self.address.host}:{self.address.port}"  # when this connection ends

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        # amqtt greets a client with all that is retained for the subscriptions of others.
        if not any(mqtt.topic_matches_sub(one, message.topic) for one in self._filters):
            return
        if len(message.payload) > RECEIVE_LIMIT_BYTES:
            self._inbox.dropped += 1
            return
        self._inbox.put(Delivery(message.topic, bytes(message.payload), message.retain))


def _send_at_once(_client: mqtt.Client, _data: Any, sock: Any) -> None:
    """Switch off Nagle's algorithm: receipts are small, and a full window waits for them."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class MemoryBroker:
    """Connects MemoryLinks in one process: retained messages and filters with '+', as a broker has them."""

    def __init__(self) -> None:
        self.links: list[MemoryLink] = []
        self.retained: dict[str, bytes] = {}

    def deliver(self, topic: str, payload: bytes, retain: bool) -> None:
        """Hand a message to every link that wants it."""
        if retain:
            self.retained[topic] = payload
        for link in self.links:
            link.offer(Delivery(topic, payload, retained=False))


class MemoryLink:
    """A Link without a network. ``connected`` may be set to False to try what an outage does."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.connected = True
        self.connections = 1
        self.trouble = ""
        self._broker = broker
        self._filters: list[str] = []
        self._inbox: Mailbox[Delivery] = Mailbox(INBOX_LIMIT)
        broker.links.append(self)

    def subscribe(self, topic_filter: str) -> None:
        self._filters.append(topic_filter)
        for topic, payload in self._broker.retained.items():
            if mqtt.topic_matches_sub(topic_filter, topic):
                self._inbox.put(Delivery(topic, payload, retained=True))

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if self.connected:
            self._broker.deliver(topic, payload, retain)
        return self.connected

    def offer(self, delivery: Delivery) -> None:
        """Take in a message that some link published, if a filter matches."""
        if self.connected and any(mqtt.topic_matches_sub(one, delivery.topic) for one in self._filters):
            self._inbox.put(delivery)

    def receive(self, timeout: float) -> Delivery | None:
        return self._inbox.take(timeout)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        if farewell:
            self.publish(*farewell, retain=True)
        self._broker.links.remove(self)
