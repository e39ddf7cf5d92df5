from __future__ import annotations

import random
from itertools import permutations

import numpy as np
import pytest

from broker.wire.bounds import FORGOTTEN
from broker.wire.messages import Change, ClassEdit
from broker.wire.quantize import unpack_activations
from cloud_trainer.session.class_edits import MAX_BOOTS, ClassEdits
from tests.cloud_trainer.world import STATE, make_batch
from tests.saved_state import read_again


def edit(number: int, change: Change, name: str, to: str = "", session: int = 0) -> ClassEdit:
    return ClassEdit(boot=STATE.boot, sequence=number, number=number, change=change, name=name, to=to, session=session)


CHAIN = [edit(1, "rename", "mug", "cup"), edit(2, "rename", "cup", "bowl"), edit(3, "forget", "bowl")]


@pytest.mark.parametrize(
    ("made_after", "expected"),
    [(0, ["", "car"]), (1, ["mug", "car"]), (3, ["mug", "car"])],
)
def test_edits_apply_to_what_was_made_before_them(made_after: int, expected: list[str]) -> None:
    edits = ClassEdits()
    for one in CHAIN:
        edits.take(one)
    assert edits.names_now(make_batch(["mug", "car"], edits=made_after), 1) == expected
    assert edits.names_now(make_batch(["cup", "bowl"], edits=1), 1) == ["", ""]


def test_edits_that_overtake_one_another_are_done_in_their_order() -> None:
    for order in permutations(CHAIN):
        edits = ClassEdits()
        done = [one.number for came in order for one in edits.take(came)]
        assert done == [1, 2, 3]
        assert [edits.take(one) for one in order] == [[], [], []], "they may come again"


def test_edits_before_the_network_began_are_not_waited_for() -> None:
    edits = ClassEdits(before=2)
    assert edits.take(CHAIN[0]) == []
    assert edits.take(CHAIN[2]) == [CHAIN[2]]


def test_an_undone_session_is_gone_and_no_other() -> None:
    edits = ClassEdits()
    edits.take(edit(1, "undo", "", session=4))
    assert edits.names_now(make_batch(["mug"], session=4), 1) == [""]
    assert edits.names_now(make_batch(["mug"], session=3), 1) == ["mug"]
    assert edits.names_now(make_batch(["mug"], session=4, edits=1), 1) == ["mug"]


def test_a_class_that_an_undo_names_is_gone_whatever_session_its_samples_are_of() -> None:
    edits = ClassEdits()
    edits.take(edit(1, "undo", "mug", session=4))
    assert edits.names_now(make_batch(["mug", "car"], evaluation=1), 1) == ["", "car"]
    assert edits.names_now(make_batch(["mug"], edits=1), 1) == ["mug"], "it is taught anew"


def test_what_another_robot_had_forgotten_everywhere_is_gone_up_to_that_place_of_the_log() -> None:
    edits = ClassEdits()
    edits.note(make_batch(["mug", "cup"], samples=[1, 2]))
    edits.take(edit(1, "rename", "cup", "mug"))
    edits.forget_elsewhere("mug", 7)
    assert edits.names_now(make_batch(["mug", "cup", "car"]), 6) == ["", "", "car"], "as they were called by then"
    assert edits.names_now(make_batch(["mug"], evaluation=1, edits=1), 6) == [""]
    assert edits.names_now(make_batch(["mug", "mug"], samples=[2, 3], edits=1), 8) == ["mug", "mug"], "taught later"
    once_more = make_batch(["mug", "mug", "car"], samples=[2, 3, 1], edits=1, again=True)
    assert edits.names_now(once_more, 8) == ["", "mug", "car"], "no more than it was before"
    edits.take(edit(2, "rename", "car", "mug"))
    assert edits.names_now(make_batch(["mug", "car"], edits=1), 6) == ["", "mug"]
    again = ClassEdits()
    again.restore(read_again(edits.state()))
    assert again.names_now(once_more, 8) == ["", "mug", "mug"]
    again.begin_run(0)
    assert again.names_now(once_more, 8) == ["mug", "mug", "mug"], "another run has other numbers"
    wiped = again.wipe(make_batch(["mug", "pot"]), 6)
    assert wiped is not None
    assert wiped.names == [FORGOTTEN, "pot"]


def test_its_state_goes_through_json() -> None:
    edits = ClassEdits()
    edits.take(CHAIN[0])
    edits.take(CHAIN[2])
    again = ClassEdits()
    again.restore(read_again(edits.state()))
    assert again.take(CHAIN[1]) == [CHAIN[1], CHAIN[2]]
    assert again.names_now(make_batch(["mug"]), 1) == [""]


def test_nothing_is_left_of_a_wiped_sample_and_the_others_stay_where_they_are() -> None:
    edits = ClassEdits()
    edits.take(edit(1, "forget", "mug"))
    names = random.Random(0).choices(["mug", "car", "star"], k=20)
    batch = make_batch(names)
    wiped = edits.wipe(batch, 1)
    assert wiped is not None
    assert wiped.names == [FORGOTTEN if name == "mug" else name for name in names]
    assert "mug" not in wiped.classes
    before, after = unpack_activations(batch.activations).codes, unpack_activations(wiped.activations).codes
    for row, name in enumerate(names):
        assert np.array_equal(after[row], before[row]) == (name != "mug")
        assert name != "mug" or not after[row].any()
    assert edits.wipe(wiped, 1) is None, "there is no more to wipe"
    assert edits.wipe(make_batch(["car"]), 1) is None
    assert edits.names_now(wiped, 1) == ["" if name == "mug" else name for name in names]


def test_edits_that_would_change_nothing_are_known() -> None:
    edits = ClassEdits()
    assert not edits.knows(CHAIN[0])
    edits.take(CHAIN[0])
    edits.take(CHAIN[2])  # early
    assert [edits.knows(one) for one in CHAIN] == [True, False, True]
    edits.begin_run(0)
    assert edits.knows(CHAIN[1]), "of the run before"


def test_boots_are_bounded() -> None:
    edits = ClassEdits()
    for number in range(MAX_BOOTS + 5):
        edits.note(make_batch(["cat"], boot=f"{number:016x}"))
    assert len(edits._runs) == MAX_BOOTS
