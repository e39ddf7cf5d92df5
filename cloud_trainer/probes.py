"""Answers robots that plan where to cut: at once what only measures the link, and how long their other half takes here.

A thread of its own answers the former, so that no training step is taken for the link's delay. The main thread times
networks, between two steps, as building one draws random numbers that training must not miss.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from broker import topics
from broker.codec import pack, unpack_as
from broker.errors import ConfigError, MalformedMessage
from broker.link import Delivery, Link
from broker.mailbox import Mailbox
from broker.messages import Probe, ProbeResult, SplitSpec
from broker.quantize import Quantized, dequantize, pack_activations, unpack_activations
from cloud_trainer.segment import CloudSegment
from cloud_trainer.session_start import MEASURING_BYTES_PER_PARAMETER, memory_needed
from cloud_trainer.trainer import CloudTrainer, fastest_compute
from hierarchy.command_line import SparseLog
from hierarchy.device import Compute, step_seconds
from hierarchy.random_state import TorchRandom

# Networks that wait to be timed. A robot asks for one after the other.
MOST_WAITING = 4
# Networks of which the fastest way to compute is remembered.
MOST_NETWORKS = 32
# How long a network's steps are timed.
TIMING_SECONDS = 1.5

log = logging.getLogger("cloud-trainer")


class Probes:
    """The main thread calls time_next() between steps; ``work`` runs on a thread of its own."""

    def __init__(
        self, link: Link, batch: int, device: torch.device, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._batch = batch
        self._device = device
        self._clock = clock
        self._mailbox = link.mailbox(topics.topic("robot", topics.ANYONE, "probe"))
        self._waiting: Mailbox[tuple[str, Probe]] = Mailbox(MOST_WAITING)
        self._rest_until = float("-inf")
        self._computes: OrderedDict[tuple[str, int], Compute] = OrderedDict()
        self._garbage = SparseLog(log)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop, within a moment."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def time_next(self, room: int) -> bool:
        """Time one network, if one is due, and tell its robot; whether there was one. room: bytes for its weights."""
        if self._clock() < self._rest_until or (asked := self._waiting.take(0.0)) is None:
            return False
        robot, probe = asked
        assert probe.split is not None
        begun, seconds, trouble = self._clock(), 0.0, ""
        try:
            seconds = self._training_seconds(probe.split, room)
        except (ConfigError, RuntimeError) as error:
            trouble = str(error)[:200]
        self._rest_until = 2 * self._clock() - begun  # half of the time stays for those that train
        self._answer(robot, probe, seconds=seconds, samples=0 if trouble else self._batch, trouble=trouble)
        return True

    def _training_seconds(self, split: SplitSpec, room: int) -> float:
        """Return how long a training step of a split's cloud half takes here, unpacking included.

        room: bytes for its weights. Raises ConfigError where it has none, or the split is impossible.
        """
        if memory_needed(split, self._batch) > room:
            raise ConfigError(f"this trainer has {max(0, room) / 1e9:.2f} GB left for networks (--networks-gb)")
        with TorchRandom(0, self._device):
            segment = CloudSegment(split, pretrained=False)
            if MEASURING_BYTES_PER_PARAMETER * sum(one.numel() for one in segment.parameters()) > room:
                raise ConfigError("this trainer has no room to time it (--networks-gb)")
            compute = self._compute(segment, split)
            trainer = CloudTrainer(segment, compute=compute, peak_learning_rate=0.0)
        codes = np.random.default_rng(0).integers(0, 2**split.bits, (self._batch, *split.shape)).astype(np.uint8)
        spread = np.full(split.shape[0], 2 / 2**split.bits, np.float32)
        packed = pack_activations(Quantized(codes=codes, low=-spread, step=spread, bits=split.bits))
        names = [str(index % 2) for index in range(self._batch)]

        def step() -> None:
            trainer.step(dequantize(unpack_activations(packed)), names, fresh=self._batch, progress=None)

        return step_seconds(step, TIMING_SECONDS)

    def _compute(self, segment: CloudSegment, split: SplitSpec) -> Compute:
        """Return the fastest way to compute, which is the same for all cuts of a network, and takes seconds to find."""
        network = split.backbone, split.image_size
        if network not in self._computes:
            self._computes[network] = fastest_compute(segment, split.shape, self._batch, self._device)
            if len(self._computes) > MOST_NETWORKS:
                self._computes.popitem(last=False)
        return self._computes[network]

    def _run(self) -> None:
        while not self._over.is_set():
            self.work(timeout=0.2)

    def work(self, timeout: float) -> None:
        """Answer the next probe, waiting up to timeout seconds for one, or leave it to the main thread."""
        if (delivery := self._mailbox.take(timeout)) is None:
            return
        try:
            robot, probe = _read(delivery)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a probe: {error}")
            return
        if probe.split:
            self._waiting.put((robot, probe))
        else:
            self._answer(robot, probe, seconds=0.0, samples=0, trouble="")

    def _answer(self, robot: str, probe: Probe, *, seconds: float, samples: int, trouble: str) -> None:
        result = ProbeResult(boot=probe.boot, number=probe.number, seconds=seconds, samples=samples, trouble=trouble)
        self._link.publish(topics.topic("robot", robot, "probe-result"), pack(result))


def _read(delivery: Delivery) -> tuple[str, Probe]:
    return topics.parse(delivery.topic).name, unpack_as(Probe, delivery.payload)
