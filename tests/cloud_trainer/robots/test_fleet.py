from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import ConfigError, MalformedMessage
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, Change, ClassEdit, RobotState, SplitSpec
from cloud_trainer.config import TrainerConfig
from cloud_trainer.cost import cost_of
from cloud_trainer.replay import digest
from cloud_trainer.robots.fleet import NEARLY_FULL, Fleet, fair_share
from cloud_trainer.robots.robot import Robot
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.log import Kind, Store
from cloud_trainer.store.opening import STORE, open_store
from hierarchy.device import Compute
from hierarchy.learner import Learner
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, tensors_of
from tests.cloud_trainer.world import (
    CLASSES,
    CPU,
    STATE,
    TinySegment,
    batches,
    finish_idle,
    forget,
    make_batch,
    note_grown,
    scalar,
    use_tiny_networks,
)

pytestmark = [pytest.mark.usefixtures("tiny"), pytest.mark.slow]

ONE = cost_of(STATE.split, 4, CPU)
ROOM_FOR_TWO = (2.5 * ONE.network + ONE.work) / 1e9
REHEARSING = replace(STATE, rehearse=1.0)


def config(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"batch": 4, "rehearse_from": 9, "checkpoint_every": 3, **changes})


def open_fleet(folder: Path, **changes: Any) -> Fleet:
    """Return the fleet of a run folder, as the trainer would find it at its start."""
    its = config(**changes)
    store = open_store(folder / STORE, its.training(1))
    try:
        return Fleet(its, store, folder, CPU)
    except ConfigError:
        store.close()
        raise


def close(fleet: Fleet) -> None:
    fleet.store.close()


def enter(fleet: Fleet, robot: str, state: RobotState) -> None:
    (fleet.robots.get(robot) or fleet.meet(robot)).say(state)
    prepare(fleet, robot)
    fleet.enter(robot, fleet.store)
    fleet.store.commit()
    note_grown(fleet)


def meet(fleet: Fleet, robot: str, state: RobotState) -> Robot:
    """Return a new robot that has said a state."""
    its = fleet.meet(robot)
    its.say(state)
    return its


def prepare(fleet: Fleet, robot: str) -> None:
    """Have what the robot's last state asks for prepared, if it must be."""
    its = fleet.robots[robot]
    if its.must_prepare:
        assert its.state
        its.note(fleet.preparer.prepare(robot, its.state))


def send(fleet: Fleet, robot: str, count: int, *, first: int = 0, **settings: Any) -> None:
    for batch in batches(count, first=first, **settings):
        assert fleet.store.append_message(robot, batch.boot, batch.sequence, pack(batch))
        fleet.robots[robot].training.stored[robot] += 1
    fleet.store.commit()
    note_grown(fleet)


def train(fleet: Fleet, events: int = 10**6) -> list[str]:
    """Train on so many events, or on all; return whose they were."""
    note_grown(fleet)
    turns: list[str] = []
    while len(turns) < events and (robot := fleet.next_to_train()):
        turns.append(robot)
        assert fleet.train(robot) is None
    return turns


def state_of(fleet: Fleet, robot: str) -> tuple[str, dict[str, Any]]:
    """Return all that a robot's training has come to."""
    session = fleet.training_of(robot).session
    assert session is not None
    state = session.checkpoint()
    return digest(tensors_of(state)), LAYOUT.pack(state, lambda _: "")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = open_fleet(tmp_path)
    yield fleet
    close(fleet)


def test_robots_take_turns_however_much_one_sends(fleet: Fleet) -> None:
    for robot in ("fast", "slow", "other"):
        enter(fleet, robot, STATE)
    send(fleet, "fast", 50)
    send(fleet, "slow", 3)
    send(fleet, "other", 3)
    turns = train(fleet)
    assert turns[:12] == ["fast", "slow", "other"] * 4, "the start and three batches of each"
    assert turns[12:] == ["fast"] * 47
    assert {robot: record.messages_waiting for robot, record in fleet.robots.items()} == {
        **{"fast": 0, "slow": 0, "other": 0}
    }
    send(fleet, "fast", 9, first=50)
    assert train(fleet, 2) == ["fast", "fast"]
    send(fleet, "slow", 1, first=3)
    assert train(fleet, 2) == ["slow", "fast"]


# Turns


