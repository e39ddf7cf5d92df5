from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from broker.errors import MalformedMessage
from broker.wire.messages import ClassEdit, SplitSpec
from broker.wire.quantize import Codec
from cloud_trainer.robots.intake import Intake
from tests.cloud_trainer.world import make_batch

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=16, bits=4, bottleneck=2, shape=(2, 3, 3))


@pytest.mark.parametrize("change", [{"image_size": 32}, {"bits": 5}, {"shape": (3, 3, 2)}])
def test_a_batch_of_another_split_is_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage, match="is not the one in the robot's state"):
        Intake(SPLIT, most_classes=9).check(make_batch(["cat"], dataclasses.replace(SPLIT, **change)))


@pytest.mark.parametrize("change", [{"bits": 5}, {"shape": (3, 3, 2)}, {"shape": (2, 9)}, {"shape": (18,)}])
def test_a_batch_that_lies_about_its_split_is_rejected(change: dict[str, Any]) -> None:
    other = dataclasses.replace(SPLIT, **change)
    lie = dataclasses.replace(make_batch(["cat"], other), split=SPLIT.fingerprint)
    with pytest.raises(MalformedMessage) as error:
        Intake(SPLIT, most_classes=9).check(lie)
    assert f"{other.shape} at {other.bits} bits; the split has (2, 3, 3) at 4 at most" in str(error.value)


@pytest.mark.parametrize("codec", ["lz4", "zlib"])
@pytest.mark.parametrize("data", [b"\xff" * 9, b"\x10x", b""])
def test_a_batch_that_cannot_be_read_is_rejected_before_it_is_stored(data: bytes, codec: Codec) -> None:
    batch = make_batch(["cat"] * 8, SPLIT)
    lie = dataclasses.replace(batch, activations=dataclasses.replace(batch.activations, codec=codec, data=data))
    with pytest.raises(MalformedMessage):
        Intake(SPLIT, most_classes=9).check(lie)


def test_classes_are_bounded_over_all_messages_and_known_ones_still_welcome() -> None:
    intake = Intake(SPLIT, most_classes=4)
    intake.know(("ant", "bee"))
    intake.check(make_batch(["cat", "dog"], SPLIT))
    with pytest.raises(MalformedMessage, match=r"5 classes, limit 4 \(--most-classes\)"):
        intake.check(make_batch(["cat", "eel"], SPLIT))
    intake.check(make_batch(["ant", "bee", "cat", "dog"], SPLIT))


def test_what_forgotten_samples_are_called_is_no_class() -> None:
    intake = Intake(SPLIT, most_classes=4)
    with pytest.raises(MalformedMessage, match="use another one"):
        intake.check(make_batch(["cat", "?"], SPLIT))
    edit = ClassEdit(boot="1" * 16, sequence=1, number=1, change="rename", name="cat", to="?", session=0)
    with pytest.raises(MalformedMessage, match="use another one"):
        intake.check_edit(edit)


def test_what_is_rejected_uses_up_no_class() -> None:
    intake = Intake(SPLIT, most_classes=1)
    batch = make_batch(["dog"], SPLIT)
    broken = dataclasses.replace(batch.activations, codec="lz4", data=b"\xff" * 9)
    with pytest.raises(MalformedMessage):
        intake.check(dataclasses.replace(batch, activations=broken))
    intake.check(make_batch(["cat"], SPLIT))


def test_an_edit_makes_no_class_more_and_none_is_refused_for_their_number() -> None:
    intake = Intake(SPLIT, most_classes=2)
    intake.check(make_batch(["cat", "dog"], SPLIT))
    edit = ClassEdit(boot="1" * 16, sequence=1, number=1, change="rename", name="cat", to="eel", session=0)
    intake.check_edit(edit)
    intake.check(make_batch(["eel", "dog"], SPLIT))
    with pytest.raises(MalformedMessage, match="3 classes, limit 2"):
        intake.check(make_batch(["cat"], SPLIT))
    intake.check_edit(dataclasses.replace(edit, name="bee", to="fox"))  # nobody has sent anything of a bee
    intake.check(make_batch(["eel", "dog"], SPLIT))


@pytest.mark.parametrize("gone", [{"change": "forget", "to": ""}, {"to": "dog"}, {"change": "undo", "to": ""}])
def test_a_class_that_is_gone_leaves_room_for_another(gone: dict[str, Any]) -> None:
    intake = Intake(SPLIT, most_classes=2)
    intake.check(make_batch(["cat", "dog"], SPLIT))
    edit = ClassEdit(boot="1" * 16, sequence=1, number=1, change="rename", name="cat", to="eel", session=0)
    intake.check_edit(dataclasses.replace(edit, **gone))
    intake.check(make_batch(["ant", "dog"], SPLIT))


def test_a_robot_whose_link_is_behind_may_send_fewer_bits() -> None:
    fewer = make_batch(["cat"], dataclasses.replace(SPLIT, bits=1))
    Intake(SPLIT, most_classes=9).check(dataclasses.replace(fewer, split=SPLIT.fingerprint))


def is_taken(intake: Intake, robot: str, number: int) -> bool:
    """Whether a robot may teach one more class."""
    try:
        intake.check(make_batch([f"{robot} {number}"], SPLIT), robot)
    except MalformedMessage:
        return False
    return True


def test_each_robot_of_a_fleet_leaves_as_many_classes_free_as_it_has_to_itself() -> None:
    intake = Intake(SPLIT, most_classes=11, shared=True)
    taught = {robot: sum(is_taken(intake, robot, number) for number in range(9)) for robot in ("r1", "r2", "r3")}
    with pytest.raises(MalformedMessage, match=r"6 classes that no other robot of the fleet teaches, and 1 left"):
        intake.check(make_batch(["r1 5"], SPLIT), "r1")
    assert taught == {"r1": 5, "r2": 3, "r3": 1}
    intake.check(make_batch(["r1 0", "r2 0"], SPLIT), "r3")


def test_in_a_fleet_a_class_is_gone_where_its_only_teacher_forgets_it() -> None:
    intake = Intake(SPLIT, most_classes=2, shared=True)
    intake.know(["of before"])
    intake.check(make_batch(["cat"], SPLIT), "r1")
    forget = ClassEdit(boot="1" * 16, sequence=1, number=1, change="forget", name="cat", to="", session=0)
    for edit in (forget, dataclasses.replace(forget, name="of before")):
        intake.check_edit(edit, "r2")
        with pytest.raises(MalformedMessage, match="3 classes, limit 2"):
            intake.check(make_batch(["dog"], SPLIT), "r2")
    intake.check_edit(forget, "r1")
    intake.check(make_batch(["dog"], SPLIT), "r2")
