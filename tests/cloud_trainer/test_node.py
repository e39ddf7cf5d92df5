from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker.errors import EXIT_MACHINE, StorageError, exit_status
from broker.link.inbox import LANE_LIMIT
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import (
    ClassEdit,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerMetrics,
    TrainerState,
)
from cloud_trainer.messages.incoming import NEWCOMER_SECONDS
from cloud_trainer.messages.outgoing import RETRY_SECONDS, WARNING_SECONDS
from cloud_trainer.node import NOBODY_CAME, NOTHING_CAME, REPORT_SECONDS
from cloud_trainer.replay import replay
from cloud_trainer.robots import quarantine
from cloud_trainer.robots.entry import Preparation
from cloud_trainer.robots.idle_rehearsal import IDLE_STEPS_AT_ONCE, SETTLING_STEPS
from cloud_trainer.robots.quarantine import FIRST_SECONDS
from cloud_trainer.robots.robot import SILENCE_SECONDS
from cloud_trainer.robots.training import SETTLING_SECONDS
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.session.still_learning import MAX_FEATURE_BYTES
from cloud_trainer.store.opening import STORE
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.checkpoint import load_checkpoint
from hierarchy.runtime.command_line import SparseLog
from hierarchy.runtime.downloads import Downloads
from hierarchy.weights_file import weights_digest
from tests.cloud_trainer.world import (
    CPU,
    SPLIT,
    STATE,
    TRAINER,
    Cloud,
    TinySegment,
    batches,
    database,
    finish_idle,
    limit_pages,
    make_batch,
    of,
    outcomes,
)

pytestmark = pytest.mark.slow

Start = Callable[..., Cloud]

IMPOSSIBLE = dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, shape=(7, 2, 2)))
BACK = dataclasses.replace(STATE, boot="c" * 16, weights="checkpoint")
GONE = dataclasses.replace(STATE, online=False)


def test_it_says_its_state_at_once_and_on_every_connection(cloud: Cloud) -> None:
    assert of(TrainerState, cloud.work()) == [TRAINER]
    assert of(TrainerState, cloud.work()) == []
    cloud.link.connections += 1
    assert of(TrainerState, cloud.work()) == [TRAINER]


def test_a_robots_batches_are_receipted_and_trained_on(cloud: Cloud) -> None:
    receipts = cloud.say("r1", STATE, *batches(3), batches(1)[0])
    assert outcomes(receipts) == ["accepted"] * 3 + ["duplicate"]
    assert [receipt.sequence for receipt in receipts] == [0, 1, 2, 0]
    assert {receipt.boot for receipt in receipts} == {STATE.boot}
    evaluated = make_batch(["cat", "dog", "cat"], sequence=3, evaluation=1)
    assert outcomes(cloud.say("r1", evaluated)) == ["accepted"]
    figures = cloud.figures()
    assert (figures.robot, figures.boot, figures.images, figures.evaluated) == ("r1", STATE.boot, 12, 3)
    assert (figures.messages_trained, figures.messages_waiting, figures.quarantine) == (3, 0, "")
    summary = cloud.finish()
    assert (summary["images"], summary["messages_trained"], summary["messages_rejected"]) == (12, 3, 0)
    assert summary["classes"] == ["cat", "dog"]
    assert summary["cloud_accuracy"] in {0, 1 / 3, 2 / 3, 1}
    lines = [json.loads(line) for line in (cloud.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["robot"], line["images"], line["classes"]) for line in lines] == [
        *(("r1", 4, 2), ("r1", 8, 2), ("r1", 12, 2)),
    ]
    saved = load_checkpoint(cloud.path / "checkpoint" / "r1", LAYOUT)
    assert (saved.learner.classes, saved.learner.steps) == (["cat", "dog"], 3)