@pytest.fixture
def shortest_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each turn be over with the first step, test or edit."""
    monkeypatch.setattr("cloud_trainer.robots.network_training.TURN_SECONDS", 0.0)


@pytest.mark.usefixtures("shortest_turns")
def test_others_have_turns_while_one_message_of_many_samples_is_trained_on(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path)
    enter(fleet, "r1", STATE)
    enter(fleet, "r2", STATE)
    train(fleet)
    send(fleet, "r1", 1, size=400)
    send(fleet, "r2", 3)
    turns = train(fleet)
    assert turns.count("r1") == 101, "a hundred steps, and its end"
    assert turns[:12] == ["r1", "r2"] * 6
    in_turns = state_of(fleet, "r1")
    close(fleet)
    again = open_fleet(tmp_path)
    train(again)
    assert state_of(again, "r1") == in_turns, "turns depend on the time, weights do not"
    close(again)


@pytest.mark.usefixtures("shortest_turns")
def test_a_trainer_killed_in_the_middle_of_a_message_takes_it_up_again_whole(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path)
    enter(fleet, "r1", REHEARSING)
    send(fleet, "r1", 2, size=40)
    train(fleet, 20)
    fleet.save("r1")
    assert fleet.robots["r1"].messages_waiting == 2
    close(fleet)
    again = open_fleet(tmp_path)
    train(again)
    ended = state_of(again, "r1")
    close(again)
    shutil.rmtree(tmp_path / "checkpoint")
    whole = open_fleet(tmp_path)
    train(whole)
    assert state_of(whole, "r1") == ended
    close(whole)


@pytest.mark.usefixtures("shortest_turns")
def test_a_stop_in_the_middle_of_a_message_saves_what_it_taught(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, checkpoint_every=1000)
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 1, size=40)
    train(fleet, 5)
    fleet.settle("r1", 60)
    fleet.save("r1")
    close(fleet)
    assert load_checkpoint(tmp_path / "checkpoint" / "r1", LAYOUT).learner.steps == 10


@pytest.mark.usefixtures("shortest_turns")
def test_thousands_of_edits_that_waited_for_one_are_made_in_turns(fleet: Fleet) -> None:
    enter(fleet, "r1", STATE)
    enter(fleet, "r2", STATE)
    train(fleet)
    edits = [
        ClassEdit(boot=STATE.boot, sequence=number, number=number, change="rename", name="a", to="b", session=0)
        for number in range(2, 1001)
    ]
    edits.append(replace(edits[0], sequence=1, number=1))
    for edit in edits:
        fleet.store.append_message("r1", edit.boot, edit.sequence, pack(edit), "edit")
    fleet.store.commit()
    train(fleet, 999)
    send(fleet, "r2", 3, first=2000)
    assert train(fleet, 6) == ["r2", "r1"] * 3
    assert Counter(train(fleet)) == {"r1": 998, "r2": 0 + 3}


@pytest.mark.usefixtures("shortest_turns")
def test_what_was_forgotten_is_overwritten_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_trainer.store.log.TIDIED_AT_ONCE", 2)
    fleet = open_fleet(tmp_path, practice=0)
    for robot in ("r1", "r2"):
        enter(fleet, robot, STATE)
    send(fleet, "r1", 12)
    edit = ClassEdit(boot=STATE.boot, sequence=50, number=1, change="forget", name="cat", to="", session=0)
    fleet.store.append_message("r1", edit.boot, edit.sequence, pack(edit), "edit")
    fleet.store.commit()
    train(fleet)
    finish_idle(fleet, "r1")  # writes a checkpoint
    send(fleet, "r2", 3)
    assert Counter(train(fleet)[:6]) == {"r1": 3, "r2": 3}
    left = [unpack_as(ActivationBatch, one.payload).classes for one in fleet.store.batches_after("r1", 0)]
    assert not any("cat" in classes for classes in left)
    close(fleet)


# Resuming

Entry = tuple[str, Kind, bytes, tuple[str, int] | None]


CHANGES: list[Change] = ["rename", "forget", "undo"]
KINDS: dict[str, float] = {
    **{"batch": 20, "again": 4, "evaluate": 1, "flush": 2, "rejoin": 1, "start": 0.4, "forget": 3},
    **{"edit": 1.5, "rehearse": 2, "settle": 2},
}


def scripted(seed: int) -> list[Entry]:
    """Return the entries of a log of two robots: batches of all sizes and kinds, edits, and all that is not a batch."""
    rng = random.Random(seed)
    states = {
        robot: replace(STATE, boot=robot[1] * 16, rehearse=rehearse) for robot, rehearse in (("r1", 1.0), ("r2", 3.0))
    }
    log: list[Entry] = [(robot, "start", SessionStart(state=state).pack(), None) for robot, state in states.items()]
    sequences, edits = dict.fromkeys(states, 0), dict.fromkeys(states, 0)
    sent: dict[str, list[int]] = {robot: [] for robot in states}
    trained: dict[str, list[int]] = {robot: [] for robot in states}  # what no step waits for any more
    for number in range(34):
        robot = rng.choice(["r1", "r1", "r2"])
        event = len(log) + 1
        what = rng.choices(list(KINDS), list(KINDS.values()))[0]
        if what in ("batch", "evaluate", "again"):
            names = rng.choices(CLASSES[: 2 + (number > 12)], k=rng.randrange(1, 8))
            sequences[robot] += 1
            batch = make_batch(
                names,
                boot=states[robot].boot,
                sequence=sequences[robot],
                evaluation=int(what == "evaluate"),
                samples=[1000 * rng.randrange(1, sequences[robot] + 1) + 1 + row for row in range(len(names))],
                again=what == "again",
                edge_version=number,
                session=number // 9,
                edits=edits[robot],
                progress=rng.choice([None, number / 40]),
            )
            log.append((robot, "batch", pack(batch), (batch.boot, batch.sequence)))
            sent[robot].append(event)
            if what == "evaluate":
                trained[robot] = list(sent[robot])
        elif what == "edit":
            sequences[robot] += 1
            edits[robot] += 1
            change: Change = rng.choice(CHANGES)
            edit = ClassEdit(
                boot=states[robot].boot,
                sequence=sequences[robot],
                number=edits[robot],
                change=change,
                name="cat",
                to="dog" if change == "rename" else "",
                session=number // 9,
            )
            log.append((robot, "edit", pack(edit), (edit.boot, edit.sequence)))
        elif what == "rehearse":
            log.append((robot, "rehearse", b"2 %d" % rng.randrange(2, 5), None))
        elif what == "settle":
            log.append((robot, "settle", b"2 %d 1" % rng.randrange(2, 5), None))
        elif what == "forget":
            if trained[robot]:
                log.append((robot, "forget", str(rng.choice(trained[robot])).encode(), None))
        else:
            states[robot] = replace(states[robot], rehearse=rng.choice([0.0, 1.0, 3.0]), edits=edits[robot])
            start = SessionStart(state=states[robot]).pack()
            payload = {"flush": b"", "rejoin": pack(states[robot]), "start": start}[what]
            log.append((robot, {"flush": "flush", "rejoin": "rejoin", "start": "start"}[what], payload, None))  # type: ignore[arg-type]
            trained[robot] = list(sent[robot])
    return log


def write(store: Store, log: Sequence[Entry]) -> None:
    for robot, kind, payload, name in log:
        if name:
            assert store.append_message(robot, *name, payload, "edit" if kind == "edit" else "batch")
        else:
            store.append(robot, kind, payload)
    store.commit()


class Reference(NamedTuple):
    log: list[Entry]
    ends: dict[str, tuple[str, dict[str, Any]]]


def never_stopped(log: list[Entry]) -> Reference:
    """Train on a log in one go, and save nothing on the way."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / STORE, config().training(1))
        write(store, log)
        store.close()
        fleet = open_fleet(Path(folder), checkpoint_every=10**6)
        train(fleet)
        ends = {robot: state_of(fleet, robot) for robot in fleet.robots}
        close(fleet)
    return Reference(log, ends)


