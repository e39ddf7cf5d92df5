"""Robots of a fleet with one front train one half in the cloud: what one was taught, all are answered with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cloud_trainer.session.session_start
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, Answer, Ask, Change, ClassEdit, RobotState
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.replay import replay
from cloud_trainer.robots.contradictions import EVERY_SECONDS, Contradictions
from cloud_trainer.robots.robot import SILENCE_SECONDS
from cloud_trainer.robots.store_cleanup import StoreCleanup
from cloud_trainer.session.session import Session
from cloud_trainer.store.opening import STORE
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.random_state import TorchRandom
from hierarchy.weights_file import weights_digest
from tests.cloud_trainer.test_hostile import Explosive
from tests.cloud_trainer.world import CLASSES, CPU, STATE, Cloud, TinySegment, is_finite, make_batch, of, outcomes

Start = Callable[..., Cloud]

SPLIT = replace(STATE.split, bottleneck=0, shape=(96, 2, 2), bits=8)
FRONT, OTHER_FRONT = "f" * 16, "e" * 16
LOG = f"lab@{FRONT}"
with TorchRandom(0, CPU):
    REST = weights_digest(TinySegment(SPLIT, weights="none").rest)


def state_of(robot: str, **fields: Any) -> RobotState:
    """Return the state of a robot of the fleet, whose whole network stands still unless its digest is another."""
    usual = {"boot": f"{ord(robot[-1]):016x}", "run": f"{ord(robot[-1]) + 256:016x}", "split": SPLIT}
    still = {"weights": "default", "weights_digest": REST, "still": True, "fleet": "lab", "front": FRONT}
    return replace(STATE, **{**usual, **still, "rehearse": 1.0, **fields})


def as_a_whole(robot: str, **fields: Any) -> RobotState:
    """Return that of one behind whose front the whole half learns: it began otherwise."""
    return state_of(robot, weights_digest="0" * 16, **fields)


class Member:
    """A robot of the fleet, and how it sends."""

    def __init__(self, cloud: Cloud, name: str, state: RobotState | None = None) -> None:
        self.cloud, self.name = cloud, name
        self.state = state or state_of(name)
        self.sent = self.edits = 0

    def teach(self, *names: str, **settings: Any) -> list[str]:
        """Send a batch, and return what became of it."""
        return outcomes(self.cloud.say(self.name, self.state, self.batch(names, **settings)))

    def batch(self, names: Sequence[str], **settings: Any) -> ActivationBatch:
        self.sent += 1
        return make_batch(
            names, self.state.split, boot=self.state.boot, sequence=self.sent, edits=self.edits, **settings
        )

    def test(self, *names: str, number: int) -> None:
        self.teach(*names, evaluation=number)

    def edit(self, change: Change, name: str, to: str = "", session: int = 0, *, everywhere: bool = False) -> None:
        self.sent += 1
        self.edits += 1
        its = ClassEdit(
            boot=self.state.boot,
            sequence=self.sent,
            number=self.edits,
            change=change,
            name=name,
            to=to,
            session=session,
            everywhere=everywhere,
        )
        assert outcomes(self.cloud.say(self.name, its)) == ["accepted"]
        self.cloud.work(SILENCE_SECONDS + 0.1)

    def come_back(self, boot: str, **fields: Any) -> None:
        self.state = replace(self.state, boot=boot, edits=self.edits, **fields)
        self.sent = 0


def fleet_of(cloud: Cloud, names: Sequence[str] = ("r1", "r2"), state: Callable[..., RobotState] = state_of) -> Any:
    return [Member(cloud, name, state(name)) for name in names]


def samples(session: Session) -> dict[tuple[str, str], int]:
    """Return how many samples are rehearsed, by robot and class."""
    names = list(session.members)
    counts: dict[tuple[str, str], int] = {}
    for name, ref in session.network.memory.all():
        counts[names[ref.member], name] = counts.get((names[ref.member], name), 0) + 1
    return counts


@pytest.mark.parametrize("state", [state_of, as_a_whole], ids=["still", "as a whole"])
def test_robots_of_a_fleet_train_one_half_on_all_their_samples(start: Start, state: Callable[..., RobotState]) -> None:
    cloud = start()
    r1, r2 = fleet_of(cloud, state=state)
    assert r1.teach("cat", "dog", "cat", "dog") == ["accepted"]
    assert r2.teach("ant", "dog", "ant", "dog") == ["accepted"]
    r1.test("cat", "dog", number=1)
    r2.test("ant", "dog", "ant", number=1)
    cloud.work(SILENCE_SECONDS + 0.1)
    assert cloud.session("r1") is cloud.session("r2")
    assert bool(cloud.session("r1").network.still) is (state is state_of)
    assert set(cloud.session("r1").trainer.classes) == {"cat", "dog", "ant"}
    assert samples(cloud.session("r1")) == {("r1", "cat"): 2, ("r1", "dog"): 2, ("r2", "ant"): 2, ("r2", "dog"): 2}, (
        "both robots number their samples alike"
    )
    one, other = cloud.figures("r1"), cloud.figures("r2")
    assert (one.images, one.classes, one.evaluated, one.messages_trained) == (4, 2, 2, 1)
    assert (other.images, other.classes, other.evaluated, other.messages_trained) == (4, 2, 3, 1)
    assert one.cloud_accuracy is not None
    assert other.cloud_accuracy is not None
    together = (2 * one.cloud_accuracy + 3 * other.cloud_accuracy) / 5
    for figures in (one, other):
        assert (figures.fleet, figures.fleet_robots, figures.fleet_classes, figures.fleet_images) == ("lab", 2, 3, 8)
        assert figures.fleet_accuracy == pytest.approx(together)
        assert figures.apart == ""
    summary = cloud.finish()
    assert list(summary["fleets"]) == [LOG]
    its = summary["fleets"][LOG]
    assert (its["robots"], its["images"], sorted(its["classes"])) == (["r1", "r2"], 8, ["ant", "cat", "dog"])
    assert its["cloud_accuracy"] == pytest.approx(together)
    assert summary["images"] == 8
    assert [path.name for path in (cloud.path / "checkpoint").iterdir()] == [LOG]
    assert replay(cloud.path / STORE, None, "cpu"), "the same bits"


def test_a_robot_that_was_taught_nothing_is_answered_with_what_another_was(start: Start) -> None:
    cloud = start()
    r1, r2 = fleet_of(cloud)
    looks = np.random.default_rng(0).standard_normal((2, *SPLIT.shape)).astype(np.float32)
    r1.teach(*["cat"] * 4, *["dog"] * 4, values=np.repeat(looks, 4, axis=0))
    cloud.say("r2", r2.state)
    cloud.work(SILENCE_SECONDS + 0.1)
    answerer = cloud.training.answerer
    answerer._clock = cloud.clock.monotonic
    cloud.robots.subscribe(topics.topic("robot", topics.ANYONE, "answer"))

    def ask(number: int, look: NDArray[np.float32]) -> list[str]:
        activations = pack_activations(quantize(look[None], SPLIT.bits))
        asked = Ask(boot=r2.state.boot, number=number, split=SPLIT.fingerprint, deadline=9.0, activations=activations)
        cloud.publish("r2", "ask", pack(asked))
        answerer.work(timeout=0)
        return [one.classes[0] for one in of(Answer, list(cloud._answers()))]

    assert ask(0, looks[0]) == [], "the first one only wakes it"
    cloud.work(1.0)
    assert (ask(1, looks[0]), ask(2, looks[1])) == (["cat"], ["dog"])
    assert not cloud.store.states_of("r2"), "who only asks enters nothing into the log"


def test_a_class_edit_is_about_the_samples_of_its_robot(start: Start) -> None:
    cloud = start(practice=0.5)
    r1, r2 = fleet_of(cloud)
    r1.teach("cat", "dog", "cat")
    r2.teach("cat", "ant", "cat")
    r1.test("cat", "cat", number=1)
    r2.test("cat", number=1)
    r1.edit("forget", "cat")
    session = cloud.session()
    assert samples(session) == {("r1", "dog"): 1, ("r2", "ant"): 1, ("r2", "cat"): 2}
    assert "cat" in session.trainer.classes, "r2 knows it still"
    assert session.members["r1"].rounds.newest.count == 0
    assert session.members["r2"].rounds.newest.count == 1
    names = [
        name for event in cloud.store.batches_after(LOG, 0) for name in stored(event.payload) if event.robot == "r1"
    ]
    assert "cat" not in names, "overwritten in the store, of r1"
    assert any("cat" in stored(event.payload) for event in cloud.store.batches_after(LOG, 0) if event.robot == "r2")
    r2.edit("forget", "cat")
    assert samples(session) == {("r1", "dog"): 1, ("r2", "ant"): 1}
    assert set(session.trainer.classes) == {"dog", "ant"}, "nobody has samples of it left"


def stored(payload: bytes) -> list[str]:
    return unpack_as(ActivationBatch, payload).names


def test_a_class_is_forgotten_everywhere_whoever_taught_it_and_its_other_teachers_are_told(start: Start) -> None:
    cloud = start()
    r1, r2, r3 = fleet_of(cloud, ("r1", "r2", "r3"))
    r1.teach("cat", "dog")
    r2.teach("cat", "ant")
    r3.teach("ant", "dog")
    r2.test("cat", "ant", number=1)
    apart = Member(cloud, "r4", state_of("r4", front=OTHER_FRONT))
    apart.teach("cat", "dog")
    apart.edit("forget", "dog", everywhere=True)
    session = cloud.session()
    assert samples(session)["r1", "dog"] == 1, "of its own half alone"
    r1.edit("forget", "cat", everywhere=True)
    assert samples(session) == {("r1", "dog"): 1, ("r2", "ant"): 1, ("r3", "ant"): 1, ("r3", "dog"): 1}
    assert set(session.trainer.classes) == {"dog", "ant"}
    assert session.members["r2"].rounds.newest.count == 1
    assert not any("cat" in stored(event.payload) for event in cloud.store.batches_after(LOG, 0)), "overwritten"
    assert [cloud.figures(name).forgotten for name in ("r1", "r2", "r3", "r4")] == [(), ("cat",), (), ()]
    again = r2.batch(["cat", "ant"], samples=[1001, 1002], again=True)
    assert outcomes(cloud.say("r2", again)) == ["accepted"]
    cloud.work(SILENCE_SECONDS + 0.1)
    assert "cat" not in session.trainer.classes, "what it remembers of it is what was forgotten"
    cloud.kill()
    cloud.start()
    assert cloud.figures("r2").forgotten == ("cat",)
    r2.teach("cat")
    assert samples(cloud.session())["r2", "cat"] == 1, "taught again it is a class again"
    assert cloud.figures("r2").forgotten == ()


@pytest.mark.parametrize("state", [state_of, as_a_whole], ids=["still", "as a whole"])
def test_a_rename_moves_the_samples_of_its_robot_alone(start: Start, state: Callable[..., RobotState]) -> None:
    cloud = start(practice=1)
    r1, r2 = fleet_of(cloud, state=state)
    r1.teach(*["cat"] * 4)
    r2.teach(*["cat"] * 3, "dog")
    r1.edit("rename", "cat", "kitten")
    cloud.work(SILENCE_SECONDS + 0.1)
    session = cloud.session()
    assert samples(session) == {("r1", "kitten"): 4, ("r2", "cat"): 3, ("r2", "dog"): 1}
    assert set(session.trainer.classes) == {"cat", "dog", "kitten"}, "rehearsal has taught the new name"
    r2.edit("rename", "cat", "kitten")
    assert set(session.trainer.classes) == {"dog", "kitten"}
    r1.teach("cat", "cat")  # sent before the edit, it says
    assert samples(session)["r1", "cat"] == 2
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")


def test_what_one_robots_lesson_taught_is_taken_back_without_anothers_of_the_same_number(start: Start) -> None:
    cloud = start()
    r1, r2 = fleet_of(cloud)
    r1.teach("cat", "dog", session=1)
    r2.teach("cat", "ant", session=1)
    r1.edit("undo", "dog", session=1)
    assert samples(cloud.session()) == {("r2", "cat"): 1, ("r2", "ant"): 1}
    assert "dog" not in cloud.session().trainer.classes


def test_one_network_takes_room_once(start: Start) -> None:
    from tests.cloud_trainer.robots.test_fleet import ONE

    cloud = start(networks_gb=(2.4 * ONE.network + ONE.work + 1e9) / 1e9)
    for member in fleet_of(cloud, ("r1", "r2", "r3", "r4", "r5")):
        assert member.teach("cat", "dog") == ["accepted"]
    assert len(cloud.training.fleet.room.costs) == 1


def test_another_front_under_the_fleets_name_is_kept_apart_and_told_so(start: Start) -> None:
    cloud = start()
    r1, r2, r3, r4 = (
        Member(cloud, "r1"),
        Member(cloud, "r2"),
        Member(cloud, "r3", state_of("r3", front=OTHER_FRONT)),
        Member(cloud, "r4", state_of("r4", still=False, front="")),
    )
    for member in (r1, r2, r3, r4):
        assert member.teach("cat", "dog") == ["accepted"]
    cloud.work(6.0)
    assert cloud.session("r1") is cloud.session("r2")
    assert len({id(cloud.session(name)) for name in ("r2", "r3", "r4")}) == 3
    assert cloud.figures("r1").apart.startswith("of fleet lab it shares nothing with r3: their front is another")
    assert "nothing with r1, r2:" in cloud.figures("r3").apart
    assert (cloud.figures("r3").fleet, cloud.figures("r3").fleet_robots) == ("lab", 1)
    assert "while its front learns. A front that stands still is shared" in cloud.figures("r4").apart
    assert (cloud.figures("r4").fleet, cloud.figures("r4").fleet_robots) == ("", 0)
    cloud.publish("r3", "state", pack(replace(r3.state, online=False)))
    cloud.work(6.0)
    assert cloud.figures("r1").apart == "", "who is gone is nobody's business"


def test_without_a_fleet_a_front_is_nobodys_business(start: Start) -> None:
    cloud = start()
    for name in ("r1", "r2"):
        member = Member(cloud, name, state_of(name, fleet=""))
        member.teach("cat", "dog")
    assert cloud.session("r1") is not cloud.session("r2")
    assert sorted(cloud.training.fleet.trainings) == ["r1", "r2"]
    assert cloud.figures("r1").fleet_robots == 0


def test_a_robot_that_leaves_begins_its_own_and_the_fleets_half_rests_when_all_have_left(start: Start) -> None:
    cloud = start()
    r1, r2 = fleet_of(cloud)
    r1.teach("cat", "dog")
    r2.teach("ant", "dog")
    shared = cloud.session("r1")
    r1.come_back("a" * 16, fleet="", front="")
    r1.teach("cat", "dog")
    assert cloud.session("r1") is not shared
    assert samples(shared)["r1", "cat"] == 1, "what it taught stays"
    r2.come_back("b" * 16, fleet="", front="")
    r2.teach("ant", "dog")
    cloud.work(SILENCE_SECONDS + 0.1)
    assert cloud.training.fleet.trainings[LOG].session is None
    assert LOG not in cloud.training.fleet.room.costs
    cloud.finish()
    cloud.start()
    assert cloud.training.fleet.trainings[LOG].rests
    r1.come_back("c" * 16, fleet="lab", front=FRONT)
    assert r1.teach("cat", "fox", samples=[8, 9]) == ["accepted"]
    cloud.work(SILENCE_SECONDS + 0.1)
    assert set(cloud.session("r1").trainer.classes) == {"cat", "dog", "ant", "fox"}, "it wakes with what it knew"
    assert cloud.training.fleet.trainings["r1"].session is None, "its own rests now"
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")


def test_what_a_network_of_before_the_fleet_learned_from_gives_room(start: Start) -> None:
    cloud = start()
    alone = Member(cloud, "r1", state_of("r1", fleet="", front=""))
    for _ in range(4):
        alone.teach("cat", "dog")
    alone.come_back("a" * 16, fleet="lab", front=FRONT)
    alone.teach("cat", "dog", samples=[8, 9])
    cloud.work(SILENCE_SECONDS + 0.1)
    training = cloud.training.fleet.trainings["r1"]
    assert training.rests
    held = cloud.store.batch_bytes("r1")["r1"]
    training.give_up_oldest("r1", held // 2)
    assert cloud.store.batch_bytes("r1")["r1"] == held // 2
    assert len([*cloud.store.batches_after(LOG, 0)]) == 1
    cloud.finish()
    cloud.start()
    assert samples(cloud.session("r1")) == {("r1", "cat"): 1, ("r1", "dog"): 1}


def test_another_run_with_the_same_front_stays_in_the_fleet(start: Start) -> None:
    cloud = start()
    (r1,) = fleet_of(cloud, ["r1"])
    r1.teach("cat", "dog", session=1)
    r1.edit("rename", "cat", "kitten")
    r1.edits = 0
    r1.come_back("a" * 16, run="d" * 16)
    r1.teach("cat", "ant", session=1, samples=[1001, 1002])
    assert samples(cloud.session()) == {("r1", "kitten"): 1, ("r1", "dog"): 1, ("r1", "cat"): 1, ("r1", "ant"): 1}
    r1.edit("undo", "ant", session=1)
    assert samples(cloud.session()) == {("r1", "kitten"): 1, ("r1", "dog"): 1}, "of this run alone"


def test_who_sends_what_cannot_be_learned_is_blamed_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_trainer.session.session_start, "CloudSegment", Explosive)
    cloud, own = start(batch=16), {"split": STATE.split}
    r1, r2 = Member(cloud, "r1", as_a_whole("r1", **own)), Member(cloud, "r2", as_a_whole("r2", **own))
    r1.teach("cat")
    r2.teach("dog")
    r1.teach("cat", "dog")
    huge = np.full((6, *STATE.split.shape), 1e6, np.float32)
    huge[0] *= -1
    r2.teach(*["cat", "dog"] * 3, values=huge)
    assert "these activations give a loss of" in cloud.figures("r2").quarantine
    assert cloud.figures("r1").quarantine == ""
    cloud.work(SILENCE_SECONDS + 0.1)
    assert cloud.session().members["r1"].prequential.count == 3, "what waited beside it was learned"
    assert is_finite(cloud.session())


def test_classes_are_bounded_for_all_together(start: Start) -> None:
    cloud = start(most_classes=4)
    r1, r2 = fleet_of(cloud)
    assert r1.teach("cat", "dog") == ["accepted"]
    assert r2.teach("cat", "ant") == ["accepted"]
    assert r2.teach("fox", "bee") == ["rejected"]


def test_one_robot_cannot_use_up_what_classes_its_fleet_may_have(start: Start) -> None:
    cloud = start(most_classes=9)
    r1, r2 = fleet_of(cloud)
    r2.teach("cat", "dog")
    assert r1.teach("cat", "ant", "bee") == ["accepted"]
    assert r1.teach("eel") == ["accepted"]
    (receipt,) = cloud.say("r1", r1.batch(["fox"]))
    assert (receipt.outcome, receipt.reason) == (
        "rejected",
        "4 classes that no other robot of the fleet teaches, and 3 left for the others: one robot may have as many to "
        "itself as it leaves free (--most-classes 9 of the trainer is for the whole fleet)",
    )
    assert r1.teach("dog", "eel") == ["accepted"], "what is known is welcome"
    cloud.work(SILENCE_SECONDS + 0.1)
    cloud.training.fleet.trainings[LOG].save()
    cloud.kill()
    cloud.start()
    assert r1.teach("fox") == ["rejected"], "the checkpoint says who taught what"
    assert r2.teach("eel") == ["accepted"]
    assert r1.teach("fox") == ["accepted"], "the eel is not r1's alone any more"


def test_what_a_robot_that_withdraws_taught_makes_room_for_others(start: Start) -> None:
    cloud = start(most_classes=5)
    r1, r2 = fleet_of(cloud)
    assert r1.teach("cat", "dog") == ["accepted"]
    assert r2.teach("ant", "bee") == ["rejected"]
    r1.come_back("1" * 16, share="withdraw")
    cloud.say("r1", r1.state)
    cloud.work(6.0)
    assert r2.teach("ant", "bee") == ["accepted"]


def test_a_full_store_gives_up_the_oldest_of_the_robot_that_has_most(start: Start) -> None:
    cloud = start()
    r1, r2 = fleet_of(cloud)
    for _ in range(6):
        r1.teach("cat", "dog")
    r2.teach("ant", "dog")
    training = cloud.training.fleet.trainings[LOG]
    training.give_up_oldest("r1", cloud.store.batch_bytes(LOG)["r1"] // 2)
    cloud.work(SILENCE_SECONDS + 0.1)
    training.save()
    cloud.work(1.0)
    assert [event.robot for event in cloud.store.batches_after(LOG, 0)] == ["r1"] * 3 + ["r2"]
    assert sum(count for (robot, _), count in samples(cloud.session()).items() if robot == "r2") == 2
    again = make_batch(["cat", "dog"], SPLIT, boot=r1.state.boot, sequence=1)
    assert outcomes(cloud.say("r1", again)) == ["duplicate"], "it was trained on once"
    assert not cloud.store.is_whole(LOG)


# Consent


def test_a_robot_that_does_not_share_has_a_half_of_its_own_and_is_not_reproached_for_it(start: Start) -> None:
    cloud = start()
    r1, r2, r3 = Member(cloud, "r1"), Member(cloud, "r2", state_of("r2", share="no")), Member(cloud, "r3")
    for member in (r1, r2, r3):
        assert member.teach("cat", "dog") == ["accepted"]
    cloud.work(6.0)
    assert cloud.session("r1") is cloud.session("r3")
    assert cloud.session("r2") is not cloud.session("r1")
    assert sorted(cloud.session("r1").members) == ["r1", "r3"]
    assert {cloud.figures(name).apart for name in ("r1", "r2", "r3")} == {""}
    assert [session.log for session, _ in cloud.training._sessions()] == [LOG], "exits are made of what is shared"
    r3.come_back("a" * 16, share="no")
    r3.teach("ant", "dog", samples=[8, 9])
    assert "ant" not in cloud.session("r1").trainer.classes
    assert samples(cloud.session("r1"))["r3", "cat"] == 1, "what it shared stays"


@pytest.mark.parametrize("wipes", [True, False], ids=["wiped", "replayed"])
@pytest.mark.parametrize("state", [state_of, as_a_whole], ids=["still", "as a whole"])
def test_what_was_shared_is_taken_out_on_request_once_and_for_all(
    start: Start, state: Callable[..., RobotState], wipes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not wipes:  # so that it stays in the log, for a straight run
        monkeypatch.setattr(StoreCleanup, "waits", lambda *_: False)
    cloud = start(practice=0.5)
    r1, r2 = fleet_of(cloud, state=state)
    r1.teach("cat", "dog", "cat", "dog")
    r2.teach("ant", "dog", "ant")
    r1.test("cat", "dog", number=1)
    cloud.work(SILENCE_SECONDS + 0.1)
    r1.come_back("a" * 16, share="withdraw")
    cloud.say("r1", r1.state)
    cloud.work(6.0)
    cloud.kill()
    cloud.start()
    cloud.say("r1", r1.state)
    cloud.say("r2", r2.state)
    cloud.work(6.0)
    session = cloud.training.fleet.trainings[LOG].session
    assert session
    assert samples(session) == {("r2", "ant"): 2, ("r2", "dog"): 1}
    assert set(session.trainer.classes) == {"ant", "dog"}
    assert len([one for one in cloud.store.states(LOG) if one.robot == "r1"]) == 2, "once"
    assert cloud.figures("r2").fleet_robots == 1
    r1.teach("cat", "dog", samples=[8, 9])
    assert samples(cloud.session("r1")) == {("r1", "cat"): 1, ("r1", "dog"): 1}, "of its own half"
    if wipes:
        cloud.work(SILENCE_SECONDS + 0.1)
        kept = {event.robot for event in cloud.store.batches_after(LOG, 0) if set(stored(event.payload)) != {"?"}}
        assert kept == {"r2"}
    r1.edits = 0
    r1.come_back("b" * 16, share="yes")
    cloud.say("r1", r1.state)
    cloud.work(6.0)
    assert "taken out of fleet lab; it has a half of its own until it begins another run" in cloud.figures("r1").apart
    r1.come_back("c" * 16, run="d" * 16)
    r1.teach("cat", "fox", samples=[1, 2])
    assert samples(cloud.session("r2")) == {("r1", "cat"): 1, ("r1", "fox"): 1, ("r2", "ant"): 2, ("r2", "dog"): 1}
    cloud.work(6.0)
    assert cloud.figures("r1").apart == ""
    cloud.finish()
    if not wipes:
        assert replay(cloud.path / STORE, None, "cpu")


def test_what_is_taken_out_of_a_half_that_rests_is_overwritten_and_it_rests_again(start: Start) -> None:
    cloud = start()
    (r1,) = fleet_of(cloud, ["r1"])
    r1.teach("cat", "dog")
    r1.come_back("a" * 16, share="withdraw")
    r1.teach("cat", "dog", samples=[8, 9])
    for _ in range(3):
        cloud.work(6.0)
    assert cloud.training.fleet.trainings[LOG].rests
    assert [stored(event.payload) for event in cloud.store.batches_after(LOG, 0)] == [["?", "?"]]
    cloud.finish()
    cloud.start()
    assert cloud.training.fleet.trainings[LOG].rests
    assert samples(cloud.session("r1")) == {("r1", "cat"): 1, ("r1", "dog"): 1}


# Nonsense


def teach_all(member: Member, called: dict[str, str]) -> None:
    """Show a robot what each class really is; called: by what name. Values are as their true class has them."""
    rng = np.random.default_rng(ord(member.name[-1]))
    for true, name in called.items():
        look = np.random.default_rng(sum(true.encode())).standard_normal(SPLIT.shape)
        values = look + 0.3 * rng.standard_normal((6, *SPLIT.shape))
        assert member.teach(*[name] * 6, values=values.astype(np.float32)) == ["accepted"]


TRUE = {name: name for name in ("ant", "bee", "cat", "dog")}
FALSE = dict(zip(TRUE, [*list(TRUE)[1:], "ant"], strict=True))


@pytest.mark.parametrize("state", [state_of, as_a_whole], ids=["still", "as a whole"])
def test_a_robot_that_teaches_nonsense_is_set_apart_and_its_samples_are_taken_out(
    start: Start, state: Callable[..., RobotState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreCleanup, "waits", lambda *_: False)  # so that it stays in the log, for a straight run
    cloud = start(practice=0.5)
    cloud.training._contradictions = Contradictions(cloud.clock.monotonic)
    r1, r2, r3 = fleet_of(cloud, ("r1", "r2", "r3"), state)
    for member in (r1, r2):
        teach_all(member, TRUE)
    teach_all(r3, {**FALSE, "elk": "elk"})
    cloud.work(EVERY_SECONDS + 1)
    cloud.work(6.0)
    figures = cloud.figures("r3")
    assert "it calls 4 by the name of another one; it has a half of its own until" in figures.apart
    assert {cloud.figures(name).apart for name in ("r1", "r2")} == {""}
    session = cloud.session("r1")
    assert {robot for robot, _ in samples(session)} == {"r1", "r2"}
    assert set(session.trainer.classes) == set(TRUE), "what it alone taught is gone, too"
    assert cloud.figures("r1").fleet_robots == 2
    r3.teach("cat", "dog", samples=[8, 9])
    assert cloud.session("r3") is not cloud.session("r1")
    cloud.kill()
    cloud.start()
    for member in (r1, r2, r3):
        cloud.say(member.name, member.state)
    cloud.work(6.0)
    assert cloud.session("r3").log == "r3"
    assert "it has a half of its own until it begins another run" in cloud.figures("r3").apart
    r3.come_back("c" * 16, run="d" * 16)
    teach_all(r3, {"ant": "ant"})
    cloud.work(6.0)
    assert samples(cloud.session("r1"))["r3", "ant"] == 6
    assert cloud.figures("r3").apart == ""
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")


def test_a_robot_whose_things_look_otherwise_or_are_new_is_not_set_apart(start: Start) -> None:
    cloud = start()
    cloud.training._contradictions = Contradictions(cloud.clock.monotonic)
    r1, r2, r3 = fleet_of(cloud, ("r1", "r2", "r3"))
    for member in (r1, r2):
        teach_all(member, TRUE)
    teach_all(r3, {"other cat": "cat", "other dog": "dog", "other ant": "ant", "elk": "elk"})
    for _ in range(2):
        cloud.work(EVERY_SECONDS + 1)
    assert {cloud.figures(name).apart for name in ("r1", "r2", "r3")} == {""}
    assert len(cloud.session().members) == cloud.figures().fleet_robots == 3


# Killed


def scripted(cloud: Cloud, seed: int, state: Callable[..., RobotState]) -> list[tuple[str, Any]]:
    """Return what three robots of a fleet send, in an order and of kinds that make resuming hard."""
    rng = random.Random(seed)
    members = fleet_of(cloud, ("r1", "r2", "r3"), state)
    sent: list[tuple[str, Any]] = [(one.name, one.state) for one in members]
    for number in range(30):
        its = rng.choice(members)
        what = rng.choices(["batch", "again", "test", "edit", "back"], [14, 3, 2, 2, 2])[0]
        if what == "edit":
            its.sent += 1
            its.edits += 1
            change: Change = rng.choice(["rename", "forget", "undo"])
            edit = ClassEdit(
                boot=its.state.boot,
                sequence=its.sent,
                number=its.edits,
                change=change,
                name=rng.choice(CLASSES),
                to="fox" if change == "rename" else "",
                session=1 + number // 9 if change == "undo" else 0,
                everywhere=change == "forget" and number % 2 == 0,
            )
            sent.append((its.name, edit))
        elif what == "back":
            run = {"run": f"{number:016x}"} if rng.random() < 0.3 else {}
            its.edits = 0 if run else its.edits
            its.come_back(f"{number + 999:016x}", **run)
            sent.append((its.name, its.state))
        else:
            names = rng.choices(CLASSES, k=rng.randrange(1, 7))
            settings: dict[str, Any] = {"evaluation": number} if what == "test" else {}
            if what == "again":
                first = 1000 * rng.randrange(1, its.sent + 2) + 1
                settings = {"again": True, "samples": [first + row for row in range(len(names))]}
            sent.append((its.name, its.batch(names, session=number // 9, **settings)))
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("begins", [state_of, as_a_whole], ids=["still", "as a whole"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_ends_where_its_log_leads(
    start: Start, seed: int, begins: Callable[..., RobotState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed:  # so that what was forgotten stays in the log, for a straight run
        monkeypatch.setattr(StoreCleanup, "waits", lambda *_: False)
    cloud, rng = start(practice=0.5, checkpoint_every=3), random.Random(seed)
    messages = scripted(cloud, seed, begins)
    batches = {(name, one.boot, one.sequence) for name, one in messages if isinstance(one, ActivationBatch)}
    states: dict[str, RobotState] = {}
    for name, message in messages:
        if isinstance(message, RobotState):
            states[name] = message
        cloud.say(name, message)
        if rng.random() < 0.2:
            cloud.work(SILENCE_SECONDS + 0.1)
        if rng.random() < 0.2:
            cloud.kill()
            cloud.start()
            for robot, state in states.items():  # their heartbeats
                cloud.say(robot, state)
    assert sum(cloud.session().members[name].messages_trained for name in ("r1", "r2", "r3")) == sum(
        not one.evaluation for _, one in messages if isinstance(one, ActivationBatch)
    ), "sent = trained"
    cloud.finish()
    store = SqliteStore(cloud.path / STORE)
    assert len([*store.batches_after(LOG, 0)]) == len(batches)
    whole = store.is_whole(LOG)
    store.close()
    if not whole:  # something was forgotten, and is overwritten
        return
    assert replay(cloud.path / STORE, tmp_path / "again", "cpu"), "the same bits as a straight run"
