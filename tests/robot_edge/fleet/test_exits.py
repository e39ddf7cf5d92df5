"""A fleet's exit comes in pieces, over breaks and restarts; it is held to its digests, tried out, and can be left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire.codec import pack
from broker.wire.messages import ClassEdit, ExitPiece, FleetExit
from hierarchy.exit_rows import ExitRows
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.fleet import exits as module
from robot_edge.fleet.exits import FleetExits
from robot_edge.fleet.fetching import Fetching, Place
from robot_edge.fleet.kept_exits import KeptExits
from robot_edge.fleet.second_exit import HeldOutSays, Says
from tests.fleet_exits import FEATURES, PLACE, encode, exit_of, frames, publish, rows_of

RUN = "c" * 16
NAMES = tuple(f"class {one}" for one in range(FEATURES))


class World:
    """A broker, a trainer's link, and a robot that may start again on its run folder."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # So that some rows are several pieces.
        monkeypatch.setattr("hierarchy.exit_rows.PIECE_BYTES", 20)
        monkeypatch.setattr("broker.wire.codec.PIECE_BYTES", 20)
        self.broker = MemoryBroker()
        self.trainer = MemoryLink(self.broker)
        self.path = path
        self.now = 0.0
        self.link: MemoryLink | None = None
        self.folder: RunFolder | None = None
        self.robot = self.start()

    def start(self, place: Place = PLACE, run: str = RUN, former: Path | None = None) -> FleetExits:
        """Start the robot, in place of the one before."""
        if self.link and self.folder:
            self.link.close()
            self.folder.close()
        self.link, self.folder = MemoryLink(self.broker), RunFolder(self.path, {"robot": "r1"})
        kept = KeptExits(self.folder.path, self.folder.disk, former)
        self.robot = FleetExits(self.link, place, kept, encode=encode, run=run, clock=lambda: self.now)
        return self.robot

    def publish(self, rows: ExitRows, version: int = 7, **fields: Any) -> tuple[FleetExit, list[ExitPiece]]:
        manifest, pieces = exit_of(rows, version, **fields)
        publish(self.trainer, manifest, pieces)
        return manifest, pieces

    def adopt(self, *own: str, held_out: HeldOutSays | None = None) -> str:
        """Let the robot take in what came, try it out, and say how it stands."""
        for _ in range(2):  # a manifest, and then the pieces that it asks for
            self.robot.turn()
        if self.robot.is_new:
            self.robot.try_out(own, held_out)
        return self.robot.status.text


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    if world.folder:
        world.folder.close()


def named(robot: FleetExits, axis: int) -> str:
    """Return what the fleet's exit says of a frame; empty where it is unknown, or none answers."""
    said = robot.in_use.says(frames(axis)) if robot.in_use else None
    return said.name if said and not said.unknown else ""


def test_a_robot_that_was_taught_nothing_names_what_its_fleet_knows(world: World) -> None:
    assert world.adopt() == "no exit of fleet dogs so far"
    world.publish(rows_of(NAMES))
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"
    assert [named(world.robot, axis) for axis in range(FEATURES)] == list(NAMES)
    world.publish(rows_of(NAMES[:3]), 8)
    assert world.adopt("class 1") == "exit of fleet dogs version 8: 3 classes, 2 taught elsewhere"


def test_pieces_that_are_here_do_not_come_again(world: World) -> None:
    manifest, pieces = exit_of(rows_of(NAMES))
    assert len(pieces) == 8
    for number, piece in list(enumerate(pieces, manifest.first))[:5]:
        world.trainer.publish(PLACE.topic_of(number), pack(piece), retain=True)
    world.trainer.publish(PLACE.topic, pack(manifest), retain=True)
    assert world.adopt() == "no exit of fleet dogs so far, version 7 is coming"
    robot = world.start()  # killed, and started again without a trainer
    assert robot.status.coming == 7
    asked = [one for one in world.link._inbox.filters if "/piece/" in one] if world.link else []
    assert asked == [PLACE.topic_of(number) for number in range(manifest.first + 5, manifest.first + 8)]
    publish(world.trainer, manifest, pieces)
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"
    assert not [one for one in (world.link._inbox.filters if world.link else []) if "/piece/" in one]


def test_it_outlasts_the_process_the_trainer_and_the_broker(world: World) -> None:
    world.publish(rows_of(NAMES))
    world.adopt()
    world.broker = MemoryBroker()
    world.start()
    assert world.robot.is_new, "held-out frames may be others by now"
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"
    assert sorted(one.name for one in (world.path / "fleet").iterdir()) == ["exit.bin"]


def test_a_piece_that_got_lost_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, pieces = exit_of(rows_of(NAMES))
    world.trainer.publish(PLACE.topic, pack(manifest), retain=True)
    world.adopt()
    for number, piece in enumerate(pieces, manifest.first):
        world.broker.retained[PLACE.topic_of(number)] = pack(piece)  # what came of it is lost
    assert "coming" in world.adopt()
    world.now = module.ASK_AGAIN_SECONDS
    world.adopt()
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"