LOGS = [scripted(seed) for seed in range(4)]
KEPT: dict[int, Reference] = {}


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_killed_anywhere_it_ends_at_the_same_bits(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LOGS) - 1))
    if number not in KEPT:
        KEPT[number] = never_stopped(LOGS[number])
    log, ends = KEPT[number]
    kills = data.draw(st.lists(st.integers(1, 12), max_size=4))
    early = data.draw(st.integers(2, len(log)))  # the rest of the log comes in later
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        store = open_store(path / STORE, config().training(1))
        write(store, log[:early])
        store.close()
        for events in kills:
            fleet = open_fleet(path)
            train(fleet, events)
            if data.draw(st.booleans()):
                fleet.save("r1")
            close(fleet)
        store = open_store(path / STORE, config().training(1))
        write(store, log[early:])
        store.close()
        fleet = open_fleet(path)
        train(fleet)
        assert {robot: state_of(fleet, robot) for robot in fleet.robots} == ends
        close(fleet)


def test_the_logs_above_hold_what_makes_resuming_hard() -> None:
    kinds = Counter(kind for log in LOGS for _, kind, _, _ in log)
    assert set(kinds) == set(get_args(Kind)) - {"join"}, "which robots of a fleet do: test_fleets.py"
    assert min(kinds.values()) >= 3
    batches = [unpack_as(ActivationBatch, payload) for log in LOGS for _, kind, payload, _ in log if kind == "batch"]
    assert sum(batch.again for batch in batches) > 3
    assert all(any(robot == "r2" for robot, *_ in log) for log in LOGS)


