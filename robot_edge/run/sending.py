"""What a robot sends of what it learns from: fresh frames once, remembered ones anew, in bits that the link takes."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Sequence

from broker.wire.quantize import Quantized
from robot_edge.learning.batcher import Batch
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink

log = logging.getLogger("robot-edge")


class Sending:
    """Puts the activations of a run into its outbox."""

    def __init__(self, config: RobotConfig, state: RunState, uplink: Uplink, outbox: Outbox) -> None:
        self._config = config
        self._state = state
        self._uplink = uplink
        self._outbox = outbox
        # Frames up to here are in the outbox, or were: a killed process learned from them after its last checkpoint.
        self._sent_position = outbox.position

    @property
    def progress(self) -> float | None:
        """The progress that sets the learning rate; None, for a constant one, where classes come one after the other.

        A rate that falls over the whole run would leave nothing for the last ones.
        """
        return None if self._config.forgets else self._state.batcher.progress

    @property
    def cloud_classes(self) -> int:
        """How many classes the cloud knows, or a fleet had forgotten on purpose, as far as it has said."""
        said = self._uplink.cloud_metrics
        return said.classes + len(said.forgotten) if said else 0

    @property
    def cloud_images(self) -> int:
        """How many images the cloud has learned from, as far as it has said."""
        said = self._uplink.cloud_metrics
        return said.images if said else 0

    @property
    def cloud_has_all(self) -> bool:
        """Whether the cloud is there, and has learned all that was sent."""
        said, uplink = self._uplink.cloud_metrics, self._uplink
        if said is None or said.messages_waiting or len(self._outbox):
            return False
        return not (uplink.waits_for or uplink.quarantine)

    def numbers(self, batch: Batch) -> list[int]:
        """Return the number of each frame of a batch, under which its activations go up."""
        return [self._state.memory.inherited + position for position in batch.positions]

    def is_new(self, batch: Batch) -> bool:
        """Whether a batch has frames that were not sent before."""
        return bisect_right(batch.positions, self._sent_position) < len(batch.names)

    @property
    def has_room(self) -> bool:
        """Whether the outbox takes more without giving anything up, or beyond its limit."""
        return not self._outbox.full

    def send(self, batch: Batch, quantized: Quantized, version: int, position: int | None = None) -> None:
        """Send those frames of a batch that were not sent before. version: of the segment that encoded them.

        position: of the source behind these frames; None for where it is now.
        """
        sent = bisect_right(batch.positions, self._sent_position)
        self._uplink.send(
            quantized[sent : len(batch.names)],
            batch.names[sent:],
            samples=self.numbers(batch)[sent:],
            position=self._state.batcher.position if position is None else position,
            progress=self.progress,
            edge_version=version,
            session=batch.session,
        )

    def send_again(self, quantized: Quantized, names: Sequence[str], samples: Sequence[int], version: int) -> None:
        """Send frames that went up before as they are encoded now, unless the link has enough to do without."""
        if names and self._config.learning.encode_anew and not self._uplink.is_behind:
            self._uplink.send(
                quantized, names, samples=samples, again=True, progress=self.progress, edge_version=version
            )

    def spare_the_link(self) -> None:
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
