"""Class edits in the cloud: what a network, its rehearsal memory and the store's file are like after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cloud_trainer.session.class_edits
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, Change, ClassEdit
from cloud_trainer.robots.fleet import Fleet
from cloud_trainer.session.class_edits import ClassEdits
from cloud_trainer.session.session import Session
from cloud_trainer.store.opening import STORE
from tests.cloud_trainer.robots.test_fleet import close, enter, open_fleet, train
from tests.cloud_trainer.world import STATE, Cloud, finish_idle, make_batch, outcomes

pytestmark = pytest.mark.usefixtures("tiny")

REHEARSING = replace(STATE, rehearse=1.0)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = open_fleet(tmp_path)
    enter(fleet, "r1", REHEARSING)
    yield fleet
    close(fleet)


def teach(fleet: Fleet, sequence: int, *names: str, edits: int = 0, session: int = 0, boot: str = STATE.boot) -> None:
    batch = make_batch(names, sequence=sequence, edits=edits, session=session, boot=boot)
    assert fleet.store.append_message("r1", batch.boot, batch.sequence, pack(batch))
    fleet.robots["r1"].training.stored["r1"] += 1
    fleet.store.commit()
    train(fleet)


def edit(
    fleet: Fleet,
    sequence: int,
    change: Change,
    name: str,
    *,
    to: str = "",
    session: int = 0,
    number: int = 1,
    boot: str = STATE.boot,
) -> None:
    it = ClassEdit(boot=boot, sequence=sequence, number=number, change=change, name=name, to=to, session=session)
    assert fleet.store.append_message("r1", it.boot, it.sequence, pack(it), "edit")
    fleet.store.commit()
    train(fleet)


def session_of(fleet: Fleet) -> Session:
    session = fleet.training_of("r1").session
    assert session is not None
    return session


def remembered(fleet: Fleet) -> dict[str, int]:
    return session_of(fleet).network.memory.counts()


def stored_names(fleet: Fleet) -> list[list[str]]:
    return [unpack_as(ActivationBatch, event.payload).names for event in fleet.store.batches_after("r1", 0)]


def test_a_renamed_class_is_the_same_one(fleet: Fleet) -> None:
    teach(fleet, 0, *["mug", "car"] * 4)
    row = session_of(fleet).trainer.segment.head.weight[0].clone()
    edit(fleet, 1, "rename", "mug", to="cup")
    head = session_of(fleet).trainer.segment.head
    assert head.classes == ("cup", "car")
    assert (head.weight[0] == row).all()
    assert remembered(fleet) == {"car": 4, "cup": 4}
    teach(fleet, 2, "mug", "mug", "car", "car")  # sent before, and late
    assert head.classes == ("cup", "car")
    assert remembered(fleet)["cup"] >= 4


def test_merged_classes_are_one(fleet: Fleet) -> None:
    teach(fleet, 0, *["mug", "car", "cup", "car"] * 2)
    edit(fleet, 1, "rename", "mug", to="cup")
    assert session_of(fleet).trainer.classes == ("car", "cup")
    assert remembered(fleet) == {"car": 4, "cup": 4}


def test_a_forgotten_class_leaves_nothing_in_memory_network_or_file(fleet: Fleet, tmp_path: Path) -> None:
    teach(fleet, 0, *["secret-mug", "car"] * 4)
    teach(fleet, 1, *["car"] * 4)
    edit(fleet, 2, "forget", "secret-mug")
    teach(fleet, 3, "secret-mug", "car", "car", "car")  # sent before, and late
    assert session_of(fleet).trainer.classes == ("car",)
    assert set(remembered(fleet)) == {"car"}
    assert b"secret-mug" in (tmp_path / STORE).read_bytes() + (tmp_path / (STORE + "-wal")).read_bytes()
    finish_idle(fleet, "r1")
    fleet.save("r1")
    assert stored_names(fleet) == [["?", "car"] * 4, ["car"] * 4, ["?", "car", "car", "car"]]
    for name in (STORE, STORE + "-wal"):
        # The edit itself names what was forgotten; nothing else does.
        assert (tmp_path / name).read_bytes().count(b"secret-mug") <= 1
    assert not fleet.store.is_whole("r1"), "no replay from the start ends at these weights"


def test_an_undone_lesson_is_trained_on_no_more(fleet: Fleet) -> None:
    teach(fleet, 0, *["mug", "car"] * 4, session=1)
    teach(fleet, 1, *["car"] * 4, session=2)
    edit(fleet, 2, "undo", "", session=2)
    assert set(remembered(fleet)) == {"mug", "car"}
    assert remembered(fleet)["car"] <= 4, "none is left of the second lesson"
    teach(fleet, 3, *["star"] * 4, session=3, edits=1)
    edit(fleet, 4, "undo", "star", session=3, number=2)
    assert session_of(fleet).trainer.classes == ("mug", "car")
    assert set(remembered(fleet)) == {"mug", "car"}


def test_edits_outlast_the_process(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path)
    enter(fleet, "r1", REHEARSING)
    teach(fleet, 0, *["mug", "car"] * 4)
    edit(fleet, 1, "rename", "mug", to="cup")
    fleet.save("r1")
    close(fleet)
    again = open_fleet(tmp_path)
    teach(again, 2, "mug", "mug", "car", "car")
    assert session_of(again).trainer.classes == ("cup", "car")
    close(again)


def test_a_killed_trainer_wipes_what_it_had_not_wiped_yet(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, checkpoint_every=10**6)
    enter(fleet, "r1", REHEARSING)
    teach(fleet, 0, *["mug", "car"] * 4)
    edit(fleet, 1, "forget", "mug")
    close(fleet)
    again = open_fleet(tmp_path, checkpoint_every=10**6)
    train(again)
    again.save("r1")
    assert stored_names(again) == [["?", "car"] * 4]
    close(again)


def test_an_edit_has_a_receipt_and_comes_once(cloud: Cloud) -> None:
    change = ClassEdit(boot=STATE.boot, sequence=1, number=1, change="rename", name="cat", to="tiger", session=0)
    cloud.say("r1", REHEARSING, make_batch(["cat", "dog"] * 4))
    assert outcomes(cloud.say("r1", change)) == ["accepted"]
    assert outcomes(cloud.say("r1", change)) == ["duplicate"]
    assert cloud.session().trainer.classes == ("tiger", "dog")


def test_edits_go_on_where_a_trainer_takes_a_running_robot_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = ClassEdit(boot=STATE.boot, sequence=1, number=1, change="forget", name="cat", to="", session=0)
    rename = replace(forget, sequence=3, number=2, change="rename", name="dog", to="hound")
    later = make_batch(["dog", "ant"] * 2, sequence=2, edits=1)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    one = Cloud(tmp_path / "one", monkeypatch)
    one.say("r1", STATE, make_batch(["cat", "dog"] * 2), forget)
    one.kill()
    one.start()  # its own network goes on, although the state has changed
    assert outcomes(one.say("r1", replace(STATE, edits=1), later, rename)) == ["accepted", "accepted"]
    assert one.session().trainer.classes == ("hound", "ant")
    assert one.session().images == 8
    one.kill()
    other = Cloud(tmp_path / "other", monkeypatch)  # one that was never told of the first edit does not wait for it
    assert outcomes(other.say("r1", replace(STATE, edits=1), later, rename)) == ["accepted", "accepted"]
    assert other.session().trainer.classes == ("hound", "ant")
    other.kill()


def test_each_run_counts_its_edits_and_lessons_anew(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path)
    enter(fleet, "r1", REHEARSING)
    teach(fleet, 0, *["mug", "car"] * 4, session=1)
    edit(fleet, 1, "rename", "mug", to="cup")
    edit(fleet, 2, "undo", "", session=2, number=2)
    boot = "d" * 16  # of a run that began with the weights of the first one
    enter(fleet, "r1", replace(REHEARSING, boot=boot, run="e" * 16, former=REHEARSING.run, weights="checkpoint"))
    teach(fleet, 0, *["mug"] * 4, session=1, boot=boot)
    teach(fleet, 1, *["star"] * 4, session=2, boot=boot)
    assert session_of(fleet).trainer.classes == ("cup", "car", "mug", "star"), "former edits are not of this run"
    before = remembered(fleet)["cup"]
    edit(fleet, 2, "undo", "mug", session=1, boot=boot)
    assert session_of(fleet).trainer.classes == ("cup", "car", "star")
    assert remembered(fleet)["cup"] == before > 0, "its lesson has the same number, and was another one"
    fleet.save("r1")
    close(fleet)
    fleet = open_fleet(tmp_path)
    edit(fleet, 3, "forget", "cup", number=2, boot=boot)
    assert session_of(fleet).trainer.classes == ("car", "star")
    fleet.save("r1")
    assert stored_names(fleet)[0] == ["?", "car"] * 4, "what the former run taught, too"
    close(fleet)


def test_a_robot_with_no_end_of_lessons_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_trainer.session.class_edits, "MAX_SESSIONS", 3)
    edits = ClassEdits()
    for session in range(1, 8):
        edits.note(make_batch(["cat"], samples=[session], session=session))
    assert [session for session in range(1, 8) if edits.is_of_session(0, session, session)] == [5, 6, 7]