def test_the_other_robots_do_not_matter() -> None:
    log = LOGS[0]
    alone = {
        robot: never_stopped([entry for entry in log if entry[0] == robot and entry[1] != "forget"])
        for robot in ("r1", "r2")
    }
    together = never_stopped([entry for entry in log if entry[1] != "forget"])
    for robot, (weights, about) in together.ends.items():
        its, its_about = alone[robot].ends[robot]
        # The events' numbers differ, and with them the places of what waits and is rehearsed.
        assert its_about["members"][0]["prequential"] == about["members"][0]["prequential"]
        assert its_about["loss"] == about["loss"]
        assert weights != its


def test_resuming_needs_the_momentum_and_the_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the momentum it does."""
    restore = Learner.restore
    monkeypatch.setattr(Learner, "restore", lambda self, state: restore(self, replace(state, momentum={})))
    log, ends = never_stopped(LOGS[0])
    store = open_store(tmp_path / STORE, config().training(1))
    write(store, log)
    store.close()
    fleet = open_fleet(tmp_path)
    train(fleet, 20)
    close(fleet)
    fleet = open_fleet(tmp_path)
    train(fleet)
    assert any(state_of(fleet, robot)[0] != ends[robot][0] for robot in fleet.robots)
    close(fleet)


def test_a_resumed_fleet_knows_what_it_knew(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, most_classes=2)
    enter(fleet, "r1", REHEARSING)
    enter(fleet, "r2", STATE)
    enter(fleet, "r1", replace(REHEARSING, boot="c" * 16, weights="checkpoint"))
    send(fleet, "r1", 5)
    train(fleet, 5)
    before = fleet.robots["r1"]
    its_room = fleet.room.costs.get("r1")
    close(fleet)
    again = open_fleet(tmp_path, most_classes=2)
    record = again.robots["r1"]
    assert record.entered == before.entered
    assert record.boots == {STATE.boot, "c" * 16}
    assert again.room.costs.get("r1") == its_room
    assert its_room
    assert again.training_of("r1").cursor <= fleet.training_of("r1").cursor
    assert record.messages_waiting >= before.messages_waiting
    assert record.state is None, "it has said nothing yet"
    assert record.intake
    with pytest.raises(MalformedMessage, match="3 classes, limit 2"):
        record.intake.check(make_batch(["eel"]))
    train(again)
    assert {name: one.messages_waiting for name, one in again.robots.items()} == {"r1": 0, "r2": 0}
    close(again)


def test_a_checkpoint_that_the_store_knows_nothing_of_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / STORE).unlink()
    with pytest.raises(ConfigError, match="knows no robot of that name: put back the store"):
        open_fleet(tmp_path)


def saved(tmp_path: Path, **changes: Any) -> Path:
    """Return a run folder with a trained and saved robot."""
    fleet = open_fleet(tmp_path, **changes)
    enter(fleet, "r1", REHEARSING)
    send(fleet, "r1", 6, size=3)
    train(fleet)
    fleet.save("r1")
    close(fleet)
    return tmp_path


def test_a_checkpoint_ahead_of_its_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    fleet = open_fleet(tmp_path / "early")
    enter(fleet, "r1", REHEARSING)
    close(fleet)
    path = saved(tmp_path)
    shutil.copy(tmp_path / "early" / STORE, path / STORE)
    with pytest.raises(ConfigError, match=r"is from event 7, the store ends at 1: put back the store"):
        open_fleet(path)


def test_a_checkpoint_of_another_store_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / STORE).unlink()
    (path / "checkpoint").rename(path / "away")
    fleet = open_fleet(path)
    enter(fleet, "r1", replace(REHEARSING, boot="d" * 16))
    send(fleet, "r1", 20)
    close(fleet)
    (path / "away").rename(path / "checkpoint")
    with pytest.raises(ConfigError, match="made with another store than the one beside it"):
        open_fleet(path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)

    def other(split: Any, *, weights: Any) -> TinySegment:
        return TinySegment(replace(split, bottleneck=0, shape=(7, 2, 2)), weights=weights)

    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", other)
    with pytest.raises(ConfigError, match=r"(?s)is of another network .* move .*/r1 away"):
        open_fleet(path)


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_checkpoint_may_be_moved_away(tmp_path: Path, whole: bool) -> None:
    path = saved(tmp_path)
    fleet = open_fleet(path)
    before = state_of(fleet, "r1")
    if not whole:
        forget(fleet.store, "r1", 2)
    close(fleet)
    checkpoint = path / "checkpoint" / "r1"
    (checkpoint / CHECKPOINT).write_bytes((checkpoint / CHECKPOINT).read_bytes()[:-100])
    cost = "once more from the log, to the same weights" if whole else "from what is left of the log only"
    with pytest.raises(ConfigError, match=f"{checkpoint} is damaged.* move {checkpoint} away: .* trained {cost}$"):
        open_fleet(path)
    checkpoint.rename(path / "away")
    fleet = open_fleet(path)
    train(fleet)
    assert (state_of(fleet, "r1") == before) is whole
    close(fleet)


def test_a_checkpoint_that_refers_to_what_is_gone_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    saved_state = load_checkpoint(path / "checkpoint" / "r1", LAYOUT)
    store = open_store(path / STORE, config().training(1))
    store.append("r1", "flush")
    forget(store, "r1", saved_state.cursor)
    store.close()
    with pytest.raises(ConfigError, match="the store lacks event"):
        open_fleet(path)


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = saved(tmp_path)
    before = (path / "checkpoint" / "r1" / CHECKPOINT).read_bytes()
    fleet = open_fleet(path)
    send(fleet, "r1", 9, first=6)

    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hierarchy.runtime.checkpoint.save_file", full)
    train(fleet)
    assert caplog.text.count("training goes on without") == 1
    assert (path / "checkpoint" / "r1" / CHECKPOINT).read_bytes() == before
    monkeypatch.undo()
    fleet.save("r1")
    assert load_checkpoint(path / "checkpoint" / "r1", LAYOUT).cursor == fleet.training_of("r1").cursor
    close(fleet)


# Who is let in


def test_a_robot_that_goes_on_finds_its_network_and_another_starts_anew(fleet: Fleet) -> None:
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 2)
    train(fleet)
    enter(fleet, "r1", replace(STATE, boot="c" * 16, weights="checkpoint"))
    train(fleet)
    assert fleet.robots["r1"].training.steps == 2
    enter(fleet, "r1", replace(STATE, boot="d" * 16))
    train(fleet)
    assert fleet.robots["r1"].training.steps == 0
    assert [event.kind for event in fleet.store.states("r1")] == ["start", "rejoin", "start"]


def test_a_network_is_only_gone_on_with_behind_the_front_that_it_was_trained_behind(
    tmp_path: Path, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 2)
    train(fleet)
    learned, _ = state_of(fleet, "r1")
    caplog.clear()
    # Another run of the same name: its network is another one, and the first is kept.
    other = replace(STATE, boot="d" * 16, run="e" * 16)
    enter(fleet, "r1", other)
    assert "begins another run" in caplog.messages[0]
    assert "until now learns no more" in caplog.messages[0]
    send(fleet, "r1", 1, boot=other.boot)
    train(fleet)
    kept = load_checkpoint(tmp_path / "former" / "checkpoint" / "r1", LAYOUT)
    assert digest(tensors_of(kept)) == learned
    assert kept.members[0].state.run == STATE.run
    # The first run comes back: the second's network is not what its front was trained with.
    caplog.clear()
    enter(fleet, "r1", replace(STATE, boot="f" * 16, weights="checkpoint"))
    train(fleet)
    assert fleet.robots["r1"].training.steps == 0
    assert "no network here that belongs to it" in caplog.messages[1]
    assert [event.kind for event in fleet.store.states("r1")] == ["start", "start", "start"]


def test_a_run_that_begins_with_the_weights_of_another_finds_its_network(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 2)
    train(fleet)
    enter(fleet, "r1", replace(STATE, boot="d" * 16, run="e" * 16, former=STATE.run, weights="checkpoint"))
    train(fleet)
    assert fleet.robots["r1"].training.steps == 2
    assert not caplog.messages


def test_the_second_robot_of_a_kind_need_not_be_measured(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 1)
    train(fleet)
    measured: list[object] = []

    def measure(*_: object) -> Compute:
        measured.append(0)
        return Compute(device=torch.device("cpu"))

    monkeypatch.setattr("cloud_trainer.session.session_start.fastest_compute", measure)
    enter(fleet, "r2", replace(STATE, boot="d" * 16, run="e" * 16))
    assert not measured
    enter(
        fleet,
        "r3",
        replace(STATE, boot="f" * 16, run="a" * 16, split=replace(STATE.split, backbone="shufflenet_v2_x1_0")),
    )
    assert len(measured) == 1
    enter(
        fleet,
        "r4",
        replace(STATE, boot="a" * 16, run="b" * 16, split=replace(STATE.split, backbone="shufflenet_v2_x1_0")),
    )
    assert len(measured) == 1, "r3 has not been trained for yet"


def test_a_robot_is_measured_when_it_says_what_it_is_and_not_again_when_it_sends(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []

    def measure(*_: object) -> Compute:
        measured.append(0)
        return Compute(device=torch.device("cpu"))

    monkeypatch.setattr("cloud_trainer.session.session_start.fastest_compute", measure)
    record = meet(fleet, "r1", STATE)
    prepare(fleet, "r1")
    prepare(fleet, "r1")
    assert (len(measured), record.entered, fleet.room.costs.get("r1"), fleet.store.robots()) == (1, None, None, [])
    fleet.enter("r1", fleet.store)
    assert (len(measured), record.entered, record.prepared) == (1, STATE, None)
    assert fleet.room.costs.get("r1")
    prepare(fleet, "r1")
    record.say(replace(STATE, boot="d" * 16, weights="checkpoint"))
    prepare(fleet, "r1")
    assert len(measured) == 1, "one that goes on, or only asks, begins no network"


def test_what_was_prepared_for_another_state_does_not_count(fleet: Fleet) -> None:
    record = meet(fleet, "r1", STATE)
    prepare(fleet, "r1")
    record.say(replace(STATE, boot="d" * 16, split=replace(STATE.split, bits=3)))
    fleet.enter("r1", fleet.store)
    assert fleet.store.next_event("r1", 0) is None
    prepare(fleet, "r1")
    fleet.enter("r1", fleet.store)
    assert SessionStart.unpack(fleet.store.next_event("r1", 0).payload).state == record.state  # type: ignore[union-attr]


def test_what_cannot_be_built_is_said_before_anything_is_sent(fleet: Fleet) -> None:
    record = meet(fleet, "r1", replace(STATE, split=replace(STATE.split, shape=(7, 2, 2))))
    prepare(fleet, "r1")
    assert "says that (7, 2, 2) crosses" in record.refused


def test_what_cannot_be_built_is_refused_with_its_reason_and_leaves_no_event(fleet: Fleet) -> None:
    enter(fleet, "r1", replace(STATE, split=replace(STATE.split, shape=(7, 2, 2))))
    record = fleet.robots["r1"]
    assert "says that (7, 2, 2) crosses" in record.refused
    assert (record.entered, record.intake, fleet.store.robots()) == (None, None, [])
    figures = record.trainer_metrics(0.0)
    assert figures
    assert (figures.boot, figures.quarantine) == (STATE.boot, record.refused)


def test_networks_share_a_bounded_memory(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, networks_gb=ROOM_FOR_TWO)
    for robot in ("r1", "r2", "r3"):
        enter(fleet, robot, STATE)
    assert [bool(fleet.robots[robot].refused) for robot in ("r1", "r2", "r3")] == [False, False, True]
    assert "its network takes 0.03 GB and training it 0.1" in fleet.robots["r3"].refused
    assert "(--networks-gb): use smaller pictures" in fleet.robots["r3"].refused
    enter(fleet, "r1", replace(STATE, boot="c" * 16))
    assert not fleet.robots["r1"].refused, "its new network takes the place of its old one"
    close(fleet)


def test_robots_that_come_together_share_that_memory_too(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, networks_gb=ROOM_FOR_TWO)
    robots = ("r1", "r2", "r3")
    for robot in robots:  # all say what they are before the first of them sends anything
        meet(fleet, robot, STATE)
        prepare(fleet, robot)
    for robot in robots:
        fleet.enter(robot, fleet.store)
    assert [bool(fleet.robots[robot].entered) for robot in robots] == [True, True, False]
    assert "(--networks-gb)" in fleet.robots["r3"].refused
    close(fleet)


HUGE = replace(
    STATE,
    boot="9" * 16,
    run="9" * 16,
    split=replace(STATE.split, backbone="resnet18", cut="layer1", image_size=1600, bottleneck=1, shape=(1, 400, 400)),
)


def let_in_before_there_was_a_bound(folder: Path, state: RobotState) -> None:
    """Enter a network into a log as a trainer did that did not know what it costs."""
    store = open_store(folder / STORE, config().training(1))
    store.append("r1", "start", SessionStart(state=state).pack())
    batch = make_batch(["cat"], state.split, boot=state.boot)
    store.append_message("r1", batch.boot, batch.sequence, pack(batch))
    store.commit()
    store.close()


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let building a network of large pictures fail."""

    def build(split: SplitSpec, *, weights: Any) -> TinySegment:
        assert split.image_size < 1000, "it was built"
        return TinySegment(split, weights=weights)

    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", build)


