"""Taught frames that hurt: looked for behind a lesson, shown on the page, and forgotten where people say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from broker.errors import ConfigError
from hierarchy.calibration import softmax
from hierarchy.edge import run_segment
from robot_edge.learning.frame_memory import KeptFrame
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.learning.label_doubts import LabelDoubt, doubted_by_exit, doubted_by_neighbours
from robot_edge.page.page_model import DoubtRow, PageModel, Thumbnail
from robot_edge.run.checkpoint import RunState
from robot_edge.run.saving import Saving

# More than one looks through at once; the next ones come when these are gone.
MAX_DOUBTS = 24
# Of a network that learns, each takes a forward pass; of frames that were found right, so many are known.
CHECKED_FRAMES, MAX_KEPT = 1000, 1000


@dataclass(kw_only=True, eq=False)
class Doubting:
    """Knows which taught frames are in doubt. Used on the thread that trains."""

    state: RunState
    saving: Saving
    page_model: PageModel
    _right: dict[int, None] = field(default_factory=dict)  # numbers of frames that people know better
    _looked_at: int = 0

    def look(self) -> Iterator[None]:
        """Look for taught frames in doubt, and show them, if anything was learned since the last time.

        Yields before each part of the work.
        """
        if self._looked_at == self.state.trainer.steps:
            return
        self._looked_at = self.state.trainer.steps
        found: list[LabelDoubt] = []
        for part in self._doubts():
            found += [one for one in part if one.number not in self._right]
            yield
        shown = {one.number: one for one in found[:MAX_DOUBTS]}
        frames = {one.sample: one for one in self.state.memory.rehearsal.numbered(shown)}
        self.page_model.doubts = tuple(
            DoubtRow(number=number, name=one.name, why=one.why, thumbnail=Thumbnail.of(frames[number].image))
            for number, one in shown.items()
            if number in frames and frames[number].name == one.name
        )

    def classes_changed(self) -> None:
        """Show no frame any more that a class edit has given up, or has called otherwise."""
        doubts = self.page_model.doubts
        kept = {(one.sample, one.name) for one in self.state.memory.rehearsal.numbered({row.number for row in doubts})}
        self.page_model.doubts = tuple(row for row in doubts if (row.number, row.name) in kept)

    def remove(self, numbers: Collection[int]) -> int:
        """Forget taught frames, and return how many. Raises ConfigError where a class would have none left.

        What crossed of them is in the cloud, where only lessons and classes can be taken back.
        """
        state = self.state
        gone = list(state.memory.rehearsal.numbered(numbers))
        self._refuse_all_of_a_class(gone)
        state.forget_frames({one.sample for one in gone})
        self._show_no_more(numbers)
        self.saving.save()
        return len(gone)

    def keep(self, numbers: Collection[int]) -> int:
        """Doubt these frames no more, and return how many."""
        self._right |= dict.fromkeys(numbers)
        self._right = dict(islice(reversed(self._right.items()), MAX_KEPT))
        self._show_no_more(numbers)
        return len(numbers)

    def _doubts(self) -> Iterator[list[LabelDoubt]]:
        memory, trainer = self.state.memory.rehearsal, self.state.trainer
        if memory.keeps_encodings:
            names, encoding = memory.encodings()
            yield from doubted_by_neighbours(encoding.features, names, memory.numbers())
            return
        frames = memory.in_order(CHECKED_FRAMES)
        while len(trainer.classes) > 1 and (part := list(islice(frames, PREDICT_AT_ONCE))):
            names, numbers = [one.name for one in part], [one.sample for one in part]
            yield doubted_by_exit(self._probabilities(part), trainer.classes, names, numbers)

    @torch.inference_mode()
    def _probabilities(self, frames: list[KeptFrame]) -> np.typing.NDArray[np.float64]:
        trainer = self.state.trainer
        trainer.segment.eval()  # the next step sets it back
        images = np.stack([one.image for one in frames])
        seen = run_segment(trainer.segment, images, bits=trainer.bits, compute=trainer.learner.compute)
        return softmax(seen.logits.cpu().numpy())

    def _refuse_all_of_a_class(self, gone: list[KeptFrame]) -> None:
        counts = self.state.memory.rehearsal.counts()
        for name, count in Counter(one.name for one in gone).items():
            if count == counts[name]:
                raise ConfigError(f"these are all frames that are left of {name!r}: forget the class, or keep one")

    def _show_no_more(self, numbers: Collection[int]) -> None:
        self.page_model.doubts = tuple(one for one in self.page_model.doubts if one.number not in numbers)
