"""Which robot of a fleet calls things otherwise than the others agree on. Pure.

A robot that teaches nonsense shows what others know, under other names. So its samples look like those of other
classes, and like typical ones. That is told from all that an honest robot may do. A class that is hard is hard for the
others, too: they do not agree on it. What looks otherwise than the others' things of that name is like none of theirs.
A class that nobody else teaches is compared with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Unit vectors, float32 (N, F), by robot and class.
Looks = Mapping[str, Mapping[str, NDArray[np.float32]]]
# Their means, (F,).
Means = Mapping[str, Mapping[str, NDArray[np.float32]]]

# Of a robot and class that is compared with others': what a short lesson shows.
LEAST_SAMPLES = 5
# Others that call a class so, and whose samples of it are taken for it by means of all the others but one. With two
# robots nobody can tell which of them is wrong.
LEAST_WITNESSES = 2
# Classes that a robot must contradict to be set apart, and their share of those that the others agree on. One thing may
# happen to look like another one, however honest a robot is.
LEAST_CLASSES, SHARE = 3, 0.75
# A sample is typical of a class where it is as near to its mean as this share of that class's own samples is not.
TYPICAL = 0.1


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """A robot's word against that of the others.

    classes: that it calls otherwise, by its names, and what the others call most of each. judged: classes that others
    agree on, and it teaches.
    """

    robot: str
    classes: Mapping[str, str]
    judged: int

    @property
    def why(self) -> str:
        """What people read of it; without a class name, which may be a token."""
        return (
            f"what it teaches contradicts the others: of {self.judged} classes that {LEAST_WITNESSES} other robots "
            f"agree on, it calls {len(self.classes)} by the name of another one"
        )


def contradicting(looks: Looks) -> Contradiction | None:
    """Return the robot that contradicts the others most, if one names nearly everything otherwise; None for none."""
    looks = {
        robot: {name: its for name, its in classes.items() if len(its) >= LEAST_SAMPLES}
        for robot, classes in looks.items()
    }
    means = {robot: {name: its.mean(0) for name, its in classes.items()} for robot, classes in looks.items()}
    found = [one for robot in looks if (one := _judged(robot, looks, means))]
    return max(found, key=lambda one: (len(one.classes) / one.judged, one.judged), default=None)


def _judged(robot: str, looks: Looks, means: Means) -> Contradiction | None:
    others = [one for one in looks if one != robot]
    suspected = _of_others(looks[robot], others, looks, means)
    if not _is_enough(suspected, len(suspected)):
        return None  # which is cheap, and so for nearly all
    agreed = _agreed(others, looks, means)
    its = _of_others({name: one for name, one in looks[robot].items() if name in agreed}, others, looks, means, agreed)
    if not _is_enough(its, len(its)):
        return None
    return Contradiction(robot=robot, classes={name: to for name, to in its.items() if to}, judged=len(its))


def _is_enough(its: Mapping[str, str], judged: int) -> bool:
    wrong = sum(map(bool, its.values()))
    return wrong >= LEAST_CLASSES and wrong >= SHARE * judged


def _taught_by(robots: Iterable[str], means: Means) -> dict[str, int]:
    """Return by how many of the robots each class is taught."""
    counts: dict[str, int] = {}
    for robot in robots:
        for name in means[robot]:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _centres(names: Iterable[str], robots: Iterable[str], means: Means) -> dict[str, NDArray[np.float32]]:
    """Return unit vectors (F,) of classes, in which each of the robots counts as much, however much it sent."""
    robots, centres = list(robots), dict[str, NDArray[np.float32]]()
    for name in names:
        its = np.stack([means[one][name] for one in robots if name in means[one]]).sum(0)
        centres[name] = its / np.float32(max(float(np.linalg.norm(its)), 1e-12))
    return centres


def _of_others(
    its: Mapping[str, NDArray[np.float32]],
    others: list[str],
    looks: Looks,
    means: Means,
    agreed: set[str] | None = None,
) -> dict[str, str]:
    """Return what the others call most of each class of a robot; empty where that is no other name.

    agreed: classes that count; None for all that enough of them teach.
    """
    enough = {name for name, count in _taught_by(others, means).items() if count >= LEAST_WITNESSES}
    counted = sorted(enough if agreed is None else enough & agreed)
    if len(counted) < LEAST_CLASSES:
        return {}
    centres = _centres(counted, others, means)
    table = np.stack([centres[name] for name in counted])
    own: dict[str, list[NDArray[np.float32]]] = {name: [] for name in counted}
    for one in others:  # by the centres of the rest: a robot's samples are nearer to their own mean than any others
        rest = _centres([name for name in counted if name in looks[one]], [two for two in others if two != one], means)
        for name, centre in rest.items():
            own[name].append(looks[one][name] @ centre)
    typical = np.array([np.quantile(np.concatenate(own[name]), TYPICAL) for name in counted])
    found: dict[str, str] = {}
    for name, samples in its.items():
        if name in centres:
            near = samples @ table.T
            best = near.argmax(1)
            is_typical = near[np.arange(len(near)), best] >= typical[best]
            called = [counted[place] if sure else "" for place, sure in zip(best.tolist(), is_typical, strict=True)]
            wrong = [one for one in called if one not in {"", name}]
            found[name] = max(sorted(set(wrong)), key=wrong.count) if 2 * len(wrong) > len(called) else ""
    return found


def _agreed(robots: list[str], looks: Looks, means: Means) -> set[str]:
    """Return the classes that enough of the robots teach as the rest of them would name it."""
    witnesses: dict[str, int] = {}
    for robot in robots:
        rest = [one for one in robots if one != robot]
        centres = _centres(_taught_by(rest, means), rest, means)
        names = list(centres)
        for name in looks[robot].keys() & centres.keys():
            near = looks[robot][name] @ np.stack(list(centres.values())).T
            right = float(np.mean(near.argmax(1) == names.index(name)))
            witnesses[name] = witnesses.get(name, 0) + (right > 0.5)
    return {name for name, count in witnesses.items() if count >= LEAST_WITNESSES}
