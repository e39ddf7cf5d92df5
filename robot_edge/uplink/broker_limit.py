"""Messages that the broker lets through: which size it takes is tried, and what is larger is cut."""

from __future__ import annotations

import logging
import math
from contextlib import suppress

from broker.errors import MalformedMessage
from broker.link.base import Link
from broker.wire import topics
from broker.wire.bounds import SEND_LIMIT_BYTES
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Probe, ProbeResult
from robot_edge.uplink.batching import Batching
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.pacing import Pace

# A trainer answers a probe at once, but the probe may have to wait for a slow link, or a busy computer.
PROBE_SECONDS = 30.0
# Messages that are cut while the main loop waits, and how often; each takes milliseconds.
CUT_AT_ONCE, CUT_SECONDS = 8, 0.2

log = logging.getLogger("robot-edge")


class BrokerLimit:
    """Finds the broker's limit with probes, and keeps the outbox below it."""

    def __init__(self, link: Link, robot: str, boot: str, outbox: Outbox, batching: Batching, pace: Pace) -> None:
        self._link = link
        self._boot = boot
        self._outbox = outbox
        self._batching = batching
        self._pace = pace
        self._topic = topics.topic("robot", robot, "probe")
        self._probe = 0  # number of the next one
        self._probes_until = math.inf
        self._next_cut = 0.0
        self._uncut: set[int] = set()  # messages of one sample that the broker lets not through
        # In a mailbox: access rules of an older version forbid to read it, and it can be done without.
        self._probe_results = link.mailbox(topics.topic("robot", robot, "probe-result"))

    def try_sizes(self, now: float) -> None:
        """Send probes where messages seem to be too large for the broker; stop where the trainer answers none."""
        limit = self._pace.size_limit
        while (delivery := self._probe_results.take(0.0)) is not None:
            with suppress(MalformedMessage):
                result = unpack_as(ProbeResult, delivery.payload)
                if result.boot == self._boot and limit.answered(result.number):
                    self.say_limit()
        if sizes := limit.to_try:
            numbers = self._probe, self._probe + 1
            self._probe += 2
            for number, size in zip(numbers, sizes, strict=True):
                probe = Probe(boot=self._boot, number=number, split=None, rest=bytes(size))
                self._link.publish(self._topic, pack(probe), qos=1)
            limit.sent(*numbers)
            self._probes_until = now + PROBE_SECONDS
        elif now > self._probes_until:
            self._probes_until = math.inf
            limit.give_up()

    def say_limit(self) -> None:
        """Tell people what the broker takes, and what to do about it."""
        log.warning(
            "the broker lets no message of %s bytes through: sending at most %s from now on; raise its limit "
            "(mosquitto: max_packet_size and message_size_limit) to more than %s bytes",
            f"{2 * self._pace.size_limit.limit:,}",
            f"{self._pace.size_limit.limit:,}",
            f"{SEND_LIMIT_BYTES:,}",
        )

    def cut(self, now: float) -> None:
        """Cut messages in the outbox that the broker does not let through. What was sent of them did not arrive."""
        limit = self._pace.size_limit.limit
        if limit >= SEND_LIMIT_BYTES or now < self._next_cut:
            return
        self._next_cut = now + CUT_SECONDS
        for stored in self._outbox.larger_than(limit, CUT_AT_ONCE + len(self._uncut)):
            if stored.id in self._uncut:
                continue
            parts = self._batching.cut(stored.payload, self._pace.message_limit)
            if all(len(part.payload) < len(stored.payload) for part in parts):
                self._outbox.replace(stored.id, parts)
            else:
                self._uncut.add(stored.id)
                log.warning(
                    "one sample takes %s bytes, and the broker lets no message of more than %s through: such samples "
                    "wait in the outbox; raise the broker's limit, or use fewer --bits or a smaller --bottleneck",
                    f"{len(stored.payload):,}",
                    f"{limit:,}",
                )