def test_no_receipt_goes_out_before_the_batch_is_on_the_disk(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    commit, publish = cloud.store.commit, cloud.link.publish

    def note_commit() -> None:
        order.append("commit" if database(cloud.store).in_transaction else "nothing")
        commit()

    def note_publish(topic: str, payload: bytes, **how: Any) -> bool:
        order.append(topics.parse(topic).channel)
        return publish(topic, payload, **how)

    cloud.say("r1", STATE, *batches(1))
    monkeypatch.setattr(cloud.store, "commit", note_commit)
    monkeypatch.setattr(cloud.link, "publish", note_publish)
    assert len(cloud.say("r1", *batches(3, first=1))) == 3
    seen = [one for one in order if one in ("commit", "receipt")]
    assert seen == ["commit", *["receipt"] * 3], "one flush of the disk for all that came together"


def test_several_robots_get_a_network_each(cloud: Cloud) -> None:
    other = dataclasses.replace(STATE, boot="d" * 16, split=dataclasses.replace(SPLIT, bits=3))
    cloud.say("r1", STATE)
    cloud.say("r2", other)
    for number in range(2):
        assert outcomes(cloud.say("r1", make_batch(["cat", "dog"] * 2, sequence=number))) == ["accepted"]
        its = make_batch(["ant"] * 4, other.split, sequence=number, boot=other.boot)
        assert outcomes(cloud.say("r2", its)) == ["accepted"]
    (receipt,) = cloud.say("r2", make_batch(["ant"], SPLIT, sequence=9, boot=other.boot))
    assert receipt.outcome == "rejected"
    assert "is not the one in the robot's state" in receipt.reason
    summary = cloud.finish()
    assert summary["robots"]["r1"]["classes"] == ["cat", "dog"]
    assert summary["robots"]["r2"]["classes"] == ["ant"]
    assert (summary["images"], summary["messages_rejected"]) == (16, 1)


def test_a_batch_before_its_state_gets_no_receipt_so_that_it_comes_again(cloud: Cloud) -> None:
    (batch,) = batches(1)
    assert cloud.say("r1", batch) == []
    assert outcomes(cloud.say("r1", STATE, batch)) == ["accepted"]


def test_garbage_all_day_does_not_fill_the_log(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3 * SparseLog.LOGGED):
        cloud.publish("r1", "state", b"garbage")
    cloud.work()
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == SparseLog.LOGGED + 2
    assert cloud.finish()["messages_rejected"] == 3 * SparseLog.LOGGED


def test_an_impossible_split_gets_no_receipt_and_its_reason_and_others_go_on(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    batch = make_batch(["cat"] * 4, IMPOSSIBLE.split)
    assert cloud.say("r1", IMPOSSIBLE, batch) == [], "the robot is to keep it"
    cloud.say("r1", IMPOSSIBLE, batch)  # its heartbeat
    assert caplog.text.count("robot r1 cannot be trained for") == 1
    figures = cloud.figures()
    assert (figures.boot, figures.images) == (STATE.boot, 0)
    assert "says that (7, 2, 2) crosses" in figures.quarantine
    assert outcomes(cloud.say("r2", STATE, *batches(1))) == ["accepted"]
    better = dataclasses.replace(STATE, boot="d" * 16)
    assert outcomes(cloud.say("r1", better, *batches(1, boot=better.boot))) == ["accepted"]
    assert cloud.finish()["images"] == 8


def test_a_state_with_more_edits_is_the_same_one(cloud: Cloud) -> None:
    cloud.say("r1", STATE)
    cloud.say("r1", dataclasses.replace(STATE, edits=2))  # that a trainer before this one has taken
    assert outcomes(cloud.say("r1", *batches(1))) == ["accepted"]
    edit = ClassEdit(boot=STATE.boot, sequence=1, number=3, change="rename", name="cat", to="tiger", session=0)
    cloud.say("r1", edit)
    assert cloud.session().trainer.classes == ("tiger", "dog")
    cloud.say("r1", dataclasses.replace(STATE, edits=3))
    assert outcomes(cloud.say("r1", *batches(1, first=2))) == ["accepted"]
    assert [event.kind for event in cloud.store.states("r1")] == ["start"]


def test_between_two_measurements_there_is_time_for_all_else(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = start()
    prepared: list[str] = []

    def prepare(robot: str, state: RobotState) -> Preparation:
        prepared.append(robot)
        cloud.clock.now += 4
        return Preparation(robot=robot, state=state, refused="no")

    monkeypatch.setattr(cloud.training.fleet.preparer, "prepare", prepare)
    for robot in ("r1", "r2"):
        cloud.publish(robot, "state", pack(STATE))
    cloud.work()
    assert len(prepared) == 1
    cloud.work(3.9)
    assert len(prepared) == 1
    cloud.work(0.2)
    assert set(prepared) == {"r1", "r2"}


def test_a_robot_too_many_is_told_so_and_let_in_by_a_larger_trainer(start: Start) -> None:
    cloud = start(most_robots=1)
    cloud.say("r1", STATE)
    cloud.publish("r2", "state", pack(STATE))
    (figures,) = [one for one in of(TrainerMetrics, cloud.work()) if one.robot == "r2"]
    assert (figures.boot, figures.quarantine) == (STATE.boot, "this trainer has its 1 robots (--most-robots)")
    assert cloud.say("r2", *batches(1)) == []
    assert outcomes(cloud.say("r1", *batches(1))) == ["accepted"]
    assert list(cloud.finish()["robots"]) == ["r1"]


def test_names_that_never_trained_give_way(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    cloud = start(most_robots=3)
    cloud.say("r1", STATE, *batches(1))
    for name in ("invented-1", "invented-2"):
        cloud.clock.now += 1.0
        cloud.say(name, STATE)
    cloud.say("r2", STATE)
    assert "r2" not in cloud.known, "they have time to send something"
    cloud.clock.now += NEWCOMER_SECONDS
    cloud.say("r2", STATE)
    assert sorted(cloud.known) == ["invented-2", "r1", "r2"], "the one that was silent longest gives way"
    assert "robot invented-1 gives way to r2: it has sent nothing to train on in" in caplog.text
    assert outcomes(cloud.say("r2", *batches(1))) == ["accepted"]
    cloud.clock.now += NEWCOMER_SECONDS
    cloud.say("r3", STATE, *batches(1))
    cloud.clock.now += 100 * NEWCOMER_SECONDS
    cloud.say("r4", STATE)
    assert sorted(cloud.known) == ["r1", "r2", "r3"], "what was learned is never given up for a name"
    cloud.kill()
    cloud.start()
    cloud.clock.now += 100 * NEWCOMER_SECONDS
    cloud.say("r4", STATE)
    assert sorted(cloud.known) == ["r1", "r2", "r3"], "nor after a restart"


def test_weights_that_are_slow_to_come_hold_up_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = start()
    coming = "the pretrained weights of shufflenet_v2_x0_5 are being downloaded"
    monkeypatch.setattr(Downloads, "waits_for", lambda *_: coming)
    pretrained = dataclasses.replace(STATE, weights="default")
    assert cloud.say("r1", pretrained, *batches(1)) == []
    assert cloud.figures("r1").quarantine == coming
    assert outcomes(cloud.say("r2", STATE, *batches(1))) == ["accepted"]
    monkeypatch.setattr(Downloads, "waits_for", lambda *_: "")
    cloud.work(REPORT_SECONDS + 1)
    cloud.work(REPORT_SECONDS + 1)
    assert cloud.known["r1"].prepared is not None, "without another word of the robot"
    assert outcomes(cloud.say("r1", *batches(1))) == ["accepted"], "as it comes again"
    assert cloud.figures("r1").quarantine == ""


def test_a_robot_whose_next_run_waits_for_weights_has_nothing_rejected(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = start()
    cloud.say("r1", STATE, *batches(1))
    monkeypatch.setattr(Downloads, "waits_for", lambda *_: "wait")
    split = dataclasses.replace(SPLIT, bits=2)
    another = dataclasses.replace(STATE, boot="d" * 16, run="e" * 16, split=split, weights="default")
    assert cloud.say("r1", another, *batches(1, split=split, boot=another.boot)) == []


def test_a_name_gives_way_while_its_network_is_prepared(start: Start) -> None:
    cloud = start(most_robots=1)
    fleet = cloud.training.fleet
    cloud.say("r1", STATE)
    del cloud.known["r1"]  # as another thread does
    assert fleet.preparer.prepare("r1", STATE).start
    cloud.training.prepared.append(fleet.preparer.prepare("r1", STATE))
    cloud.node._incoming.hear_training()
    assert cloud.known == {}


def test_who_sends_something_does_not_give_way_while_its_network_is_prepared(start: Start) -> None:
    cloud = start(most_robots=1)
    cloud.say("r1", STATE)
    record = cloud.known["r1"]
    cloud.clock.now += 3 * NEWCOMER_SECONDS
    record.fed = cloud.clock.now - 1.0
    cloud.say("r2", STATE)
    assert list(cloud.known) == ["r1"]
    record.refused = "too large"
    cloud.say("r2", STATE)
    assert list(cloud.known) == ["r2"]


def test_a_flood_is_dropped_unread_and_counted_by_robot(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    cloud = start()
    for name in ("r1", "r2"):
        cloud.say(name, STATE, *batches(1))
    for name, count in (("r1", 400), ("nobody", 300)):
        for _ in range(count):
            cloud.publish(name, "metrics", b"garbage")
    assert outcomes(cloud.say("r2", *batches(1, first=1))) == ["accepted"], "others do not wait for what is left"
    cloud.work(REPORT_SECONDS + 1)
    assert cloud.known["r1"].dropped == 400 - LANE_LIMIT
    assert cloud.node._incoming.strangers.dropped == 300 - LANE_LIMIT
    assert f"robot r1: {400 - LANE_LIMIT} messages dropped unread" in caplog.text


def test_a_robot_that_sends_noise_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quarantine, "DOUBT_IMAGES", 200)
    cloud = start()
    rng = np.random.default_rng(0)
    cloud.say("r1", STATE)
    cloud.say("r2", STATE, *batches(60))
    for number in range(60):
        names = [str(name) for name in rng.choice(["cat", "dog", "ant", "bee"], 4)]
        noise = rng.standard_normal((4, *SPLIT.shape)).astype(np.float32)
        cloud.say("r1", make_batch(names, values=noise, sequence=number))
    cloud.work(REPORT_SECONDS + 1)
    assert "robot r1: what it sends seems to teach nothing: after 240 images" in caplog.text
    assert cloud.known["r1"].doubt
    assert not cloud.known["r2"].doubt


# A robot that goes, and one that comes back


def test_samples_too_few_for_a_step_are_trained_on_when_a_robot_falls_silent(start: Start) -> None:
    cloud = start(practice=0)
    cloud.say("r1", STATE, make_batch(["cat", "dog"]))
    cloud.work(SILENCE_SECONDS)
    assert (cloud.session().trainer.steps, len(cloud.session().network.waiting)) == (0, 2)
    cloud.work(0.1)
    assert (cloud.session().trainer.steps, len(cloud.session().network.waiting)) == (1, 0)
    events = cloud.store.last_event("r1")
    cloud.work(100)
    assert cloud.store.last_event("r1") == events, "nothing is left over"


def test_what_is_stored_is_rehearsed_while_nothing_arrives_and_not_for_ever(start: Start) -> None:
    cloud = start(practice=1.5)
    cloud.say("r1", STATE, *batches(4))
    fresh, steps = cloud.session().images, cloud.session().trainer.steps
    assert fresh >= 4
    assert steps <= fresh, "not while more may come"
    for _ in range(20):
        cloud.work(SILENCE_SECONDS + 0.1)
    session = cloud.session()
    rehearsed = session.trainer.steps - steps - (session.images > fresh)
    assert rehearsed == int(1.5 * session.images)
    assert cloud.say("r1", *batches(1, first=4))


def test_what_a_lesson_taught_is_rehearsed_at_once_and_tested_again(start: Start) -> None:
    cloud = start()
    cloud.say("r1", STATE, *batches(10))
    steps = cloud.session().trainer.steps
    assert steps == 10, "nobody waits for a stream"
    cloud.say("r1", *batches(10, first=10, session=1), make_batch(["cat", "dog"], sequence=20, evaluation=1))
    session = cloud.session()
    assert session.trainer.steps >= steps + 10 + 30, "the clock stands still: the robot is not silent"
    assert (session.network.idle_steps_due(0.5), session.network.loss is None) == (0, False)
    assert last_rate(cloud) < 0.05, "what the cloud learned has settled"
    rounds = session.members["r1"].rounds.state()
    assert list(rounds.tests) == ["first", "settled"], "what people see is what the cloud knows now"
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")


def still_state(**fields: Any) -> RobotState:
    """Return the state of a robot that stands still, with the weights that the tiny network begins with."""
    split = dataclasses.replace(STATE.split, **{"bottleneck": 0, "shape": (96, 2, 2), **fields})
    with TorchRandom(0, CPU):
        digest = weights_digest(TinySegment(split, weights="none").rest)
    return dataclasses.replace(STATE, split=split, weights="default", weights_digest=digest, still=True)


def test_behind_a_robot_that_stands_still_each_message_is_learned_at_once(start: Start) -> None:
    cloud, state = start(), still_state()
    before = cloud.clock.now
    cloud.say("r1", state, make_batch(["cat"] * 3, state.split), make_batch(["dog"] * 3, state.split, sequence=1))
    assert cloud.clock.now == before, "it is not silent"
    session = cloud.session()
    assert (bool(session.network.still), session.network.is_behind, session.trainer.classes) == (
        True,
        False,
        ("cat", "dog"),
    )
    room = cloud.training.fleet.room
    assert room.cost(state).network == room.cost(dataclasses.replace(state, still=False)).network + MAX_FEATURE_BYTES
    cloud.say("r1", make_batch(["cat", "dog"], state.split, sequence=2, evaluation=1))
    cloud.work(SILENCE_SECONDS + 0.1)
    assert session.network.idle_steps_due(0.5) == 0
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu"), "the same bits"
    cloud.start()
    assert cloud.session().network.still
    cloud.say("r1", state, make_batch(["ant"] * 3, state.split, sequence=3))
    assert cloud.session().trainer.classes == ("cat", "dog", "ant")


def test_a_new_cloud_begins_as_a_robot_once_did_that_goes_on_and_learns_what_comes_again(start: Start) -> None:
    cloud, began = start(), still_state()
    state = dataclasses.replace(began, weights="checkpoint", rest_weights="default")
    cloud.say("r1", state, make_batch(["cat", "dog"] * 2, state.split, again=True))
    cloud.work(SILENCE_SECONDS + 0.1)
    session = cloud.session()
    assert (bool(session.network.still), session.trainer.classes) == (True, ("cat", "dog"))
    assert session.network.loss is not None, "what comes again alone is fitted to, too"
    assert not session.network.is_behind
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu"), "the same bits"


@pytest.mark.parametrize(
    "state",
    [
        dataclasses.replace(still_state(), still=False),
        dataclasses.replace(still_state(), weights_digest="0" * 16),
        dataclasses.replace(still_state(), weights="none", weights_digest=""),
        still_state(bottleneck=6, shape=(6, 2, 2)),
    ],
)
def test_a_network_that_is_not_what_its_robot_has_learns_as_a_whole(start: Start, state: RobotState) -> None:
    cloud = start()
    cloud.say("r1", state, make_batch(["cat", "dog"] * 2, state.split))
    assert not cloud.session().network.still
    assert cloud.session().trainer.steps == 1


def test_a_robot_waits_for_one_step_of_idle_rehearsal_where_steps_are_slow(start: Start) -> None:
    cloud = start()
    cloud.say("r1", STATE, *batches(20))
    cloud.training.fleet.training_of("r1")._idle.step_seconds = 40.0
    cloud.clock.now += SILENCE_SECONDS + 0.1
    finish_idle(cloud.training.fleet, "r1")
    event = cloud.store.next_event("r1", cloud.session().cursor)
    assert event
    assert (event.kind, event.payload) == ("rehearse", b"1 40")


def last_rate(cloud: Cloud) -> float:
    """The learning rate of the last step, as a share of its peak."""
    rate: float = cloud.session().trainer.learner.optimizer.param_groups[0]["lr"]
    return rate / cloud.config.learning_rate


def rehearse(cloud: Cloud) -> None:
    """Let each silent robot's first steps of idle rehearsal be taken; the next ones are in the log already."""
    cloud.clock.now += SILENCE_SECONDS + 0.1
    for robot in cloud.known:
        while not cloud.session(robot).network.rehearses:
            finish_idle(cloud.training.fleet, robot)
            cloud.training._train(robot)
    cloud.turn()


def test_a_stop_in_the_middle_of_idle_rehearsal_saves_a_settled_network(start: Start) -> None:
    cloud = start(practice=2)
    cloud.say("r1", STATE, *batches(20))
    rehearse(cloud)
    due, steps = cloud.session().network.idle_steps_due(2), cloud.session().trainer.steps
    assert (due, steps) == (160 - IDLE_STEPS_AT_ONCE, 20 + IDLE_STEPS_AT_ONCE)
    assert last_rate(cloud) > 0.9
    cloud.finish()
    assert last_rate(cloud) < 0.02
    saved = load_checkpoint(cloud.path / "checkpoint" / "r1", LAYOUT)
    assert saved.learner.steps == steps + IDLE_STEPS_AT_ONCE + SETTLING_STEPS
    assert replay(cloud.path / STORE, None, "cpu")

    cloud.start()
    cloud.work(SILENCE_SECONDS + 0.1)
    assert cloud.session().trainer.steps == 20 + 160, "the rest comes at the next start"
    assert last_rate(cloud) < 0.02
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")


def test_a_stop_when_nothing_was_rehearsed_yet_or_all_was_ends_at_once(start: Start) -> None:
    for number, silence in enumerate([0, 20]):
        cloud = start(f"cloud{number}", practice=1)
        cloud.say("r1", STATE, *batches(2))
        cloud.work(silence)
        steps = cloud.session().trainer.steps
        cloud.finish()
        assert cloud.session().trainer.steps == steps


def test_a_stop_with_messages_to_train_on_leaves_them_and_the_rate_to_the_next_start(start: Start) -> None:
    cloud = start(practice=5)
    cloud.say("r1", STATE, *batches(10))
    rehearse(cloud)
    cloud.publish("r1", "activations", pack(batches(1, first=10)[0]))
    cloud.node._incoming.take_in(0)
    assert cloud.known["r1"].messages_waiting == 1
    steps = cloud.session().trainer.steps
    cloud.finish()
    assert cloud.session().trainer.steps == steps


def test_ctrl_c_is_not_held_up_by_many_robots(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = start(practice=5)
    robots = ("r1", "r2", "r3")
    for robot in robots:
        cloud.say(robot, STATE, *batches(10))
    rehearse(cloud)
    settle = cloud.training.fleet.settle
    settled: list[str] = []

    def settle_slowly(robot: str, seconds: float) -> None:
        settle(robot, seconds)
        settled.append(robot)
        cloud.clock.now += 0.6 * SETTLING_SECONDS

    monkeypatch.setattr(cloud.training.fleet, "settle", settle_slowly)
    cloud.finish()
    assert settled == ["r1", "r2"]
    assert replay(cloud.path / STORE, None, "cpu")


@pytest.mark.parametrize("practice", [0.0, 0.1])
def test_idle_rehearsal_can_be_switched_off(start: Start, practice: float) -> None:
    cloud = start(practice=practice)
    cloud.say("r1", STATE, make_batch(["cat", "dog", "cat", "dog"]))
    steps = cloud.session().trainer.steps
    cloud.work(100)
    assert cloud.session().trainer.steps == steps


def test_samples_too_few_for_a_step_wait_for_the_next_start(cloud: Cloud) -> None:
    cloud.say("r1", STATE, make_batch(["cat", "dog"]))
    assert cloud.finish()["images"] == 0
    cloud.start()
    cloud.work()
    assert len(cloud.session().network.waiting) == 2, "the robot has had no time to come back"
    cloud.say("r1", STATE, make_batch(["ant", "ant"], sequence=1))
    assert (cloud.session().trainer.steps, cloud.session().images) == (1, 4)
    assert cloud.session().trainer.classes == ("cat", "dog", "ant")


def test_a_robot_that_leaves_has_its_network_saved(cloud: Cloud) -> None:
    cloud.say("r1", STATE, make_batch(["cat", "dog"]))
    cloud.say("r1", dataclasses.replace(GONE, boot="e" * 16))  # of another start
    assert not (cloud.path / "checkpoint").exists()
    cloud.say("r1", GONE)
    cloud.work(0.1)
    saved = load_checkpoint(cloud.path / "checkpoint" / "r1", LAYOUT)
    assert (saved.learner.classes, saved.learner.steps) == (["cat", "dog"], 1)


@pytest.mark.parametrize(("weights", "images"), [("checkpoint", 8), ("none", 4)])
def test_only_a_robot_that_goes_on_from_its_checkpoint_finds_its_network(
    cloud: Cloud, weights: str, images: int
) -> None:
    cloud.say("r1", STATE, *batches(1))
    back = dataclasses.replace(BACK, weights=weights)  # type: ignore[arg-type]
    assert outcomes(cloud.say("r1", back, make_batch(["ant"] * 4, boot=back.boot))) == ["accepted"]
    summary = cloud.finish()
    assert summary["images"] == images
    assert summary["classes"] == (["ant", "cat", "dog"] if weights == "checkpoint" else ["ant"])


def test_what_a_robot_kept_from_its_former_start_is_taken(cloud: Cloud) -> None:
    sent = batches(3)
    cloud.say("r1", STATE, sent[0])
    assert outcomes(cloud.say("r1", BACK, sent[0], sent[1], *batches(1, boot=BACK.boot))) == [
        *("duplicate", "accepted", "accepted"),
    ]
    assert cloud.figures().images == 12


def test_a_late_state_of_a_former_start_does_not_throw_away_what_was_learned(cloud: Cloud) -> None:
    new = dataclasses.replace(STATE, boot="c" * 16)
    cloud.say("r1", STATE, *batches(1))
    cloud.say("r1", new, *batches(2, boot=new.boot))
    for state in (STATE, new, STATE, GONE):
        cloud.say("r1", state)
        cloud.say("r1", *batches(1, first=cloud.store.last_event("r1"), boot=new.boot))
    assert cloud.figures().images == 6 * 4
    assert cloud.figures().boot == new.boot
    assert [event.kind for event in cloud.store.states("r1")] == ["start", "start"]


def test_a_trainer_that_was_killed_goes_on_where_the_log_ends(cloud: Cloud, start: Start) -> None:
    state = dataclasses.replace(STATE, rehearse=1.0)
    sent = batches(9, size=3)
    whole = start("whole")
    whole.say("r1", state, *sent)
    cloud.say("r1", state, *sent[:4])
    cloud.kill()
    cloud.start()
    assert cloud.say("r1", sent[4]) == [], "it has not said that it is there"
    assert outcomes(cloud.say("r1", state, *sent[3:])) == ["duplicate", *["accepted"] * 5]
    assert cloud.figures() == whole.figures()
    assert [event.kind for event in cloud.store.states("r1")] == ["start"], "it is the same start of the robot"


def test_what_is_stored_is_trained_on_without_the_robot(cloud: Cloud) -> None:
    cloud.say("r1", STATE)
    for batch in batches(6):
        cloud.publish("r1", "activations", pack(batch))
    cloud.turn()
    assert cloud.known["r1"].messages_waiting >= 5
    cloud.kill()
    cloud.start()
    cloud.work()
    assert (cloud.figures().images, cloud.figures().messages_waiting) == (24, 0)


# Quarantine


def test_who_changes_its_split_while_it_runs_is_in_quarantine_for_a_while(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(1))
    other = dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, bits=3))
    assert cloud.say("r1", other, *batches(1, first=1)) == []
    assert "it changed its split while it ran" in cloud.figures().quarantine
    cloud.clock.now += FIRST_SECONDS
    assert outcomes(cloud.say("r1", STATE, *batches(2, first=1))) == ["accepted"] * 2
    assert (cloud.figures().quarantine, cloud.figures().images) == ("", 12)


def test_a_robot_in_quarantine_that_starts_again_is_told_so(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(1))
    cloud.say("r1", dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, bits=3)))
    cloud.say("r1", BACK, *batches(1, boot=BACK.boot))
    figures = cloud.figures()
    assert (figures.boot, figures.images) == (BACK.boot, 0)
    assert figures.quarantine
    cloud.clock.now += FIRST_SECONDS
    assert outcomes(cloud.say("r1", *batches(1, boot=BACK.boot))) == ["accepted"]
    assert (cloud.figures().boot, cloud.figures().images) == (BACK.boot, 8)


# A full disk


def test_a_full_disk_is_said_gets_no_receipts_and_training_goes_on(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(2))
    limit_pages(cloud.store, 4)  # room for the first of those that come together
    for batch in batches(12, first=2, size=300):
        cloud.publish("r1", "activations", pack(batch))
    answers = cloud.work()
    assert of(Receipt, answers) == []
    (state,) = of(TrainerState, answers)
    assert "the store cannot be written: database or disk is full" in state.trouble
    assert cloud.figures().images == 8, "a part of what got no receipt is trained on"
    limit_pages(cloud.store, -1)
    assert cloud.say("r1", *batches(1, first=2, size=300)) == [], "not before it is said that there is room"
    states = of(TrainerState, cloud.work(RETRY_SECONDS))
    assert [one.trouble for one in states if not one.trouble] == [""]
    assert outcomes(cloud.say("r1", *batches(12, first=2, size=300))) == ["accepted"] * 12
    assert cloud.figures().images == 8 + 12 * 300


def test_a_disk_that_fills_while_a_robot_is_let_in_lets_it_in_later(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(2, size=300))
    limit_pages(cloud.store, 0)
    assert cloud.say("r2", STATE, *batches(12, size=300)) == []
    assert cloud.trouble
    limit_pages(cloud.store, -1)
    cloud.work(RETRY_SECONDS)
    assert outcomes(cloud.say("r2", STATE, *batches(2))) == ["accepted"] * 2
    assert cloud.figures("r2").images == 8
    assert [event.kind for event in cloud.store.states("r2")] == ["start"]


def test_what_cannot_be_written_beside_the_store_does_not_end_training(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloud = start(checkpoint_every=1)

    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("hierarchy.runtime.checkpoint.save_file", "hierarchy.runtime.run_folder.write_json"):
        monkeypatch.setattr(place, full)
    monkeypatch.setattr("cloud_trainer.node.LAST_SAVE_SECONDS", 0.0)
    assert outcomes(cloud.say("r1", STATE, *batches(3))) == ["accepted"] * 3
    assert cloud.figures().images == 12
    assert "the checkpoint of robot r1 cannot be written ([Errno 28] " in caplog.text
    assert "training goes on without: make room on the disk of " in caplog.text
    assert not (cloud.path / "checkpoint" / "r1").exists(), "an empty folder would look like a checkpoint"
    cloud.node.finish()
    error = cloud.node.not_saved
    assert isinstance(error, StorageError)
    assert exit_status(error) == EXIT_MACHINE
    assert "NOT SAVED: summary.json (" in str(error)
    assert "; the checkpoint of robot r1 (" in str(error)
    assert "What has a receipt is in store.db" in str(error)


def test_room_that_is_made_at_the_end_is_used(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cloud_trainer.node.LAST_RETRY_SECONDS", 0.0)
    cloud = start()
    cloud.say("r1", STATE, *batches(3))
    tries: list[bool] = []
    save = cloud.training.fleet.save

    def full_twice(robot: str) -> bool:
        tries.append(len(tries) == 2 and save(robot))
        return tries[-1]

    monkeypatch.setattr(cloud.training.fleet, "save", full_twice)
    cloud.node.finish()
    assert tries == [False, False, True]
    assert cloud.node.not_saved is None
    assert load_checkpoint(cloud.path / "checkpoint" / "r1", LAYOUT).learner.steps == 3


def test_where_robots_came_and_all_were_refused_that_is_the_last_word(start: Start) -> None:
    cloud = start()
    assert (cloud.node.what_came, cloud.node.nothing_learned()) == (NOBODY_CAME, "")
    cloud.say("r1", IMPOSSIBLE, make_batch(["cat"] * 4, IMPOSSIBLE.split))
    assert cloud.node.what_came == NOTHING_CAME
    assert cloud.node.nothing_learned().startswith("NOTHING WAS LEARNED: 1 of 1 robots were refused, robot r1: ")
    cloud.say("r2", STATE, *batches(1))
    assert (cloud.node.what_came, cloud.node.nothing_learned()) == ("", "")


def test_a_store_that_is_full_of_what_waits_is_said(start: Start) -> None:
    cloud = start(store_gb=0.001)
    cloud.say("r1", STATE)
    cloud.work(10)
    for number in range(300):
        cloud.store.append_message("r1", STATE.boot, number, bytes(4000))
    cloud.store.commit()
    cloud.training.full = cloud.training.fleet.make_room()
    cloud.node._mind_the_disk(cloud.clock.now)
    assert "the store is full (--store-gb 0.001): there is room again when" in cloud.trouble


def taking(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of whether activations are taken."""
    return [message.partition(":")[0] for message in caplog.messages if message.startswith("taking")]


def test_a_disk_that_stays_full_is_logged_now_and_then_and_its_end_when_something_was_stored(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloud.say("r1", STATE, *batches(2))
    limit_pages(cloud.store, 0)
    for _ in range(20):  # after a while robots try again, in vain
        assert cloud.say("r1", *batches(12, first=2, size=300)) == []
        cloud.work(RETRY_SECONDS)
    assert taking(caplog) == ["taking no activations"] * 2, "again after two minutes"
    limit_pages(cloud.store, -1)
    cloud.work(RETRY_SECONDS)
    assert taking(caplog) == ["taking no activations"] * 2, "nothing is stored yet"
    assert outcomes(cloud.say("r1", *batches(12, first=2, size=300))) == ["accepted"] * 12
    assert taking(caplog) == ["taking no activations"] * 2 + ["taking activations again"]


def test_a_store_that_is_always_nearly_full_does_not_fill_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloud = start(store_gb=0.001, batch=64, practice=0.01)
    cloud.say("r1", STATE)
    began, sent, troubles = cloud.clock.now, 0, 0
    while cloud.clock.now < began + 2 * WARNING_SECONDS:
        if not cloud.trouble:
            cloud.say("r1", *batches(6, first=sent, size=1500))
            sent += 6
        before = cloud.trouble
        cloud.work(2.5)
        troubles += not before and bool(cloud.trouble)
    assert troubles > 3
    assert 1 <= taking(caplog).count("taking no activations") <= 2


# What a robot says of itself


def robot_metrics(**figures: Any) -> RobotMetrics:
    values: dict[str, Any] = {
        "boot": STATE.boot,
        "images": 4,
        "classes": 2,
        "exit_loss": 0.5,
        "exit_prequential": 0.25,
        "exit_accuracy": 0.75,
        "images_per_second": 50.0,
        "bytes_per_image": 500.0,
        "raw_bytes_per_image": 768.0,
        "jpeg_bytes_per_image": 400.0,
        "messages_sent": 9,
        "messages_rejected": 0,
        "queued": 0,
        "dropped": 0,
    }
    return RobotMetrics(**{**values, **figures})


def test_what_a_robot_says_of_itself_is_in_the_summary(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(1), robot_metrics())
    cloud.say("r1", robot_metrics(boot="e" * 16, exit_accuracy=0.1))  # left over from a former start
    cloud.say("stranger", robot_metrics(exit_accuracy=0.2))
    summary = cloud.finish()
    assert (summary["exit_accuracy"], summary["messages_sent"], summary["bytes_per_image"]) == (0.75, 9, 500)
    assert list(summary["robots"]) == ["r1"]


def test_a_trainer_that_starts_again_still_knows_what_robots_said(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(1), robot_metrics())
    before = cloud.finish()
    cloud.start()
    cloud.work()
    assert cloud.finish() == before
    assert before["exit_accuracy"] == 0.75


def test_a_trainer_that_no_robot_came_to_writes_its_summary_too(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cloud.work()
    cloud.link.connected, cloud.link.problem = False, "gone"
    cloud.work()
    assert caplog.messages == ["connected; waiting for robots", "waiting for the broker (gone)"]
    assert cloud.finish()["images"] == 0


def test_edits_that_come_again_under_other_numbers_are_not_stored_again(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(2))
    edit = ClassEdit(boot=STATE.boot, sequence=10, number=1, change="rename", name="cat", to="cow", session=0)
    assert outcomes(cloud.say("r1", edit)) == ["accepted"]
    stored = cloud.store.last_event("r1")
    again = [dataclasses.replace(edit, sequence=sequence) for sequence in range(11, 31)]
    assert outcomes(cloud.say("r1", *again)) == ["duplicate"] * 20
    assert cloud.store.last_event("r1") == stored
