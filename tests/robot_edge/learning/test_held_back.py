from __future__ import annotations

import numpy as np

from broker.wire.messages import ClassEdit
from robot_edge.learning.batcher import Batch
from robot_edge.learning.held_back import HeldBack
from tests.saved_state import read_again

SIZE = 4
FRAME = 3 * SIZE**2


def batch(*positions: int, name: str = "mug", session: int = 0) -> Batch:
    images = np.stack([np.full((SIZE, SIZE, 3), position, np.uint8) for position in positions])
    return Batch(images=images, names=[name] * len(positions), positions=list(positions), session=session)


def edit(change: str, name: str = "", to: str = "", session: int = 0) -> ClassEdit:
    return ClassEdit(boot="b" * 16, sequence=0, number=1, change=change, name=name, to=to, session=session)  # type: ignore[arg-type]


def test_frames_come_out_in_their_order_each_batch_of_one_session() -> None:
    held = HeldBack(SIZE)
    held.add(batch(1, 2, 3))
    held.add(batch(4, 5, session=7, name="cup"))
    assert [int(one[0, 0, 0]) for one in held.newest(2)] == [5, 4]
    released = list(held.release(2))
    assert [(one.positions, one.session, set(one.names)) for one in released] == [
        ([1, 2], 0, {"mug"}),
        ([3], 0, {"mug"}),
        ([4, 5], 7, {"cup"}),
    ]
    assert [one.images[:, 0, 0, 0].tolist() for one in released] == [one.positions for one in released]
    assert (len(held), held.released) == (0, True)


def test_the_oldest_go_where_there_is_no_room_and_are_counted() -> None:
    held = HeldBack(SIZE, most_bytes=3 * FRAME)
    held.add(batch(1, 2, 3, 4, 5))
    assert (len(held), held.lost) == (3, 2)
    assert next(held.release(9)).positions == [3, 4, 5]


def test_a_class_edit_applies_to_what_is_held() -> None:
    held = HeldBack(SIZE)
    for number, name in enumerate(("mug", "cup", "pen"), 1):
        held.add(batch(number, name=name, session=number))
    held.apply(edit("rename", "mug", "jug"))
    held.apply(edit("forget", "cup"))
    held.apply(edit("undo", session=3))
    assert [one.names for one in held.release(9)] == [["jug"]]


def test_a_state_is_taken_up_again() -> None:
    held, other = HeldBack(SIZE), HeldBack(SIZE)
    held.add(batch(1, 2, session=3))
    held.tried, held.told = 25, 0.25
    other.restore(read_again(held.state()))
    assert (other.tried, other.told, other.released, other.lost) == (25, 0.25, False, 0)
    (one,), (same,) = held.release(9), other.release(9)
    assert np.array_equal(one.images, same.images)
    assert (one.names, one.positions, one.session) == (same.names, same.positions, same.session)
    other.restore(read_again(held.state()))
    assert (len(other), other.released) == (0, True)


def test_it_says_why_nothing_is_sent() -> None:
    held = HeldBack(SIZE)
    held.add(batch(1, 2))
    assert held.why.endswith("2 frames held back, and an attack needs 320; show or teach it more")
    held.told = 0.34
    assert "gets 34 % of the way to them; use fewer" in held.why
    list(held.release(8))
    assert held.why == ""
