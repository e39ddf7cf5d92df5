"""Which remembered frames are likely to have another's label, and hurt what is learned from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# A frame is compared with so many that are most like it. It is in doubt where none of them has its label, and so many
# have one and the same other label. Of photos of 16 fruits one label in twenty was another's: 95 % of those were found,
# and 2 or 3 of 430 right labels were doubted.
NEIGHBOURS, AGREEING = 5, 3
# A camera that moves on before a lesson ends leaves a run of wrong frames, which are most like each other. So frames of
# a class do not vouch for those shown right before and after, up to so many, and a quarter of the class.
BESIDE = 5
# An exit that learns its own frames by heart in part gives a right label less than so seldom.
LEAST_PROBABILITY = 0.1
# Frames that each one is compared with at most, and how many are compared at once: 4,000 frames of 1,280 features take
# a third of a second, in parts of 6 ms.
MAX_REFERENCES, AT_ONCE = 1000, 64


@dataclass(frozen=True, kw_only=True)
class LabelDoubt:
    """A taught frame in doubt. number: of the frame. instead: the class that it is more like. why: for people."""

    number: int
    name: str
    instead: str
    why: str


def doubted_by_neighbours(
    features: NDArray[np.float16], names: Sequence[str], numbers: Sequence[int]
) -> Iterator[list[LabelDoubt]]:
    """Yield the frames in doubt, part by part, of features (N, F) of a network that stands still.

    names: classes. numbers: of the frames, in the order in which they came.
    """
    classes = list(dict.fromkeys(names))
    labels = np.array([classes.index(name) for name in names], np.int64)
    ranks, beside = _ranks(labels, numbers), np.minimum(BESIDE, (np.bincount(labels) - 1) // 4)
    units = torch.nn.functional.normalize(torch.from_numpy(features).float(), dim=1)
    references = np.arange(0, len(names), -(-len(names) // MAX_REFERENCES)) if names else np.arange(0)
    if len(classes) < 2 or len(references) <= NEIGHBOURS:
        return
    compared = units[references]
    for start in range(0, len(names), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(names)))
        alike = (units[start : start + AT_ONCE] @ compared.T).numpy()
        same = labels[rows, None] == labels[references]
        near = np.abs(ranks[rows, None] - ranks[references]) <= beside[labels[rows]][:, None]
        alike[same & near] = -np.inf  # a frame is beside itself, too
        nearest = labels[references[np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]]]
        votes = np.stack([(nearest == label).sum(1) for label in range(len(classes))], axis=1)
        most, own = votes.argmax(1), votes[np.arange(len(rows)), labels[rows]]
        yield [
            LabelDoubt(
                number=numbers[row],
                name=names[row],
                instead=classes[most[place]],
                why=f"{votes[place].max()} of the {NEIGHBOURS} frames most like it are {classes[most[place]]!r}",
            )
            for place, row in enumerate(rows.tolist())
            if own[place] == 0 and votes[place].max() >= AGREEING
        ]


def doubted_by_exit(
    probabilities: NDArray[np.floating], classes: Sequence[str], names: Sequence[str], numbers: Sequence[int]
) -> list[LabelDoubt]:
    """Return the frames in doubt of a network that learns. probabilities: (N, classes), what the exit gives each."""
    return [
        LabelDoubt(
            number=number,
            name=name,
            instead=classes[best],
            why=f"the exit takes it for {classes[best]!r} ({100 * row[best]:.0f} %), though it learned it",
        )
        for row, best, name, number in zip(probabilities, probabilities.argmax(1).tolist(), names, numbers, strict=True)
        if name in classes and row[classes.index(name)] < LEAST_PROBABILITY
    ]


def _ranks(labels: NDArray[np.int64], numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return (N,): which frame of its class each one is, in the order in which they came."""
    ranks = np.zeros(len(labels), np.int64)
    order = np.argsort(np.asarray(numbers), kind="stable")
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        ranks[rows] = np.arange(len(rows))
    return ranks
