"""What updates weights and sends: a batch becomes a step, frames to rehearse, and messages for the cloud."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

import numpy as np

from broker.wire.quantize import Quantized
from hierarchy.edge import EdgeStep
from robot_edge.learning.batcher import Batch
from robot_edge.learning.frame_memory import KeptFrame
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink

log = logging.getLogger("robot-edge")


class EdgeLearning:
    """Learns batch by batch, and sends what the cloud learns from."""

    def __init__(self, config: RobotConfig, state: RunState, uplink: Uplink, outbox: Outbox) -> None:
        self._config = config
        self._state = state
        self._uplink = uplink
        self._outbox = outbox
        # Frames up to here are in the outbox, or were: a killed process learned from them after its last checkpoint.
        self._sent_position = outbox.position

    def learn(self, batch: Batch, *, rehearsed: int) -> EdgeStep:
        """Take a step on a batch and so many remembered frames, and send what is new. Raises Diverged."""
        self._spare_the_link()
        state, fresh = self._state, len(batch.names)
        frames = state.memory.rehearsal.draw(rehearsed)
        images = np.concatenate([batch.images, *(one.image[None] for one in frames)])
        names = batch.names + [one.name for one in frames]
        numbers = [state.memory.inherited + position for position in batch.positions]
        version = state.trainer.version  # of the segment that encodes them
        step = state.trainer.step(images, names, fresh=fresh, progress=self._progress)
        state.metrics.add(step)
        sent = bisect_right(batch.positions, self._sent_position)
        if sent < fresh:
            self._send_re_encoded(step.quantized[fresh:], frames, version)
            self._uplink.send(
                step.quantized[sent:fresh],
                batch.names[sent:],
                samples=numbers[sent:],
                position=state.batcher.position,
                progress=self._progress,
                edge_version=version,
                session=batch.session,
            )
        if self._config.rehearsed_per_fresh:
            for name, image, number in zip(batch.names, batch.images, numbers, strict=True):
                state.memory.rehearsal.add(name, image, batch.session, number)
        state.batcher.learned()
        return step

    def practise(self, progress: float | None) -> float | None:
        """Take a step on remembered frames alone, and return its loss; None where none are kept."""
        frames = self._state.memory.rehearsal.draw(self._config.learning.batch)
        if not frames:
            return None
        images = np.stack([one.image for one in frames])
        return self._state.trainer.step(images, [one.name for one in frames], fresh=0, progress=progress).loss

    def re_encode_memory(self, most: int) -> Iterator[None]:
        """Send so many remembered frames as they are encoded now, class-balanced. Yields before each part of them.

        Nothing goes up while the link is behind.
        """
        frames = self._state.memory.rehearsal.draw_one_by_one(most if self._config.learning.encode_anew else 0)
        while part := list(islice(frames, PREDICT_AT_ONCE)):
            yield
            _, quantized = self._state.trainer.evaluate(np.stack([one.image for one in part]))
            self._send_re_encoded(quantized, part, self._state.trainer.version)

    @property
    def _progress(self) -> float | None:
        """The progress that sets the learning rate; None, for a constant one, where classes come one after the other.

        A rate that falls over the whole run would leave nothing for the last ones.
        """
        return None if self._config.forgets else self._state.batcher.progress

    def _send_re_encoded(self, quantized: Quantized, frames: list[KeptFrame], version: int) -> None:
        """Send frames that went up before as they are encoded now, unless the link has enough to do without."""
        if frames and self._config.learning.encode_anew and not self._uplink.is_behind:
            self._uplink.send(
                quantized,
                [one.name for one in frames],
                samples=[one.sample for one in frames],
                again=True,
                progress=self._progress,
                edge_version=version,
            )

    def _spare_the_link(self) -> None:
        """Take fewer bits for a value where the link cannot carry them, or more again."""
        control, trainer = self._state.rate_control, self._state.trainer
        if self._uplink.waits_for:
            control.pause()  # an outage is no reason: its queue will shrink
            return
        now = time.monotonic()
        changed = control.review(
            now,
            queued=len(self._outbox),
            behind=self._uplink.is_behind,
            made=self._outbox.bytes_made,
            capacity=self._uplink.pace.capacity(now),
        )
        if changed:
            reason = "the link is behind" if control.bits < trainer.bits else "the link has room again"
            log.info("%s: values go up with %d bits from now on", reason, control.bits)
            trainer.bits = control.bits
