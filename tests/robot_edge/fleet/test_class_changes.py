"""What was forgotten or renamed here stays so, until a later version of the fleet's exit knows of it."""

from __future__ import annotations

import random

from broker.wire.messages import Change as Kind
from broker.wire.messages import ClassEdit
from robot_edge.fleet.class_changes import GONE, ClassChanges


def edit(number: int, change: Kind, name: str, to: str = "") -> ClassEdit:
    session = 1 if change == "undo" else 0
    return ClassEdit(boot="0" * 16, sequence=0, number=number, change=change, name=name, to=to, session=session)


def test_a_forgotten_class_is_gone_until_it_is_taught_here_again() -> None:
    changes = ClassChanges().after(edit(1, "forget", "mug"), 7)
    assert (changes.called("mug"), changes.called("cup")) == (GONE, "cup")
    assert changes.without(7, ["mug"], ["cup"]) == changes
    again = changes.without(7, ["mug"], ["mug"])
    assert again.called("mug") == "mug"
    assert again.after(edit(2, "rename", "mug", "cup"), 7).called("mug") == "cup"


def test_an_undone_lesson_takes_its_class_and_another_one_no_class() -> None:
    changes = ClassChanges().after(edit(1, "undo", "mug"), 7).after(edit(2, "undo", ""), 7)
    assert (changes.called("mug"), changes.called("cup"), changes.edits) == (GONE, "cup", 2)


def test_names_go_on_from_one_edit_to_the_next() -> None:
    changes = ClassChanges().after(edit(1, "rename", "mug", "cup"), 7).after(edit(2, "rename", "cup", "beaker"), 7)
    assert [changes.called(one) for one in ("mug", "cup", "dog")] == ["beaker", "beaker", "dog"]
    gone = changes.after(edit(3, "forget", "beaker"), 7)
    assert [gone.called(one) for one in ("mug", "cup", "beaker", "dog")] == [GONE, GONE, GONE, "dog"]


def test_an_edit_that_comes_again_changes_nothing() -> None:
    first, second = edit(1, "rename", "mug", "cup"), edit(2, "rename", "cup", "beaker")
    changes = ClassChanges().after(first, 7).after(second, 7)
    assert changes.after(first, 7).after(second, 7) == changes


def test_a_later_version_without_the_class_ends_a_change_and_one_with_it_does_not() -> None:
    changes = ClassChanges().after(edit(1, "forget", "mug"), 7)
    assert changes.without(7, ["cup"], []) == changes, "the cloud may not have heard of the lesson yet"
    assert changes.without(8, ["mug", "cup"], []) == changes, "nor of the edit"
    over = changes.without(9, ["cup"], [])
    assert over.called("mug") == "mug", "what somebody calls so from now on"
    assert over.edits == 1


def test_whatever_the_edits_a_class_is_called_what_the_last_ones_say() -> None:
    rng, names = random.Random(0), list("abcd")
    for _ in range(200):
        changes, called = ClassChanges(), {name: name for name in names}
        for number in range(1, 6):
            old, new = rng.sample(names, 2)
            one = edit(number, "rename", old, new) if rng.random() < 0.6 else edit(number, "forget", old)
            to = new if one.change == "rename" else GONE
            called = {name: to if now == old else now for name, now in called.items()}
            changes = changes.after(one, 7)
        assert {name: changes.called(name) for name in names} == called
