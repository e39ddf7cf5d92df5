"""Decides whether a robot's message may be trained on, before it is stored. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from broker.errors import MalformedMessage
from broker.program.plain_text import counted
from broker.wire.bounds import check_class_name
from broker.wire.messages import ActivationBatch, ClassEdit, SplitSpec
from cloud_trainer.session.batches import InflatedBatch


class Intake:
    """Holds messages against what the robot's state has said of them.

    shared: whether several robots' classes are counted together. Then a class that one gives up may be another's, and
    none of them may fill the bound: what one has to itself is at most as much as it leaves free.
    """

    def __init__(self, split: SplitSpec, *, most_classes: int, shared: bool = False) -> None:
        self.split = split
        self._shared = shared
        self._most_classes = most_classes
        self._taught: dict[str, set[str]] = {}  # by whom each class was, as far as that is known

    def know(self, classes: Iterable[str], robot: str = "") -> None:
        """Take classes for known that came before. robot: that taught them, empty where nobody knows."""
        for name in classes:
            self._taught.setdefault(name, set()).update({robot} - {""})

    def leave(self, robot: str) -> None:
        """Know no class any more that this robot alone taught: its samples were taken out."""
        for name, its in list(self._taught.items()):
            if its == {robot}:
                del self._taught[name]
            its.discard(robot)

    def check(self, batch: ActivationBatch, robot: str = "") -> InflatedBatch:
        """Return a robot's batch as it is trained on. Raises MalformedMessage, which says why, where it cannot be."""
        packed, split = batch.activations, self.split
        if batch.split != split.fingerprint:
            raise MalformedMessage(f"split {batch.split} is not the one in the robot's state, {split.fingerprint}")
        if packed.shape[1:] != split.shape or packed.bits > split.bits:
            raise MalformedMessage(
                f"{packed.shape[1:]} at {packed.bits} bits; the split has {split.shape} at {split.bits} at most"
            )
        self._check_classes(batch.classes, robot)
        inflated = InflatedBatch.of(batch)  # what is stored and receipted must be readable
        self.know(batch.classes, robot)
        return inflated

    def check_edit(self, edit: ClassEdit, robot: str = "") -> None:
        """Raise MalformedMessage where an edit of a robot gives a class a name that is none.

        No edit makes a class more, so none is refused for their number: those behind it would wait for it for ever.
        """
        if edit.change == "rename":
            check_class_name(edit.to)
        its = self._taught.get(edit.name)
        if its is None:
            return
        if self._shared and not edit.everywhere and its != {robot}:
            its.discard(robot)
        else:
            del self._taught[edit.name]
        if edit.change == "rename":
            self.know([edit.to], robot)

    def _check_classes(self, classes: tuple[str, ...], robot: str) -> None:
        for name in classes:
            check_class_name(name)
        new = set(classes) - self._taught.keys()
        together, most = len(self._taught) + len(new), self._most_classes
        if not new:
            return
        if together > most:
            raise MalformedMessage(f"{together:,} classes, limit {most:,} (--most-classes)")
        alone = len(new) + sum(its == {robot} for its in self._taught.values())
        if self._shared and alone > max(1, most - together):
            raise MalformedMessage(
                f"{counted(alone, 'class')} that no other robot of the fleet teaches, and {most - together:,} left for "
                f"the others: one robot may have as many to itself as it leaves free (--most-classes {most:,} of the "
                "trainer is for the whole fleet)"
            )
