"""Decides whether a robot's message may be trained on, before it is stored. Pure."""

from __future__ import annotations

from broker.errors import MalformedMessage
from broker.wire.bounds import check_class_name
from broker.wire.messages import ActivationBatch, ClassEdit, SplitSpec
from cloud_trainer.session.batches import InflatedBatch


class Intake:
    """Holds messages against what the robot's state has said of them.

    shared: whether several robots' classes are counted together. Then a class that one gives up may be another's.
    """

    def __init__(self, split: SplitSpec, *, most_classes: int, shared: bool = False) -> None:
        self.split = split
        self._shared = shared
        self._most_classes = most_classes
        self._classes: set[str] = set()

    def know(self, classes: tuple[str, ...]) -> None:
        """Take classes for known that came before."""
        self._classes.update(classes)

    def check(self, batch: ActivationBatch) -> InflatedBatch:
        """Return a batch as it is trained on. Raises MalformedMessage, which says why, where it cannot be."""
        packed, split = batch.activations, self.split
        if batch.split != split.fingerprint:
            raise MalformedMessage(f"split {batch.split} is not the one in the robot's state, {split.fingerprint}")
        if packed.shape[1:] != split.shape or packed.bits > split.bits:
            raise MalformedMessage(
                f"{packed.shape[1:]} at {packed.bits} bits; the split has {split.shape} at {split.bits} at most"
            )
        classes = self._with(batch.classes)
        inflated = InflatedBatch.of(batch)  # what is stored and receipted must be readable
        self._classes = classes
        return inflated

    def check_edit(self, edit: ClassEdit) -> None:
        """Raise MalformedMessage where an edit gives a class a name that is none.

        No edit makes a class more, so none is refused for their number: those behind it would wait for it for ever.
        """
        if edit.change == "rename":
            check_class_name(edit.to)
        if edit.name in self._classes:
            stays = self._shared and not edit.everywhere
            before = self._classes if stays else self._classes - {edit.name}
            self._classes = before | ({edit.to} if edit.change == "rename" else set())

    def _with(self, classes: tuple[str, ...]) -> set[str]:
        for name in classes:
            check_class_name(name)
        together = self._classes.union(classes)
        if len(together) > self._most_classes:
            raise MalformedMessage(f"{len(together):,} classes, limit {self._most_classes:,} (--most-classes)")
        return together
