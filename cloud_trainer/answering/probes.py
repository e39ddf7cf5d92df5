"""Answers robots that plan where to cut: at once what only measures the link, and how long their other half takes here.

A thread of its own answers the former, so that no training step is taken for the link's delay. The training thread
times networks, between two steps, as building one draws random numbers that training must not miss.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from broker.errors import ConfigError, MalformedMessage, ReflexarcError
from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.program.threads import LoudThread
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Probe, ProbeResult, SplitSpec
from broker.wire.quantize import MAX_BITS, Quantized, dequantize, pack_activations, unpack_activations
from cloud_trainer.cost import Cost, check_time, cost_of, machine_speed, timed_samples
from hierarchy.cloud import CloudSegment, CloudTrainer, fastest_compute
from hierarchy.device import Compute, step_seconds
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.command_line import SparseLog

# Robots that wait for a network to be timed; each for one, as it asks for one after the other.
MAX_WAITING = 16
# Results that are kept, in case the robot asks again as the first did not reach it.
MAX_RESULTS = 64
# Networks of which the fastest way to compute is remembered.
MAX_NETWORKS = 32
# How long a network's steps are timed.
TIMING_SECONDS = 1.5

log = logging.getLogger("cloud-trainer")


class Probes:
    """The training thread calls time_next() between steps; ``work`` runs on a thread of its own."""

    def __init__(
        self, link: Link, batch: int, device: torch.device, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._batch = batch
        self._device = device
        self._clock = clock
        self._mailbox = link.mailbox(topics.topic("robot", topics.ANYONE, "probe"))
        self._waiting: OrderedDict[str, Probe] = OrderedDict()
        self._results: OrderedDict[str, ProbeResult] = OrderedDict()
        self._lock = threading.Lock()  # of the two above
        self._rest_until = float("-inf")
        self._computes: OrderedDict[SplitSpec, Compute] = OrderedDict()
        self._garbage = SparseLog(log)
        self._thread = LoudThread("probes", self._run, restarts=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop, within a moment."""
        self._thread.close()

    def time_next(self, room: int, *, training: bool, may_ask: Callable[[str], bool] = lambda robot: True) -> bool:
        """Time one network, if one is due, and tell its robot; whether there was one.

        room: bytes for its weights. training: whether robots train, for whom half of the time is kept. may_ask: whether
        a robot is to be answered.
        """
        with self._lock:
            if not self._waiting or (training and self._clock() < self._rest_until):
                return False
            robot, probe = self._waiting.popitem(last=False)
        if not may_ask(robot):
            return False
        assert probe.split is not None
        begun, seconds, trouble = self._clock(), 0.0, ""
        try:
            seconds = self._training_seconds(probe.split, room)
        # What a robot asks for is built from its own words: whatever building, or a step, makes of them is its trouble.
        except (ReflexarcError, RuntimeError, ValueError, MemoryError) as error:
            trouble = str(error)[:200] or type(error).__name__
        self._rest_until = 2 * self._clock() - begun
        result = _result(probe, seconds=seconds, samples=0 if trouble else self._batch, trouble=trouble)
        with self._lock:
            self._results[robot] = result
            if len(self._results) > MAX_RESULTS:
                self._results.popitem(last=False)
        self._publish(robot, result)
        return True

    def _training_seconds(self, split: SplitSpec, room: int) -> float:
        """Return how long a training step of a split's cloud half takes here, unpacking included.

        room: bytes for its weights. Raises ConfigError where it has none, or the split is impossible.
        """
        cost = cost_of(split, self._batch, self._device)
        if cost.network + cost.work > room:
            raise ConfigError(f"this trainer has {max(0, room) / 1e9:.2f} GB left for networks (--networks-gb)")
        check_time(cost, machine_speed(self._device))
        with TorchRandom(0, self._device):
            segment = CloudSegment(split, weights="none")
            if cost.network + cost.work + cost.measuring > room:
                raise ConfigError("this trainer has no room to time it (--networks-gb)")
            compute = self._compute(segment, split, cost)
            trainer = CloudTrainer(segment, compute=compute, peak_learning_rate=0.0)
        codes = np.random.default_rng(0).integers(0, 2**split.bits, (self._batch, *split.shape), np.uint8)
        spread = np.full(split.shape[0], 2 / 2**split.bits, np.float32)
        packed = pack_activations(Quantized(codes=codes, low=-spread, step=spread, bits=split.bits))
        names = [str(index % 2) for index in range(self._batch)]

        def step() -> None:
            trainer.step(dequantize(unpack_activations(packed)), names, fresh=self._batch, progress=None)

        return step_seconds(step, TIMING_SECONDS)

    def _compute(self, segment: CloudSegment, split: SplitSpec, cost: Cost) -> Compute:
        """Return the fastest way to compute, which takes seconds to find, and does not depend on the number of bits."""
        network = dataclasses.replace(split, bits=MAX_BITS)
        if network not in self._computes:
            self._computes[network] = fastest_compute(
                segment, split.shape, timed_samples(cost, self._batch, self._device), self._device
            )
            if len(self._computes) > MAX_NETWORKS:
                self._computes.popitem(last=False)
        return self._computes[network]

    def _run(self, ending: threading.Event) -> None:
        while not ending.is_set():
            self.work(timeout=0.2)

    def work(self, timeout: float) -> None:
        """Answer the next probe, waiting up to timeout seconds for one, or leave it to training."""
        if (delivery := self._mailbox.take(timeout)) is None:
            return
        try:
            robot, probe = _read(delivery)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a probe: {error}")
            return
        result = self._wait(robot, probe) if probe.split else _result(probe)
        if result:
            self._publish(robot, result)

    def _wait(self, robot: str, probe: Probe) -> ProbeResult | None:
        """Let a network wait for training, in place of the robot's last one; or return what is known of it."""
        with self._lock:
            known = self._results.get(robot)
            if known and (known.boot, known.number) == (probe.boot, probe.number):
                return known
            if robot not in self._waiting and len(self._waiting) >= MAX_WAITING:
                return _result(probe, trouble="this trainer has too many networks to time: try again in some minutes")
            self._waiting[robot] = probe
        return None

    def _publish(self, robot: str, result: ProbeResult) -> None:
        self._link.publish(topics.topic("robot", robot, "probe-result"), pack(result))


def _result(probe: Probe, *, seconds: float = 0.0, samples: int = 0, trouble: str = "") -> ProbeResult:
    return ProbeResult(boot=probe.boot, number=probe.number, seconds=seconds, samples=samples, trouble=trouble)


def _read(delivery: Delivery) -> tuple[str, Probe]:
    if delivery.retained:
        raise MalformedMessage("it was kept by the broker, and whoever asked is not waiting any more")
    return topics.parse(delivery.topic).name, unpack_as(Probe, delivery.payload)