def test_a_piece_with_another_digest_is_not_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manifest, pieces = exit_of(rows_of(NAMES))
    publish(world.trainer, manifest, [ExitPiece(data=b"x" * 20), *pieces[1:]])
    assert world.adopt() == "no exit of fleet dogs so far, version 7 is coming"
    assert "a piece of the fleet's exit version 7 is another one" in caplog.text
    publish(world.trainer, manifest, pieces)
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"


def test_pieces_that_together_are_another_exit_are_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manifest, pieces = exit_of(rows_of(NAMES), digest=hashlib.sha256(b"another").digest())
    publish(world.trainer, manifest, pieces)
    assert world.adopt() == "no exit of fleet dogs so far"
    assert "all of them together are not what its digest says" in caplog.text


def test_a_version_that_is_gone_is_followed_by_the_one_behind_it(world: World) -> None:
    manifest, _ = exit_of(rows_of(NAMES))
    world.trainer.publish(PLACE.topic, pack(manifest), retain=True)
    assert "version 7 is coming" in world.adopt()
    world.publish(rows_of(NAMES[:4]), 8)
    world.publish(rows_of(NAMES[:5]), 9)  # at the numbers that version 7 had
    assert world.adopt() == "exit of fleet dogs version 9: 5 classes, 5 taught elsewhere"


def test_half_of_a_version_that_is_gone_when_the_robot_is_back_is_forgotten(world: World) -> None:
    manifest, pieces = exit_of(rows_of(NAMES))
    world.trainer.publish(PLACE.topic, pack(manifest), retain=True)
    for number, piece in list(enumerate(pieces, manifest.first))[:3]:
        world.trainer.publish(PLACE.topic_of(number), pack(piece), retain=True)
    assert "version 7 is coming" in world.adopt()
    assert len(list((world.path / "fleet").glob("*.piece"))) == 3
    if world.link:
        world.link.connected = False  # broken off; what comes meanwhile, it does not hear of
    world.publish(rows_of(NAMES[:4]), 9)
    world.start()
    assert world.adopt() == "exit of fleet dogs version 9: 4 classes, 4 taught elsewhere"
    assert [one.name for one in (world.path / "fleet").iterdir()] == ["exit.bin"]


def test_no_earlier_version_takes_the_place_of_a_later_one(world: World) -> None:
    world.publish(rows_of(NAMES), 9)
    world.adopt()
    for version in (8, 9):
        world.publish(rows_of(NAMES[:2]), version)
        assert world.adopt() == "exit of fleet dogs version 9: 8 classes, 8 taught elsewhere"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"front": "0" * 16}, "it belongs behind another front (0000000000000000, here ffffffffffffffff)"),
        ({"split": "0" * 16}, "it is of another split (0000000000000000, cut; here 5555555555555555, cut)"),
        ({"on": "end"}, "it is of another split (5555555555555555, end; here 5555555555555555, cut)"),
    ],
)
def test_an_exit_of_another_front_or_split_is_not_taken(
    world: World, caplog: pytest.LogCaptureFixture, change: dict[str, Any], why: str
) -> None:
    world.publish(rows_of(NAMES), **change)
    assert world.adopt() == "no exit of fleet dogs so far"
    assert f"the fleet's exit version 7 is not taken: {why}" in caplog.text


def test_an_exit_that_takes_other_features_is_not_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish(rows_of(NAMES[:2], features=FEATURES + 1))
    assert world.adopt() == "no exit of fleet dogs so far"
    assert "it takes 9 features of a frame, and here are 8" in caplog.text


def test_what_was_kept_for_another_front_is_not_taken_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish(rows_of(NAMES))
    world.adopt()
    world.start(replace(PLACE, front="0" * 16))
    assert world.adopt() == "no exit of fleet dogs so far"
    assert "belongs behind another front" in caplog.text


def test_garbage_is_ignored_and_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for garbage in (b"", b"\xc1", b"{}", pack(ExitPiece(data=b"x"))):
        world.trainer.publish(PLACE.topic, garbage, retain=True)
        assert world.adopt() == "no exit of fleet dogs so far"
    assert "ignoring an exit of the fleet: FleetExit expected, got ExitPiece" in caplog.text


@pytest.mark.parametrize("name", ["exit.bin", "coming.bin"])
@pytest.mark.parametrize("damage", [b"", b"\x92\xc4\x01\x00\x90", b"\xff" * 40])
def test_a_damaged_file_comes_again(world: World, name: str, damage: bytes) -> None:
    (world.path / "fleet").mkdir(exist_ok=True)
    (world.path / "fleet" / name).write_bytes(damage)
    world.start()
    assert world.robot.status.version == 0
    world.publish(rows_of(NAMES))
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"


