"""Probing: how fast the link to the trainer is, and how long the trainer takes for its half of a network."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from broker.errors import BrokerUnavailable, MalformedMessage, NoAnswer
from broker.link.base import Link
from broker.wire import topics
from broker.wire.bounds import SEND_LIMIT_BYTES
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Probe, ProbeResult, RobotState, SplitSpec

# How long the broker may take to let us in, and a trainer to answer the first probe.
CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 10.0
# Round trips of which the median is taken.
ROUND_TRIPS = 7
# The link is filled for so long. What it does at first is left out: shapers let a burst through.
FILL_SECONDS, BURST_SECONDS = 10.0, 2.0
# Probes on the way at a time, each about so long as the link takes in a quarter of a second.
UNDER_WAY, PROBE_SECONDS, FIRST_BYTES = 8, 0.25, 2000
# How long what is still on the way then is waited for: whatever is sent next would stand behind it.
DRAIN_SECONDS = 15.0
# When nothing at all has come for so long, what was on the way is lost: a broker drops messages where it is full.
LOST_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class LinkRate:
    """goodput: bytes a second, of payload. round_trip: seconds."""

    goodput: float
    round_trip: float


class Prober:
    """Sends probes and reads what comes back.

    heard_at: when a trainer last answered, by time.monotonic(); at first, when this began. robot_runs: whether the
    robot that it asks for is at work meanwhile.
    """

    def __init__(self, link: Link, robot: str) -> None:
        self._link = link
        self._robot = robot
        self._boot = secrets.token_hex(8)
        self._number = 0
        self.heard_at = time.monotonic()
        self.robot_runs = False
        self._open: dict[int, ProbeResult | None] = {}  # what was asked and not read yet
        self._state_topic = topics.topic("robot", robot, "state")
        link.know([topics.sender("robot", robot)])
        link.subscribe(self._state_topic)
        link.subscribe(topics.topic("robot", robot, "probe-result"))
        # A sealed probe names the trainer that is to answer, which must be heard before.
        link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))

    def reach(self) -> None:
        """Wait until a trainer answers. Raises BrokerUnavailable, and NoAnswer where none does."""
        give_up = time.monotonic() + CONNECT_SECONDS
        while not self._link.connected:
            if time.monotonic() > give_up:
                raise BrokerUnavailable(f"the broker cannot be reached ({self._link.problem})")
            self.read(0.1)
        give_up = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < give_up:
            if self._round_trip(1.0) is not None:
                return
        raise NoAnswer(
            "no cloud trainer answers: start cloud-trainer run --broker with the same URL. One that runs already, but "
            "is of an older version, or may not read probes, answers none: access rules are written anew by "
            "local-broker provision"
        )

    def link_rate(self, goodput: float = 0.0) -> LinkRate:
        """Measure the link by filling it for some seconds. goodput: bytes a second, to take as given instead."""
        trips = [trip for _ in range(ROUND_TRIPS) if (trip := self._round_trip(ANSWER_SECONDS)) is not None]
        if not trips:
            raise NoAnswer("the trainer stopped answering: is the link up?")
        return LinkRate(goodput=goodput or self._goodput(), round_trip=statistics.median(trips))

    def _round_trip(self, seconds: float) -> float | None:
        """Return how long an answer takes; None where none comes within so many seconds."""
        begin = time.monotonic()
        probe = self.probe()
        if not self.send(probe):
            self.read(0.1)
            return None
        while self.result(probe) is None and time.monotonic() < begin + seconds:
            self.read(max(0.0, begin + seconds - time.monotonic()))
        return time.monotonic() - begin if self._open.pop(probe.number) else None

    def _goodput(self) -> float:
        """Return the bytes a second that arrive while always some are on the way."""
        under_way: dict[int, int] = {}
        arrivals: list[tuple[float, int]] = []
        size, begin = FIRST_BYTES, time.monotonic()
        while time.monotonic() < begin + FILL_SECONDS:
            while len(under_way) < UNDER_WAY:
                # Noise, or whatever compresses on the way would make the link look faster than it is.
                probe = self.probe(rest=secrets.token_bytes(size))
                if not self.send(probe):
                    break
                under_way[probe.number] = size
            self.read(0.05)
            now = time.monotonic()
            arrived = [number for number in under_way if self._open[number]]
            arrivals += [(now, under_way[number]) for number in arrived]
            # They come in the order in which they were sent, so what is older than an arrival was lost.
            lost_up_to = max(under_way, default=0) if now > self.heard_at + LOST_SECONDS else max(arrived, default=-1)
            for number in [number for number in under_way if number <= lost_up_to]:
                del under_way[number], self._open[number]
            rate = sum(its for _, its in arrivals) / (now - begin)
            # No more than twice what has arrived: after a burst the rate looks a hundred times what it is.
            most = min(SEND_LIMIT_BYTES - 1000, 2 * max((its for _, its in arrivals), default=0))
            size = round(max(FIRST_BYTES, min(most, rate * PROBE_SECONDS)))
        self._drain(under_way)
        if not arrivals:
            raise NoAnswer("the link carried nothing within some seconds: is it up?")
        return steady_rate(arrivals, begin + BURST_SECONDS) or sum(its for _, its in arrivals) / FILL_SECONDS

    def _drain(self, under_way: Collection[int]) -> None:
        """Wait for what is on the way, or until it is lost."""
        give_up = time.monotonic() + DRAIN_SECONDS
        while any(self._open[number] is None for number in under_way):
            now = time.monotonic()
            if now > give_up or now > self.heard_at + LOST_SECONDS:
                break
            self.read(0.05)
        for number in under_way:
            del self._open[number]

    def probe(self, split: SplitSpec | None = None, rest: bytes = b"") -> Probe:
        """Return the next probe to send."""
        self._number += 1
        return Probe(boot=self._boot, number=self._number - 1, split=split, rest=rest)

    def send(self, probe: Probe) -> bool:
        """Publish a probe, perhaps again; False where the link is down."""
        # Nobody misses a lost one that measures the link, but a network's would be waited for.
        topic = topics.topic("robot", self._robot, "probe")
        sent = self._link.publish(topic, pack(probe), qos=1 if probe.split else 0)
        if sent:
            self._open.setdefault(probe.number, None)
        return sent

    def result(self, probe: Probe) -> ProbeResult | None:
        """Return what a probe found, as far as was read; None as long as that is not known."""
        return self._open.get(probe.number)

    def read(self, timeout: float) -> None:
        """Take in what has come, waiting up to timeout seconds for something."""
        while (delivery := self._link.receive(timeout)) is not None:
            timeout = 0.0
            try:
                if delivery.topic == self._state_topic:
                    self.robot_runs = unpack_as(RobotState, delivery.payload).online
                    continue
                result = unpack_as(ProbeResult, delivery.payload)
            except MalformedMessage:
                continue
            # Of several trainers' the first counts.
            if result.boot == self._boot and self._open.get(result.number, result) is None:
                self._open[result.number] = result
                self.heard_at = time.monotonic()


def steady_rate(arrivals: Sequence[tuple[float, int]], since: float) -> float:
    """Return the bytes a second of (time, bytes) in order, from the last one up to ``since``, or else the first one.

    0 where all came at once. Behind a loss TCP holds back what has come, and then hands it over in one instant. So time
    runs from one instant to another, and what came in the first of them does not count: it took the time before.
    """
    begin = max((at for at, _ in arrivals if at <= since), default=arrivals[0][0])
    later = [(at, its) for at, its in arrivals if at > begin]
    return sum(its for _, its in later) / (later[-1][0] - begin) if later else 0.0