def test_a_network_in_the_log_that_costs_too_much_is_not_built_and_others_go_on(tmp_path: Path, unbuilt: None) -> None:
    let_in_before_there_was_a_bound(tmp_path, HUGE)
    fleet = open_fleet(tmp_path, networks_gb=1)
    enter(fleet, "r2", STATE)
    send(fleet, "r2", 2)
    assert train(fleet) == ["r1", "r2", "r2", "r2"]
    record = fleet.robots["r1"]
    assert "training cannot go on: its network takes 0.23 GB and training it" in record.training.stuck
    enter(fleet, "r1", replace(HUGE, boot="8" * 16, weights="checkpoint"))
    assert record.training.stuck, "it is the same network"
    close(fleet)


def test_a_robot_whose_network_costs_too_much_may_begin_another_one(tmp_path: Path, unbuilt: None) -> None:
    let_in_before_there_was_a_bound(tmp_path, HUGE)
    fleet = open_fleet(tmp_path, networks_gb=1)
    assert train(fleet) == ["r1"]
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 2)
    assert not fleet.robots["r1"].training.stuck
    assert train(fleet) == ["r1"] * 3
    expected = state_of(fleet, "r1")
    assert fleet.robots["r1"].messages_waiting == 0
    close(fleet)
    again = open_fleet(
        tmp_path, networks_gb=1
    )  # without a checkpoint: it comes to the same network behind the other one
    train(again)
    assert state_of(again, "r1") == expected
    close(again)


