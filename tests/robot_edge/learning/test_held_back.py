from __future__ import annotations

from dataclasses import replace

import numpy as np

from broker.wire.messages import ClassEdit
from robot_edge.learning.batcher import Batch
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.held_back import HeldBack
from tests.saved_state import read_again

SIZE = 4
FRAME = 3 * SIZE**2


def batch(*positions: int, name: str = "mug", session: int = 0) -> Batch:
    images = np.stack([np.full((SIZE, SIZE, 3), position, np.uint8) for position in positions])
    return Batch(images=images, names=[name] * len(positions), positions=list(positions), session=session)


def edit(change: str, name: str = "", to: str = "", session: int = 0) -> ClassEdit:
    return ClassEdit(boot="b" * 16, sequence=0, number=1, change=change, name=name, to=to, session=session)  # type: ignore[arg-type]


def all_of(held: HeldBack, size: int = 9) -> list[Batch]:
    """Take all that is held."""
    taken = []
    while (one := held.take(size)) is not None:
        taken.append(one)
    return taken


def test_frames_come_out_in_their_order_each_batch_of_one_session() -> None:
    held = HeldBack(SIZE, "medium")
    held.add(batch(1, 2, 3))
    held.add(batch(4, 5, session=7, name="cup"))
    taken = all_of(held, 2)
    assert [(one.positions, one.session, set(one.names)) for one in taken] == [
        ([1, 2], 0, {"mug"}),
        ([3], 0, {"mug"}),
        ([4, 5], 7, {"cup"}),
    ]
    assert [one.images[:, 0, 0, 0].tolist() for one in taken] == [one.positions for one in taken]
    assert len(held) == 0


def test_the_oldest_go_where_there_is_no_room_and_are_counted() -> None:
    held = HeldBack(SIZE, "medium", most_bytes=3 * FRAME)
    held.add(batch(1, 2, 3, 4, 5))
    assert (len(held), held.lost) == (3, 2)
    assert all_of(held)[0].positions == [3, 4, 5]


def test_a_class_edit_applies_to_what_is_held_and_to_what_a_front_is_attacked_with() -> None:
    held = HeldBack(SIZE, "medium")
    for number, name in enumerate(("mug", "cup", "pen"), 1):
        one = batch(number, name=name, session=number)
        held.show(one, [number])
        held.add(one)
    held.apply(edit("rename", "mug", "jug"))
    held.apply(edit("forget", "cup"))
    held.apply(edit("undo", session=3))
    assert [one.names for one in all_of(held)] == [["jug"]]
    assert [(one.name, int(one.image.max())) for one in held.shown.all()] == [("jug", 1)]


def test_a_state_is_taken_up_again() -> None:
    held, other = HeldBack(SIZE, "medium"), HeldBack(SIZE, "medium")
    held.show(batch(1, 2, session=3), [1, 2])
    held.add(batch(1, 2, session=3))
    held.tried = 25
    held.attacked(0.25, 25)
    other.restore(read_again(held.state()))
    assert (other.tried, other.told, other.released, other.lost) == (25, 0.25, False, 0)
    (one,), (same,) = all_of(held), all_of(other)
    assert np.array_equal(one.images, same.images)
    assert (one.names, one.positions, one.session) == (same.names, same.positions, same.session)
    assert [one.sample for one in other.shown.in_order(9)] == [1, 2]
    held.attacked(0.15, 50)
    other.restore(read_again(held.state()))
    assert (len(other), other.released, other.since) == (0, True, 50)


def test_an_older_checkpoint_s_front_is_attacked_with_what_it_holds() -> None:
    held, other = HeldBack(SIZE, "medium"), HeldBack(SIZE, "medium")
    held.add(batch(1, 2, session=3))
    other.restore(replace(held.state(), shown=None))
    assert [one.sample for one in other.shown.in_order(9)] == [1, 2]


def test_it_says_why_nothing_is_sent() -> None:
    held = HeldBack(SIZE, "medium")
    held.add(batch(1, 2))
    assert held.why.endswith("2 frames held back, and an attack needs 320 that differ; show or teach it more")
    assert held.status == "2 frames held back until the front tells little: an attack needs 320 that differ"
    held.attacked(0.34, 1)
    assert "gets 34 % of the way to its frames, and 20 % is the line; use fewer" in held.why
    assert held.status == "2 frames held back until the front tells little: leak 0.34, line 0.20"
    held.attacked(0.2, 2)
    assert held.why == ""
    assert held.status == "2 frames held back until the outbox has room"
    all_of(held)
    assert held.status == ""


def test_a_front_may_be_held_back_again() -> None:
    held = HeldBack(SIZE, "medium")
    assert [held.attacked(told, step) for step, told in enumerate((0.3, 0.1, 0.2, 0.21, 0.3, 0.1))] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert (held.released, held.since) == (True, 5)


def test_a_front_that_stands_still_holds_nothing_back_and_says_that_it_tells_too_much() -> None:
    remembered = FrameMemory(4, SIZE, 0)
    held = HeldBack(SIZE, "high", remembered=remembered)
    held.show(batch(1), [1])
    assert (held.waits, len(held.shown), held.status) == (False, 0, "")
    assert not held.attacked(0.4, 8)
    assert not held.waits
    assert held.status == "this front tells more than --privacy high lets it: leak 0.40, line 0.10"
    other = HeldBack(SIZE, "high", remembered=remembered)
    other.restore(read_again(held.state()))
    assert (other.told, other.waits, other.tells_too_much) == (0.4, False, True)


def test_frames_that_were_forgotten_by_their_numbers_are_never_sent() -> None:
    held = HeldBack(SIZE, "medium")
    one = batch(1, 2, 3)
    held.show(one, [11, 12, 13])
    held.add(one)
    held.forget({12}, before=10)
    assert all_of(held)[0].positions == [1, 3]
    assert sorted(held.shown.numbers()) == [11, 13]
