from __future__ import annotations

import json

import pytest

from hierarchy.evaluation import RECENT, HeldOut, Prequential
from tests.saved_state import read_again


def test_nothing_is_known_before_the_first_prediction() -> None:
    prequential, held_out = Prequential(), HeldOut()
    assert (prequential.count, prequential.overall, prequential.recent) == (0, None, None)
    assert (held_out.count, held_out.accuracy, held_out.by_class) == (0, None, {})


def test_prequential_accuracy_counts_from_the_start_and_lately() -> None:
    prequential = Prequential()
    prequential.add([False] * RECENT)
    prequential.add([True] * (RECENT // 4))
    assert prequential.count == RECENT * 5 // 4
    assert prequential.overall == 0.2
    assert prequential.recent == 0.25


def test_held_out_accuracy_is_of_all_frames_and_of_each_class() -> None:
    held_out = HeldOut()
    held_out.add(["cat", "cat", "dog"], ["cat", "dog", "dog"])
    held_out.add(["ant"], ["cat"])
    assert held_out.count == 4
    assert held_out.accuracy == 0.5
    assert held_out.by_class == {"ant": 0.0, "cat": 0.5, "dog": 1.0}


def test_every_frame_needs_a_prediction() -> None:
    with pytest.raises(ValueError, match="shorter"):
        HeldOut().add(["cat", "dog"], ["cat"])


def test_states_are_taken_up_again() -> None:
    prequential, held_out = Prequential(), HeldOut()
    prequential.add([True] * 3 + [False] * 2)
    held_out.add(["cat", "dog"], ["cat", "cat"])
    restored, its_held_out = read_again(prequential), HeldOut(json.loads(json.dumps(held_out.confusion)))
    for one in (prequential, restored):
        one.add([True] * RECENT)
    assert (restored.count, restored.overall, restored.recent) == (prequential.count, prequential.overall, 1.0)
    assert (its_held_out.count, its_held_out.by_class) == (2, {"cat": 1.0, "dog": 0.0})
    assert its_held_out.confusion == held_out.confusion


def test_what_is_taken_for_what_is_counted() -> None:
    held_out = HeldOut()
    held_out.add(["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", ""])
    assert held_out.confusion == {"cat": {"cat": 1, "dog": 1}, "dog": {"dog": 1, "": 1}}
    held_out.confusion["cat"]["cat"] = 100  # a copy
    assert held_out.count == 4


def test_a_renamed_class_is_renamed_where_it_was_taken_for_too() -> None:
    held_out = HeldOut()
    held_out.add(["cat", "dog", "dog"], ["dog", "cat", "dog"])
    held_out.rename("dog", "hound")
    assert held_out.confusion == {"cat": {"hound": 1}, "hound": {"cat": 1, "hound": 1}}
    held_out.rename("hound", "cat")
    assert held_out.confusion == {"cat": {"cat": 3}}
    held_out.rename("bird", "cat")
    held_out.rename("cat", "cat")
    assert held_out.confusion == {"cat": {"cat": 3}}


def test_nothing_is_left_of_a_forgotten_class() -> None:
    held_out = HeldOut()
    held_out.add(["cat", "dog", "dog"], ["dog", "cat", "dog"])
    held_out.remove("dog")
    assert "dog" not in json.dumps(held_out.confusion)
    assert (held_out.count, held_out.accuracy) == (1, 0.0)
    held_out.remove("cat")
    assert (held_out.count, held_out.accuracy, held_out.by_class) == (0, None, {})
