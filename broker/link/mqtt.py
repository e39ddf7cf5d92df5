"""The way to the broker over MQTT. Only this file and paho_client.py know paho."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt

from broker.address import BrokerAddress, is_loopback, parse_broker_urls
from broker.errors import AccessDenied
from broker.link.echo import Echo
from broker.link.inbox import MESSAGES_PER_SECOND, NOBODY, Delivery, Inbox, everything
from broker.link.mailbox import FairMailbox
from broker.link.paho_client import PahoClient
from broker.link.problems import ends_soon, explain, refusal, silent_end
from broker.link.subscriptions import Subscriptions
from broker.security.credentials import Credentials
from broker.security.tls import TlsSocket, tls_context
from broker.wire import topics

# Must exceed the time that the largest message takes: 1 MB at 0.5 Mbit/s is 17 s.
KEEPALIVE_SECONDS = 60
# A broker that restarts is back in seconds; a fleet that lost its uplink should not knock every second for hours.
RECONNECT_SECONDS = (1, 30)
# Between two answers to our own will: whoever copies that should not make us shout.
WILL_SECONDS = 1.0

# So many connections in a row that ended within so long behind a message of ours: the broker may have a limit for them.
SHORT_LIVED, SHORT_SECONDS = 3, 5.0

log = logging.getLogger("link")


class MqttLink:
    """A Link over MQTT 3.1.1. paho's thread does nothing but move bytes to and from the inbox.

    Brokers may accept a subscription or a message that their access rules forbid, and drop what it is about without a
    word: mosquitto does. So a link with a will subscribes to the will's topic too. What we announce there must come
    back; where it does not, these are somebody else's credentials.
    """

    def __init__(
        self,
        urls: str,
        name: str,
        will: tuple[str, bytes] | None = None,
        credentials: Credentials | None = None,
        wanted: Callable[[str], bool] = everything,
    ) -> None:
        """Start connecting, and go on trying until closed.

        urls: of the broker's nodes, with commas between. Behind each attempt the next one is tried.
        name: what the broker's log shows. A random part makes it a client id that nobody can guess: whoever connects
        under the same one ends our connection. Each connection has another one: a node of a cluster that died keeps
        what it knew of the id before.
        will: topic and payload of the retained message that the broker publishes when we are gone without a word.
        wanted: given the topic of what came in, whether it is to be delivered; called on the link's thread.
        Raises ConfigError where a URL is none or the credentials do not fit it.
        """
        addresses = parse_broker_urls(urls)
        self._credentials = credentials or Credentials()
        context = tls_context(addresses[0], self._credentials)
        for one in addresses if self._credentials.password else ():
            if not one.tls and not is_loopback(one.host):
                log.warning("the password goes to %s unencrypted: whoever listens can take it; use mqtts://", one)
        self._inbox = Inbox(wanted)
        self._connections = 0
        self._heard_at = time.monotonic()
        self._problems: dict[BrokerAddress, str] = {}  # of each node, why there is no connection to it
        self._reached: set[BrokerAddress] = set()
        self._came_up_at = 0.0
        self._short_lived = 0  # connections in a row that ended soon
        self._largest = 0  # bytes of the largest message on this connection
        self._greeted = False  # whether the broker said a word of MQTT on this connection
        self._subscriptions = Subscriptions()
        self._will = will
        self._own_topic = will[0] if will else None
        self._said: bytes | None = None  # what we announced last on this connection
        self._next_repeat = 0.0
        self._echo = Echo()
        self._client = PahoClient(name, addresses, self._connection_failed, self._ask_again)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_socket_open = self._on_socket_open
        self._client.on_socket_close = self._on_socket_close
        self._client.reconnect_delay_set(*RECONNECT_SECONDS)
        if self._credentials.username is not None:
            self._client.username_pw_set(self._credentials.username, self._credentials.password)
        if context:
            self._client.tls_set_context(context)
        if will:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.connect_async(addresses[0].host, addresses[0].port, KEEPALIVE_SECONDS)
        self._client.loop_start()

    @property
    def address(self) -> BrokerAddress:
        """The node that we are connected to, or that was tried last."""
        return self._client.address

    @property
    def connected(self) -> bool:
        return self._client.is_connected() and self._client.failure is None

    @property
    def connections(self) -> int:
        return self._connections

    @property
    def problem(self) -> str:
        return "" if self.connected else "; ".join(self._problems.values()) or f"connecting to {self.address}"

    @property
    def heard_at(self) -> float:
        return self._heard_at

    @property
    def dropped(self) -> int:
        return self._inbox.common.dropped

    def take_dropped(self) -> Counter[str]:
        return self._inbox.take_dropped()

    def know(self, senders: Iterable[str]) -> None:
        self._inbox.know(frozenset(senders))

    def subscribe(self, topic_filter: str) -> None:
        self._inbox.add_filter(topic_filter)
        if self.connected:
            self._ask_for(topic_filter)

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> FairMailbox[Delivery]:
        mailbox = self._inbox.add_mailbox(topic_filter, per_second)
        if self.connected:
            self._ask_for(topic_filter)
        return mailbox

    def let_go(self, topic_filter: str) -> None:
        self._inbox.remove_mailbox(topic_filter)
        if self.connected:
            self._client.unsubscribe(topic_filter)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        # paho would keep what is published while offline, without bound and only in memory.
        if not self.connected:
            return False
        self._largest = max(self._largest, len(payload))
        if topic == self._own_topic and retain:
            self._said = payload
        sent = self._client.publish(topic, payload, qos, retain)
        accepted = sent.rc == mqtt.MQTT_ERR_SUCCESS
        if topic == self._own_topic and qos and accepted:
            self._echo.announce(sent, time.monotonic())
        return accepted

    def receive(self, timeout: float) -> Delivery | None:
        if self._client.failure is not None:
            raise self._client.failure
        delivery = self._inbox.common.take(timeout)
        if not self._echo.heard and (self._own_topic or self._subscriptions.denied):
            self._check_access()
        return delivery

    def reconnect(self) -> None:
        sock = self._client.socket()
        if isinstance(sock, socket.socket):  # None while dialling
            with suppress(OSError):  # it may be going down by itself
                # Not ssl.SSLSocket's own: that takes the encryption away under paho, which may be reading.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        self._said = None
        if farewell and self.connected:
            sent = self._client.publish(farewell[0], farewell[1], qos=1, retain=True)
            sent.wait_for_publish(timeout=2)
        self._client.disconnect()
        self._client.loop_stop()

    def _check_access(self) -> None:
        whose = f"user {self._credentials.username!r}" if self._credentials.username else "these credentials"
        advice = "use the --credentials that belong to this name, or the name that belongs to these credentials"
        wanted = [topic_filter for topic_filter in self._wanted_filters() if topic_filter not in self._inbox.own]
        if denied := [topic_filter for topic_filter in wanted if topic_filter in self._subscriptions.denied]:
            raise AccessDenied(f"the broker at {self.address} forbids {whose} to read {' or '.join(denied)}: {advice}")
        if not all(map(self._subscriptions.is_granted, wanted)):
            return  # then no echo comes either, and that is no rule's doing
        if self.connected and self._echo.is_missing(time.monotonic()):
            raise AccessDenied(
                f"the broker at {self.address} lets {whose} in, but does not pass on what we publish on "
                f"{self._own_topic}: its access rules forbid it; {advice}"
            )

    def _wanted_filters(self) -> list[str]:
        filters = list(self._inbox.filters)  # in this order, so that states come in before what refers to them
        if self._own_topic and not any(topics.matches(one, self._own_topic) for one in filters):
            filters.append(self._own_topic)
        return filters

    def _ask_for(self, topic_filter: str) -> None:
        def send(topic_filter: str) -> int | None:
            return self._client.subscribe(topic_filter, qos=1)[1]

        self._subscriptions.ask(topic_filter, send, time.monotonic())

    def _ask_again(self) -> None:
        """Ask once more for what the broker refused, a while later: a cluster may only have been too slow."""
        if not self.connected:
            return
        for topic_filter in self._subscriptions.due(time.monotonic()):
            is_vital = topic_filter not in self._inbox.own
            if topic_filter not in self._wanted_filters():
                self._subscriptions.forget(topic_filter)  # it was let go
            elif is_vital and self._subscriptions.needs_another_connection(topic_filter):
                self._subscriptions.begin()
                self.reconnect()
                return
            else:
                self._ask_for(topic_filter)

    def _connection_failed(self, error: OSError | UnicodeError) -> None:
        self._note(explain(error, self.address, lost=self.address in self._reached))

    def _note(self, problem: str) -> None:
        self._problems = {**self._problems, self.address: problem}  # another one: other threads read it

    def _on_connect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._greeted = True
        if reason.is_failure:
            self._note(refusal(str(reason), self.address, self._credentials))
            return
        self._subscriptions.begin()
        self._said = None
        self._echo.begin()
        for topic_filter in self._wanted_filters():
            self._ask_for(topic_filter)
        self._heard_at = time.monotonic()
        self._connections += 1
        self._came_up_at, self._largest = self._heard_at, 0
        self._reached.add(self.address)
        self._problems = {self.address: f"lost the broker at {self.address}"}  # when this connection ends

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, number: int, reasons: list[Any], _properties: Any
    ) -> None:
        granted = not reasons[0].is_failure
        topic_filter = self._subscriptions.answer(number, granted=granted, now=time.monotonic())
        if not granted:
            says = "forbids us" if topic_filter in self._subscriptions.denied else "does not let us, for now,"
            log.warning("the broker at %s %s to read %s", self.address, says, topic_filter)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._heard_at = time.monotonic()
        try:
            topic = message.topic  # decoded each time that it is asked for
        except UnicodeDecodeError:  # not every broker refuses such a topic
            self._inbox.common.drop(NOBODY)
            return
        if topic == self._own_topic and not message.retain:
            self._echo.heard = True
            self._answer_will(bytes(message.payload))
        self._inbox.put(Delivery(topic, bytes(message.payload), message.retain))

    def _answer_will(self, payload: bytes | bytearray) -> None:
        """Say again that we are here, where the broker said the contrary over what we announced.

        It may find out late that a connection is dead: the one before this one, whose will it still has.
        """
        if self._will and payload == self._will[1] and self._said and time.monotonic() >= self._next_repeat:
            self._next_repeat = time.monotonic() + WILL_SECONDS
            self._client.publish(self._will[0], self._said, qos=1, retain=True)

    def _on_socket_open(self, _client: mqtt.Client, _data: Any, sock: Any) -> None:
        self._greeted = False
        # Nagle's algorithm off: receipts are small, and a full window waits for them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_socket_close(self, _client: mqtt.Client, _data: Any, sock: Any) -> None:
        if self._greeted:
            is_short = self._largest and time.monotonic() < self._came_up_at + SHORT_SECONDS
            self._short_lived = self._short_lived + 1 if is_short else 0
            if self._short_lived >= SHORT_LIVED:
                self._note(ends_soon(self.address, self._largest))
            return
        if isinstance(sock, TlsSocket) and isinstance(sock.failure, ssl.SSLError):
            self._note(explain(sock.failure, self.address))
        else:
            self._note(silent_end(self.address))
