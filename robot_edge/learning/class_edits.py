"""What a robot has learned and what it keeps of what it saw, and how both change when a class does. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from broker.wire.messages import ClassEdit
from hierarchy.edge import EdgeTrainer
from hierarchy.encoding import Encoding
from robot_edge.learning.frame_memory import FrameMemory, FramesState, frames_in
from robot_edge.learning.framing import Framing
from robot_edge.sources.frames import Pixels, relabelled


class ClassMemory:
    """The network, the frames to rehearse and the frames to test with: what a class edit applies to.

    edits: how many were applied. inherited: frames of a former run, whose numbers come before those of this one's.
    """

    def __init__(self, trainer: EdgeTrainer, rehearsal: FrameMemory, held_out: FrameMemory) -> None:
        self.trainer = trainer
        self.rehearsal = rehearsal
        self.held_out = held_out
        self.edits = 0
        self.inherited = 0

    def inherit(self, rehearsal: FramesState, held_out: FramesState) -> None:
        """Keep the frames of the run whose weights this one begins with.

        Without them it would forget what they show as soon as it learns something else. Their lessons are over.
        """
        scaled = Framing(size=self.rehearsal.size).fitted  # they are square already
        for one in frames_in(rehearsal):
            self.inherited += 1
            image = scaled(one.image)
            self.rehearsal.add(one.name, image, sample=self.inherited, encoding=self._encoded(image))
        for one in frames_in(held_out):
            image = scaled(one.image)
            self.held_out.add(one.name, image, encoding=self._encoded(image))

    def _encoded(self, image: Pixels) -> Encoding | None:
        """Return what the network makes of an image, if it stands still: a former run may have had another one."""
        return self.trainer.encode(image[None]) if self.trainer.segment.stands_still else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes it can name, in the order they came."""
        return self.trainer.classes

    def counts(self) -> dict[str, int]:
        """Return how many frames are kept of each class."""
        counts = self.held_out.counts()
        return {**counts, **{name: count + counts.get(name, 0) for name, count in self.rehearsal.counts().items()}}

    def one_of_each(self) -> dict[str, Pixels]:
        """Return a copy of one frame of each class, uint8 (size, size, 3)."""
        return {**self.held_out.one_of_each(), **self.rehearsal.one_of_each()}

    def has_other(self, name: str, session: int) -> bool:
        """Whether frames of a class are kept that another session taught."""
        return self.rehearsal.has_other(name, session) or self.held_out.has_other(name, session)

    def called_now(self, label: str, edits: Iterable[ClassEdit]) -> str | None:
        """Return what a source's label is called after all edits of the run; None where its class is forgotten."""
        if label in self.classes:  # it may have been taught anew since
            return label
        name: str | None = label
        for edit in edits:
            name = relabelled(name, 0, edit)
        return name

    def apply(self, edit: ClassEdit) -> None:
        """Do to network and frames what the edit says."""
        learner = self.trainer.learner
        if edit.change == "rename":
            learner.rename(edit.name, edit.to)
        elif edit.name:
            learner.remove(edit.name)
        self.rehearsal.apply(edit)
        self.held_out.apply(edit)
        self.edits = edit.number
