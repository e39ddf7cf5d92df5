"""Probing: how fast the link to the trainer is, and how long the trainer takes for its half of a network."""

from __future__ import annotations

import secrets
import statistics
import time
from dataclasses import dataclass

from broker import topics
from broker.codec import SEND_LIMIT_BYTES, pack, unpack_as
from broker.errors import ConfigError, MalformedMessage
from broker.link import Link
from broker.messages import Probe, ProbeResult, SplitSpec

# How long the broker may take to let us in, and a trainer to answer the first probe.
CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 10.0
# Round trips of which the median is taken.
ROUND_TRIPS = 7
# The link is filled for so long. What it does at first is left out: shapers let a burst through.
FILL_SECONDS, BURST_SECONDS = 6.0, 2.0
# Probes on the way at a time, each about so long as the link takes in a quarter of a second.
UNDER_WAY, PROBE_SECONDS, FIRST_BYTES = 8, 0.25, 2000


@dataclass(frozen=True, kw_only=True)
class LinkRate:
    """goodput: bytes a second, of payload. round_trip: seconds."""

    goodput: float
    round_trip: float


class Prober:
    """Sends probes and reads what comes back."""

    def __init__(self, link: Link, robot: str) -> None:
        self._link = link
        self._robot = robot
        self._boot = secrets.token_hex(8)
        self._number = 0
        self._results: dict[int, ProbeResult] = {}
        link.subscribe(topics.topic("robot", robot, "probe-result"))

    def reach(self) -> None:
        """Wait until a trainer answers. Raises ConfigError where none does."""
        give_up = time.monotonic() + CONNECT_SECONDS
        while not self._link.connected:
            if time.monotonic() > give_up:
                raise ConfigError(f"the broker cannot be reached ({self._link.trouble})")
            self._read(0.1)
        give_up = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < give_up:
            if self._await(self._send(), 1.0):
                return
        raise ConfigError(
            "no cloud trainer answers: start cloud-trainer run --broker with the same URL. One that runs already, but "
            "is of an older version, or may not read probes, answers none: access rules are written anew by "
            "local-broker provision"
        )

    def link_rate(self, goodput: float = 0.0) -> LinkRate:
        """Measure the link by filling it for some seconds. goodput: bytes a second, to take as given instead."""
        trips = []
        for _ in range(ROUND_TRIPS):
            sent_at = time.monotonic()
            if self._await(self._send(), ANSWER_SECONDS):
                trips.append(time.monotonic() - sent_at)
        if not trips:
            raise ConfigError("the trainer stopped answering: is the link up?")
        return LinkRate(goodput=goodput or self._goodput(), round_trip=statistics.median(trips))

    def _goodput(self) -> float:
        """Return the bytes a second that arrive while always some are on the way."""
        under_way: dict[int, int] = {}
        arrivals: list[tuple[float, int]] = []
        size, begin = FIRST_BYTES, time.monotonic()
        while time.monotonic() < begin + FILL_SECONDS:
            while len(under_way) < UNDER_WAY:
                under_way[self._send(size)] = size
            self._read(0.05)
            now = time.monotonic()
            arrivals += [(now, under_way.pop(number)) for number in [*under_way] if self._results.pop(number, None)]
            rate = sum(its for _, its in arrivals) / (now - begin)
            size = round(min(SEND_LIMIT_BYTES - 1000, max(FIRST_BYTES, rate * PROBE_SECONDS)))
        steady = [arrival for arrival in arrivals if arrival[0] >= begin + BURST_SECONDS]
        if len(steady) > 1 and steady[-1][0] > steady[0][0]:
            return sum(its for _, its in steady[1:]) / (steady[-1][0] - steady[0][0])
        if not arrivals:
            raise ConfigError("the link carried nothing within some seconds: is it up?")
        return sum(its for _, its in arrivals) / FILL_SECONDS

    def ask(self, split: SplitSpec) -> int:
        """Ask the trainer to time its half; return the number of the probe."""
        return self._send(split=split)

    def result(self, number: int) -> ProbeResult | None:
        """Return what a probe found, without waiting; None as long as that is not known."""
        self._read(0.0)
        return self._results.pop(number, None)

    def _send(self, size: int = 0, split: SplitSpec | None = None) -> int:
        # Noise, or whatever compresses on the way would make the link look faster than it is.
        probe = Probe(boot=self._boot, number=self._number, split=split, rest=secrets.token_bytes(size))
        # A lost one is nothing to the link's rate, but a network's would be waited for.
        self._link.publish(topics.topic("robot", self._robot, "probe"), pack(probe), qos=1 if split else 0)
        self._number += 1
        return self._number - 1

    def _await(self, number: int, seconds: float) -> ProbeResult | None:
        give_up = time.monotonic() + seconds
        while number not in self._results and time.monotonic() < give_up:
            self._read(max(0.0, give_up - time.monotonic()))
        return self._results.pop(number, None)

    def _read(self, timeout: float) -> None:
        while (delivery := self._link.receive(timeout)) is not None:
            timeout = 0.0
            try:
                result = unpack_as(ProbeResult, delivery.payload)
            except MalformedMessage:
                continue
            if result.boot == self._boot and result.number < self._number:
                self._results[result.number] = result