def test_a_refused_robot_hears_so_under_its_new_boot(fleet: Fleet) -> None:
    enter(fleet, "r1", STATE)
    send(fleet, "r1", 1)
    train(fleet)
    enter(fleet, "r1", replace(STATE, boot="c" * 16, split=replace(STATE.split, shape=(7, 2, 2))))
    figures = fleet.robots["r1"].trainer_metrics(0.0)
    assert figures
    assert (figures.boot, figures.images) == ("c" * 16, 0)
    assert "says that" in figures.quarantine


def test_what_cannot_be_opened_any_more_is_stuck_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = open_fleet(tmp_path)
    for robot in ("r1", "r2"):
        enter(fleet, robot, STATE if robot == "r1" else replace(STATE, weights="default"))
        send(fleet, robot, 2)
    close(fleet)

    def no_download(split: Any, *, weights: Any) -> TinySegment:
        if weights != "none":
            raise ConfigError("pretrained weights cannot be downloaded")
        return TinySegment(split, weights=weights)

    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", no_download)
    fleet = open_fleet(tmp_path)
    train(fleet)
    assert fleet.robots["r1"].training.steps == 2
    assert "cannot be downloaded" in fleet.robots["r2"].training.stuck
    enter(fleet, "r2", replace(STATE, boot="c" * 16))
    assert train(fleet) == [], "what is stored would be skipped"
    assert len(fleet.store.states("r2")) == 1
    close(fleet)
    monkeypatch.undo()
    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", TinySegment)
    fleet = open_fleet(tmp_path)
    train(fleet)
    assert fleet.robots["r2"].training.steps == 2
    close(fleet)


