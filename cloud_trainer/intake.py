"""Decides what becomes of each message of one robot: new, seen before, or not to be taken. Pure."""

from __future__ import annotations

from broker.messages import ActivationBatch, Outcome, SplitSpec

# Messages that may overtake one another. A robot's window is far smaller, so a larger gap is no honest robot's.
REACH = 4096


class Intake:
    """Remembers which messages of a robot's boot have come, in bounded memory.

    The first to come may have any sequence: a trainer that starts in the middle of a robot's run goes on from there.
    """

    def __init__(self, boot: str, split: SplitSpec) -> None:
        self.boot = boot
        self.split = split
        self._newest: int | None = None
        self._come: set[int] = set()  # of the last REACH sequences; older ones count as come

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
        newest = batch.sequence if self._newest is None else self._newest
        if batch.sequence in self._come or batch.sequence <= newest - REACH:
            return "duplicate", ""
        if batch.sequence > newest + REACH:
            return "rejected", f"sequence {batch.sequence} is far ahead of {newest}"
        self._come.add(batch.sequence)
        self._newest = max(newest, batch.sequence)
        self._come.difference_update(range(newest - REACH + 1, self._newest - REACH + 1))
        return "accepted", ""