def test_a_disk_that_takes_nothing_is_no_reason_to_do_without(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("robot_edge.fleet.kept_exits.write_bytes", full)
    world.publish(rows_of(NAMES))
    assert world.adopt() == "exit of fleet dogs version 7: 8 classes, 8 taught elsewhere"
    assert world.folder
    assert world.folder.disk.missing == {"fleet": "[Errno 28] no space left on device"}


# Trying out


def held_out(*shown: tuple[int, str]) -> HeldOutSays:
    """Return held-out frames, which the own exit names as they are. shown: feature and name of each."""
    classes = tuple(dict.fromkeys(name for _, name in shown))
    own = [Says(name=one, confidence=0.9, unknown=False, classes=classes, probabilities=None) for _, one in shown]  # type: ignore[arg-type]
    return HeldOutSays(names=[name for _, name in shown], crossed=frames(*(axis for axis, _ in shown)), own=own)


def test_an_exit_that_names_own_frames_wrong_is_refused_and_another_one_taken(world: World) -> None:
    mine = held_out(*[(0, "class 0"), (1, "class 1")] * 10)
    world.publish(rows_of(NAMES, axes=(1, 0, 2, 3, 4, 5, 6, 7)))
    assert world.adopt("class 0", "class 1", held_out=mine) == (
        "exit of fleet dogs version 7 refused: with it 0 of 20 held-out frames of this robot are named right, and "
        "without it 20"
    )
    assert world.robot.in_use is None
    world.publish(rows_of(NAMES), 8)
    assert world.adopt("class 0", "class 1", held_out=mine) == (
        "exit of fleet dogs version 8: 8 classes, 6 taught elsewhere"
    )


def test_a_robot_of_one_class_has_nothing_to_compare_with(world: World) -> None:
    world.publish(rows_of(NAMES))
    assert "refused" not in world.adopt("class 0", held_out=held_out(*[(1, "class 0")] * 10))


# What people say, and class edits


def test_own_alone_until_told_otherwise_over_a_restart(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "robot-edge")
    world.publish(rows_of(NAMES))
    world.adopt()
    assert world.robot.use("own") == "own exit alone, as was asked for"
    assert world.robot.in_use is None
    world.start()
    assert world.adopt() == "own exit alone, as was asked for"
    world.publish(rows_of(NAMES[:3]), 8)
    assert world.adopt() == "own exit alone, as was asked for, version 8 is coming"
    assert world.robot.in_use is None
    world.robot.use("fleet")
    assert world.adopt() == "exit of fleet dogs version 8: 3 classes, 3 taught elsewhere"


def edit(number: int, **fields: Any) -> ClassEdit:
    usual: dict[str, Any] = {"change": "forget", "name": "class 2", "to": "", "session": 0}
    return ClassEdit(boot="0" * 16, sequence=0, number=number, **{**usual, **fields})


def test_what_was_forgotten_here_stays_so_over_restarts_and_versions_until_one_has_it_no_more(world: World) -> None:
    world.publish(rows_of(NAMES))
    world.adopt("class 2")
    world.robot.apply(edit(1))
    world.robot.call_anew(())
    assert (named(world.robot, 2), named(world.robot, 3)) == ("", "class 3")
    world.start()
    world.adopt()
    assert named(world.robot, 2) == ""
    world.publish(rows_of(NAMES), 8)
    world.adopt()
    assert named(world.robot, 2) == "", "made before the fleet heard of it"
    without = [one for one in NAMES if one != "class 2"]
    world.publish(rows_of(without, axes=[0, 1, 3, 4, 5, 6, 7]), 9)
    world.adopt()
    world.publish(rows_of(NAMES), 10)
    world.adopt()
    assert named(world.robot, 2) == "class 2", "somebody has taught it again since"


def test_a_run_with_the_weights_of_another_takes_over_what_was_chosen_there(world: World, tmp_path: Path) -> None:
    world.publish(rows_of(NAMES))
    world.adopt()
    world.robot.use("own")
    world.robot.apply(edit(1))
    former, world.path = world.path, tmp_path / "next"
    world.start(run="e" * 16, former=former)
    assert world.adopt().startswith("own exit alone, as was asked for")
    world.robot.use("fleet")
    world.adopt()
    assert (named(world.robot, 1), named(world.robot, 2)) == ("class 1", ""), "forgotten there is forgotten here"
    world.robot.apply(edit(1, name="class 1"))
    world.robot.call_anew(())
    assert named(world.robot, 1) == "", "edits of this run count from 1"
    world.start(run="e" * 16, former=former)
    assert "own exit alone" not in world.adopt(), "what is chosen here counts from then on"


def test_a_class_is_called_as_it_is_here(world: World) -> None:
    world.publish(rows_of(NAMES))
    world.adopt("class 2")
    world.robot.apply(edit(1, change="rename", to="mug"))
    world.robot.call_anew(("mug",))
    assert named(world.robot, 2) == "mug"
    world.start(run="d" * 16)  # another run, whose edits are numbered from 1 again
    world.robot.apply(edit(1, change="rename", name="mug", to="cup"))
    world.adopt("cup")
    assert named(world.robot, 2) == "cup"


def test_a_piece_is_known_by_what_it_is() -> None:
    manifest, pieces = exit_of(rows_of(NAMES))
    coming = Fetching(manifest, [b"another"])
    assert coming.missing == (manifest.first,)
    whole = Fetching(manifest, [b"another", pieces[0].data])
    assert not whole.missing
    assert whole.whole() == pieces[0].data
