"""Decides what becomes of each message of one robot: new, seen before, or not to be taken. Pure."""

from __future__ import annotations

from broker.messages import ActivationBatch, Outcome, SplitSpec

# Messages that may overtake one another. A robot's window is far smaller, so a larger gap is no honest robot's.
MOST_AHEAD = 4096


class Intake:
    """Remembers which messages of a robot's boot have come, in bounded memory."""

    def __init__(self, boot: str, split: SplitSpec) -> None:
        self.boot = boot
        self.split = split
        self._through = 0  # every sequence below it has come
        self._ahead: set[int] = set()

    def judge(self, batch: ActivationBatch) -> tuple[Outcome, str]:
        """Return what to do with a batch, and why where it is rejected. An accepted one counts as come."""
        packed, split = batch.activations, self.split
        if batch.split != split.fingerprint:
            return "rejected", f"split {batch.split} is not the one in the robot's state, {split.fingerprint}"
        if packed.shape[1:] != split.shape or packed.bits != split.bits:
            return (
                "rejected",
                f"{packed.shape[1:]} at {packed.bits} bits; the split has {split.shape} at {split.bits}",
            )
        if batch.sequence < self._through or batch.sequence in self._ahead:
            return "duplicate", ""
        if batch.sequence > self._through + MOST_AHEAD:
            return "rejected", f"sequence {batch.sequence} is far ahead of {self._through}"
        self._ahead.add(batch.sequence)
        while self._through in self._ahead:
            self._ahead.remove(self._through)
            self._through += 1
        return "accepted", ""