def test_weights_that_a_checkpoint_replaces_need_not_be_there_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, now = tmp_path / "former", tmp_path / "now"
    for folder, flags in ((former, {}), (now, {"weights": str(former)})):
        folder.mkdir()
        fleet = open_fleet(folder, **flags)
        enter(fleet, "r1", replace(STATE, weights="default"))
        send(fleet, "r1", 2)
        train(fleet)
        fleet.save("r1")
        before = state_of(fleet, "r1")
        close(fleet)
    shutil.rmtree(former)

    def no_download(split: Any, *, weights: Any) -> TinySegment:
        if weights != "none":
            raise ConfigError("pretrained weights cannot be downloaded")
        return TinySegment(split, weights=weights)

    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", no_download)
    fleet = open_fleet(now, weights=str(former))
    assert state_of(fleet, "r1") == before
    close(fleet)


def test_a_network_that_cannot_be_built_any_more_is_stuck(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(fleet, "r1", STATE)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cloud_trainer.session.session_start.CloudSegment", full)
    train(fleet)
    assert "cannot be built: out of memory" in fleet.robots["r1"].training.stuck


def test_a_network_that_was_broken_off_in_an_event_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = open_fleet(tmp_path, checkpoint_every=10**6)
    for robot in ("r1", "r2"):
        enter(fleet, robot, REHEARSING)
        send(fleet, robot, 3, size=6)
    train(fleet, 4)
    step, steps = Learner.descend, 0

    def fails_at_the_second(learner: Learner, loss: torch.Tensor) -> bool:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise RuntimeError("out of memory")
        return step(learner, loss)

    monkeypatch.setattr(Learner, "descend", fails_at_the_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        fleet.train("r1")
    monkeypatch.undo()
    use_tiny_networks(monkeypatch)
    for robot in ("r1", "r2"):
        fleet.save(robot)
    close(fleet)
    assert not (tmp_path / "checkpoint" / "r1").exists()
    assert (tmp_path / "checkpoint" / "r2" / CHECKPOINT).exists(), "it has no part in it"
    fleet = open_fleet(tmp_path)
    train(fleet)
    ends = {robot: state_of(fleet, robot) for robot in fleet.robots}
    close(fleet)
    (undisturbed := tmp_path / "undisturbed").mkdir()
    shutil.copy(tmp_path / STORE, undisturbed / STORE)
    fleet = open_fleet(undisturbed)
    train(fleet)
    assert ends == {robot: state_of(fleet, robot) for robot in fleet.robots}
    close(fleet)


# Idle rehearsal


def rehearsing(folder: Path, *robots: str) -> Fleet:
    """Return a fleet in which idle rehearsal of those robots is due."""
    fleet = open_fleet(folder, practice=5, checkpoint_every=10**6)
    for robot in robots:
        enter(fleet, robot, STATE)
        send(fleet, robot, 20)
    train(fleet)
    return fleet


def test_idle_rehearsal_waits_while_there_is_anything_to_train_on(tmp_path: Path) -> None:
    fleet = rehearsing(tmp_path, "r1", "r2", "live")
    send(fleet, "live", 1, first=20)
    finish_idle(fleet, "r1")
    assert train(fleet) == ["live"]
    for robot in ("r1", "r2"):
        finish_idle(fleet, robot)
    assert train(fleet) == ["r1"], "one robot's at a time"
    close(fleet)


@pytest.mark.parametrize(
    ("step", "seconds", "event"),
    [(0.01, 10.0, "30 396 1"), (0.2, 10.0, "30 396 0"), (1.0, 10.0, "10 396 0"), (60.0, 10.0, "1 396 0")],
)
def test_a_stop_settles_a_network_in_the_time_there_is(tmp_path: Path, step: float, seconds: float, event: str) -> None:
    fleet = rehearsing(tmp_path, "r1")
    finish_idle(fleet, "r1")
    train(fleet)
    fleet.training_of("r1")._idle.step_seconds = step
    fleet.settle("r1", seconds)
    last = fleet.store.next_event("r1", fleet.training_of("r1").cursor - 1)
    assert last
    assert (last.kind, last.payload.decode()) == ("settle", event)
    close(fleet)


# Room


@pytest.mark.parametrize(
    ("sizes", "room", "share"),
    [
        ([10, 10], 30, float("inf")),
        ([30, 30], 30, 15),
        ([1, 1, 50], 30, 28),
        ([1, 20, 50], 30, 14.5),
        ([0] * 63 + [100], 80, 80),
        ([], 5, float("inf")),
    ],
)
def test_small_robots_leave_their_share_to_large_ones(sizes: list[int], room: float, share: float) -> None:
    assert fair_share(sizes, room) == share
    assert sum(min(size, share) for size in sizes) <= room


def work_off(fleet: Fleet) -> str:
    """Do what the trainer does from time to time; return why the store takes no more."""
    full = fleet.make_room()
    train(fleet)
    return full


@pytest.mark.parametrize(
    "size", [150, 300]
)  # of 150 samples one message fits a page of the file, and leaves half of it
def test_a_nearly_full_store_gives_up_its_oldest_trained_samples(tmp_path: Path, size: int) -> None:
    limit = 2_000_000
    fleet = open_fleet(tmp_path, store_gb=limit / 1e9, rehearse_from=10**6)
    enter(fleet, "idle", STATE)
    enter(fleet, "r1", REHEARSING)
    sequence = 0
    while scalar(fleet.store, "SELECT count(*) FROM events WHERE kind = 'forget'") < 3:
        assert sequence < 1000, "nothing was given up"
        send(fleet, "r1", 2, first=sequence)
        send(fleet, "r1", 18, first=sequence + 2, size=size, evaluation=1)
        sequence += 20
        assert work_off(fleet) == ""
        assert fleet.store.bytes_used < limit
    for _ in range(3):
        assert work_off(fleet) == ""
    assert fleet.store.bytes_used < NEARLY_FULL * limit
    assert fleet.store.batch_bytes("r1")["r1"] > 0.3 * limit, "an idle robot needs no half of the store"
    assert all(not fleet.training_of(robot)._cleanups.of(robot).up_to for robot in fleet.robots)
    send(fleet, "r1", 3, first=sequence)
    train(fleet)
    before = state_of(fleet, "r1")
    fleet.save("r1")
    close(fleet)
    again = open_fleet(tmp_path, store_gb=limit / 1e9, rehearse_from=10**6)
    assert state_of(again, "r1") == before
    close(again)


def test_what_waits_for_training_is_never_given_up(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, store_gb=0.001)
    enter(fleet, "r1", STATE)
    fleet.train("r1")
    for number in range(300):
        fleet.store.append_message("r1", "e" * 16, number, bytes(4000))
    fleet.store.commit()
    assert "the store is full (--store-gb 0.001): there is room again when" in fleet.make_room()
    assert fleet.store.is_whole("r1")
    assert asdict(fleet.store.states("r1")[0])["kind"] == "start"
    close(fleet)
