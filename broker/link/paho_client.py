"""paho's client, as a link wants it. What paho has no way to be told is done here, and nowhere else."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from broker.address import BrokerAddress

# What is read of the socket at once: some hundred small messages, of which the first is not held up by the last.
READ_BYTES = 32_768

log = logging.getLogger("link")


class PahoClient(mqtt.Client):
    """A paho client that says why a connection failed: in a thread of its own, paho only tries again.

    What was on the way when a connection broke is gone with it. paho would send all of it again with the next one,
    before anything new; so does whoever wants it to arrive, and each connection lost would double what goes up.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[BrokerAddress],
        failed: Callable[[OSError | UnicodeError], None],
        turn: Callable[[], None],
    ) -> None:
        """addresses: of the broker's nodes. failed: told why there is no connection to ``address``.

        turn: called on paho's thread, at least once a second while there is a connection.
        """
        super().__init__(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311, clean_session=True)
        self.address = addresses[0]  # where we are, or tried last to be
        self._left = list(addresses)  # the next one first
        self._name = name
        self._failed = failed
        self._turn = turn
        self.failure: BaseException | None = None  # what ended paho's thread
        self._unread = memoryview(b"")

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """Do what paho's thread does, and keep what ends it: paho would only leave a link that is silent for ever."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except BaseException as error:
            log.exception("the link's thread has failed")
            self.failure = error
            return MQTTErrorCode.MQTT_ERR_UNKNOWN

    def reconnect(self) -> MQTTErrorCode:
        """Dial the next node, and behind it the others, until one answers. Raises OSError where none does.

        A node that lets nobody in, or ended the last connection, has had its turn then.
        """
        self.drop_out_messages()
        for _ in self._left[1:]:
            with suppress(OSError):
                return self._dial()
            if self._thread_terminate:  # the link is being closed
                break
        return self._dial()

    def _dial(self) -> MQTTErrorCode:
        self.address = self._left.pop(0)
        self._left.append(self.address)
        self._host, self._port = self.address.host, self.address.port
        self._unread = memoryview(b"")
        self._client_id = f"{self._name}-{secrets.token_hex(8)}".encode()  # paho has no other way to change it
        try:
            return super().reconnect()
        except UnicodeError as error:  # a name that no DNS could hold; it would end paho's thread
            self._failed(error)
            raise OSError(str(error)) from error
        except OSError as error:
            self._failed(error)
            raise

    def loop_misc(self) -> MQTTErrorCode:
        self._turn()
        return super().loop_misc()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Handle all packets that have come. paho waits for the socket before each, though it has some read already."""
        rc = super().loop_read(max_packets)
        while rc == mqtt.MQTT_ERR_SUCCESS and self._unread and self._sock is not None:
            rc = super().loop_read(max_packets)
        return rc

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho reads each packet with three or more system calls. With this a small message of a flood costs 19
        # microseconds of this thread in place of 26.
        if not self._unread:
            self._unread = memoryview(super()._sock_recv(max(bufsize, READ_BYTES)))
        part, self._unread = self._unread[:bufsize], self._unread[bufsize:]
        return bytes(part)
