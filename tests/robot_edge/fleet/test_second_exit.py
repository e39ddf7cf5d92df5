"""Two exits name a frame: which is believed, what was forgotten here, and when the fleet's one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.wire.messages import ClassEdit
from hierarchy.calibration import MIN_FRAMES, Calibration
from robot_edge.fleet.class_changes import Change, ClassChanges
from robot_edge.fleet.second_exit import Says, SecondExit, Trial, second_is_believed, trial
from tests.fleet_exits import encode, exit_of, frames, rows_of

NONE = ClassChanges()


def says(name: str, confidence: float = 0.9, *, classes: tuple[str, ...] = (), unknown: bool = False) -> Says:
    known = classes or (name, "another")
    return Says(name=name, confidence=confidence, unknown=unknown, classes=known, probabilities=np.zeros(len(known)))


def second(*classes: str, changes: ClassChanges = NONE, own: tuple[str, ...] = (), **fields: Any) -> SecondExit:
    rows = rows_of(classes)
    return SecondExit(exit_of(rows, **fields)[0], rows, encode=encode, changes=changes, own=own)


OWN, FLEET = ("cup", "mug"), ("mug", "dog", "cat")


@pytest.mark.parametrize(
    ("own", "fleet", "believed"),
    [
        pytest.param(says("", 0.0, classes=("x",), unknown=True), says("dog", 0.3), True, id="the own knows nothing"),
        pytest.param(says("mug", 0.9, classes=OWN), says("dog", 0.6, classes=FLEET), True, id="both know what it is"),
        pytest.param(says("cup", 0.9, classes=OWN), says("dog", 0.6, classes=FLEET), False, id="taught here just now"),
        pytest.param(says("cup", 0.5, classes=OWN), says("dog", 0.6, classes=FLEET), True, id="less sure of its own"),
        pytest.param(says("cup", 0.5, classes=OWN), says("mug", 0.6, classes=FLEET), False, id="it compared the two"),
        pytest.param(
            says("cup", 0.9, classes=OWN, unknown=True), says("dog", 0.6, classes=FLEET), True, id="unknown to the own"
        ),
    ],
)
def test_which_of_the_two_is_believed(own: Says, fleet: Says, believed: bool) -> None:
    assert second_is_believed(own, fleet) == believed


def test_it_names_what_was_taught_elsewhere() -> None:
    exit_ = second("mug", "dog", "cat", own=("mug",))
    assert exit_.elsewhere == ("dog", "cat")
    found = [exit_.says(frames(axis)) for axis in range(3)]
    assert [one.name for one in found] == ["mug", "dog", "cat"]
    assert [one.unknown for one in found] == [False] * 3
    assert found[1].probabilities.sum() == pytest.approx(1)
    assert found[1].confidence == found[1].probabilities[1] > 0.9


def test_what_fits_no_class_is_unknown() -> None:
    assert second("mug", "dog", least_confidence=0.6).says(frames(5)).unknown


def test_what_was_forgotten_here_is_unknown_and_takes_no_other_name() -> None:
    exit_ = second("mug", "dog", "cat", changes=ClassChanges(now={"dog": Change("", 7)}))
    assert exit_.classes == ("mug", "cat")
    found = exit_.says(frames(1))
    assert found.unknown
    assert found.name in exit_.classes
    assert not exit_.says(frames(2)).unknown


def test_classes_that_are_one_here_count_together() -> None:
    exit_ = second("mug", "cup", "dog", changes=ClassChanges(now={"cup": Change("mug", 7)}), temperature=10)
    assert exit_.classes == ("mug", "dog")
    apart = second("mug", "cup", "dog", temperature=10).says(frames(1)).probabilities
    assert exit_.says(frames(1)).probabilities == pytest.approx([apart[0] + apart[1], apart[2]])


def test_one_class_that_is_left_tells_nothing() -> None:
    changes = NONE.after(
        ClassEdit(boot="0" * 16, sequence=0, number=1, change="forget", name="dog", to="", session=0), 7
    )
    assert second("mug", "dog", changes=changes).misfit == "it tells fewer than two classes apart here"
    assert not second("mug", "dog").misfit


def test_its_confidence_is_what_frames_of_this_robot_say_it_is() -> None:
    exit_ = second("mug", "dog", temperature=20, least_confidence=0.5)
    many = [one % 2 for one in range(2 * MIN_FRAMES)]
    names = [("mug", "dog")[one] for one in many]
    found = exit_.calibrated(exit_.logits(frames(*many)), names)
    assert found.calibration.temperature < 2, "all are right, and it was hardly sure"
    assert found.calibration.least_confidence > 0.9
    few = exit_.calibrated(exit_.logits(frames(0, 1)), ["mug", "dog"])
    assert few.calibration.least_confidence == 0.5, "two frames do not say where the last ones in a hundred begin"
    strange = exit_.calibrated(exit_.logits(frames(0, 1)), ["cup", "cup"])
    assert strange.calibration == Calibration(temperature=20, least_confidence=0.5)


@pytest.mark.parametrize(
    ("own", "both", "frames", "refused"),
    [(100, 95, 100, False), (100, 94, 100, True), (4, 3, 4, False), (4, 2, 4, True), (3, 9, 9, False)],
)
def test_it_is_refused_where_it_names_more_of_the_robots_own_frames_wrong(
    own: int, both: int, frames: int, refused: bool
) -> None:
    refusal = Trial(own=own, both=both, frames=frames).refusal
    assert bool(refusal) == refused
    if refused:
        assert refusal.startswith(f"with it {both} of {frames} held-out frames of this robot are named right, and with")


def test_a_trial_counts_what_would_be_said() -> None:
    own = [says(name, 0.9, classes=OWN, unknown=True) for name in ("cup", "mug", "mug")]
    fleet = [says(name, 0.8, classes=FLEET) for name in ("dog", "mug", "dog")]
    found = trial(own, fleet, ["cup", "mug", "mug"])
    assert found == Trial(own=3, both=2, frames=3), "a cup is the own exit's to name"
