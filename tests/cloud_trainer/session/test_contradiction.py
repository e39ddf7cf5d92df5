"""Who is set apart, and who is not: looks are points around the centres of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_trainer.session.contradiction import LEAST_CLASSES, LEAST_SAMPLES, contradicting

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
FEATURES, SAMPLES = 64, 12
NAMES = (*CLASSES, "red fox", "blue bee", "white ant")
CENTRES = dict(zip(NAMES, np.random.default_rng(0).normal(size=(len(NAMES), FEATURES)), strict=True))


def samples(of: str, seed: int, count: int = SAMPLES, noise: float = 1.0) -> NDArray[np.float32]:
    """Return unit vectors (count, F) of what really is of that class."""
    points = CENTRES[of] + noise * np.random.default_rng([seed, len(of)]).normal(size=(count, FEATURES))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def robot(seed: int, called: Mapping[str, str] | Sequence[str] = CLASSES) -> dict[str, NDArray[np.float32]]:
    """Return the looks of a robot. called: what is shown, by the name that it is given."""
    shown = called if isinstance(called, Mapping) else {name: name for name in called}
    return {name: samples(of, 100 * seed + place) for place, (name, of) in enumerate(shown.items())}


def confused(seed: int, share: float, classes: Sequence[str] = CLASSES) -> dict[str, NDArray[np.float32]]:
    """Return the looks of a robot that gives so many of its samples a name that it draws from the others."""
    rng = np.random.default_rng(seed)
    looks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in classes}
    for place, name in enumerate(classes):
        for one in samples(name, 100 * seed + place):
            wrong = rng.random() < share
            looks[str(rng.choice([other for other in classes if other != name])) if wrong else name].append(one)
    return {name: np.stack(its) for name, its in looks.items() if its}


ITSELF = {name: name for name in CLASSES}
SHIFTED = dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True))
HONEST = {"r1": robot(1), "r2": robot(2), "r3": robot(3)}


@pytest.mark.parametrize("others", [2, 3])
@pytest.mark.parametrize("nonsense", [robot(4, SHIFTED), confused(4, 1.0), confused(5, 0.9)])
def test_a_robot_that_names_everything_otherwise_is_found(
    nonsense: dict[str, NDArray[np.float32]], others: int
) -> None:
    honest = dict(list(HONEST.items())[:others])
    found = contradicting({**honest, "r4": nonsense})
    assert found is not None
    assert found.robot == "r4"
    assert len(found.classes) >= 0.75 * found.judged
    assert f"of {found.judged} classes that 2 other robots agree on, it calls {len(found.classes)}" in found.why


def test_of_two_such_robots_the_one_is_found_and_then_the_other() -> None:
    both = {**HONEST, "r4": confused(4, 1.0), "r5": robot(5, SHIFTED)}
    first = contradicting(both)
    assert first is not None
    second = contradicting({name: one for name, one in both.items() if name != first.robot})
    assert second is not None
    assert {first.robot, second.robot} == {"r4", "r5"}


@pytest.mark.parametrize(
    ("why", "looks"),
    [
        ("all alike", HONEST),
        ("two who contradict each other", {"r1": robot(1), "r2": robot(2, SHIFTED)}),
        ("names that nobody else has", {**HONEST, "r4": robot(4, {f"my {name}": name for name in CLASSES})}),
        ("a new class, taught by one alone", {**HONEST, "r4": {**robot(4), "red fox": samples("red fox", 9)}}),
        (
            "one thing that looks like another",
            {**HONEST, "r4": robot(4, {**ITSELF, "ant": "bee"})},
        ),
        (
            "things of three names that look otherwise",
            {**HONEST, "r4": robot(4, {"fox": "red fox", "bee": "blue bee", "ant": "white ant"})},
        ),
        ("half of its names wrong", {**HONEST, "r4": confused(4, 0.5)}),
        (
            "too few samples",
            {**HONEST, "r4": {name: its[: LEAST_SAMPLES - 1] for name, its in robot(4, SHIFTED).items()}},
        ),
        ("too few classes", {**HONEST, "r4": dict(list(robot(4, SHIFTED).items())[: LEAST_CLASSES - 1])}),
        ("nothing taught", {**HONEST, "r4": {}}),
        ("nobody", {}),
    ],
)
def test_an_honest_robot_is_not(why: str, looks: dict[str, dict[str, NDArray[np.float32]]]) -> None:
    assert contradicting(looks) is None, why


def test_what_is_hard_for_all_speaks_against_nobody() -> None:
    hard = {
        f"r{number}": {name: samples("ant", 10 * number + place) for place, name in enumerate(CLASSES)}
        for number in range(1, 5)
    }
    assert contradicting(hard) is None, "all its classes look alike"


def test_a_robot_that_sends_much_is_one_witness_all_the_same() -> None:
    loud = {name: np.concatenate([its] * 20) for name, its in robot(4, SHIFTED).items()}
    found = contradicting({"r1": robot(1), "r2": robot(2), "r4": loud})
    assert found is not None
    assert found.robot == "r4"
