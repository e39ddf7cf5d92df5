"""A session's samples become an exit for its fleet: in idle time, when it is better, and never part of the session."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire.bounds import MAX_COUNT
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ClassEdit, ExitOn, ExitPiece, FleetExit, exit_place
from broker.wire.quantize import dequantize, unpack_activations
from broker.wire.topics import exit_topic, piece_topic
from cloud_trainer.exits import making, publisher
from cloud_trainer.exits.making import MadeExit, Making, thinned
from cloud_trainer.exits.publisher import EVERY_SECONDS, READ_SECONDS, REST, ExitPublisher
from cloud_trainer.session.sample_memory import SampleRef
from hierarchy.exit_rows import crossing_features, unpack_rows
from hierarchy.random_state import _state
from tests.cloud_trainer.session.test_still_learning import SPLIT, Robot
from tests.cloud_trainer.world import make_batch

FRONT = "f" * 16


class World:
    """A session of a robot of a fleet, what publishes exits of it, and a broker. The clock stands still."""

    def __init__(self, on: ExitOn = "end") -> None:
        self.robot = Robot()
        member = self.robot.session.members["r1"]
        member.state = replace(member.state, fleet="dogs", front=FRONT, exit=on)
        self.on: ExitOn = on
        self.broker, self.now, self.idle, self.reported = MemoryBroker(), 1000.0, True, 0
        self.published: list[FleetExit] = []
        self.start()

    def start(self, boot: str = "e" * 16) -> None:
        """Start the trainer, again where there was one."""
        self.link = MemoryLink(self.broker)
        self.exits = ExitPublisher(self.link, boot, clock=lambda: self.now, wall=lambda: 7.0)

    def work(self, seconds: float = EVERY_SECONDS + READ_SECONDS) -> FleetExit | None:
        """Let so much time pass, and return the exit that lies at the broker then."""
        for _ in range(40):
            self.now += seconds / 40
            self.exits.turn([(self.robot.session, self.idle)], lambda _robot: self.reported)
            self.exits.listen()
        payload = self.broker.retained.get(exit_topic("dogs", self.place))
        return unpack_as(FleetExit, payload) if payload else None

    @property
    def place(self) -> str:
        return exit_place(FRONT, SPLIT.fingerprint, self.on)

    def pieces(self, manifest: FleetExit) -> bytes:
        numbers = range(manifest.first, manifest.first + len(manifest.pieces))
        payloads = [self.broker.retained[piece_topic("dogs", self.place, number)] for number in numbers]
        return b"".join(unpack_as(ExitPiece, one).data for one in payloads)

    def right(self, manifest: FleetExit, names: list[str]) -> float:
        """Return which share of new samples a robot would name right with what was published."""
        rows = unpack_rows(self.pieces(manifest), classes=manifest.classes, features=manifest.features)
        crossed = dequantize(unpack_activations(make_batch(names, SPLIT, sequence=77).activations))
        features = crossing_features(crossed)
        if self.on == "end":
            features = self.robot.session.trainer.features(crossed)
        return float(np.mean([one == name for one, name in zip(rows.named(features), names, strict=True)]))


@pytest.mark.parametrize("on", ["end", "cut"])
def test_what_robots_taught_is_published_and_names_what_they_show(on: ExitOn) -> None:
    world = World(on)
    assert world.work() is None, "nothing was taught"
    world.robot.lesson(1, "cat", 12)
    assert world.work() is None, "one class tells nothing"
    world.robot.lesson(2, "dog", 12)
    world.robot.test(("cat", "dog"))
    manifest = world.work()
    assert manifest is not None
    assert (manifest.version, manifest.boot, manifest.made, manifest.on) == (1, "e" * 16, 7.0, on)
    assert (manifest.front, manifest.split, manifest.held_out) == (FRONT, SPLIT.fingerprint, 16)
    assert set(manifest.classes) == {"cat", "dog"}
    assert manifest.accuracy is not None
    assert manifest.accuracy >= 0.8
    assert world.right(manifest, ["cat", "dog"] * 10) >= 0.8


def test_another_version_comes_for_other_classes_and_for_more_that_is_named_right() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    first = world.work()
    assert first is not None
    assert first.accuracy is None, "nothing is held out"
    world.robot.lesson(3, "cat")
    assert world.work() == first, "nothing says that it is better"
    world.robot.lesson(4, "ant")
    second = world.work()
    assert second is not None
    assert (second.version, set(second.classes)) == (2, {"cat", "dog", "ant"})
    assert {first.first, second.first} == {0, 64}, "the version before stays whole"
    world.robot.apply("edit", pack(ClassEdit(
        boot="b" * 16, sequence=50, number=1, change="forget", name="ant", to="", session=0
    )))  # fmt: skip
    third = world.work()
    assert third is not None
    assert (third.version, set(third.classes)) == (3, {"cat", "dog"})


@pytest.mark.parametrize(
    ("accuracy", "former", "than", "better"),
    [(0.9, 0.8, 0.95, True), (0.9, 0.9, 0.5, False), (0.9, None, 0.8, True), (0.9, None, 0.9, False)],
)
def test_versions_are_compared_on_the_same_samples_where_both_are_here(
    accuracy: float, former: float | None, than: float, better: bool
) -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    manifest = world.work()
    assert manifest is not None
    work = Making(world.robot.session, "end")
    assert list(work.work()) == []
    assert work.found is not None
    made: MadeExit = replace(work.found, accuracy=accuracy, former=former)
    assert publisher._is_better(made, replace(manifest, accuracy=than)) == better
    assert publisher._is_better(made, replace(manifest, classes=("cat", "fox")))


def test_only_a_trainer_with_nothing_to_learn_makes_exits_and_not_all_the_time() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    world.idle = False
    assert world.work() is None
    world.idle = True
    first = world.work(READ_SECONDS)
    assert first is not None
    world.robot.lesson(3, "ant")
    assert world.work(EVERY_SECONDS / 2) == first
    assert world.work() != first


def test_a_fifth_of_the_time_at_most_goes_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("cut")
    world.robot.lesson(1, "cat", 40)
    world.robot.lesson(2, "dog", 40)
    monkeypatch.setattr(making, "READ_AT_ONCE", 1)
    spent = 0.0
    fitted = crossing_features

    def slow(values: NDArray[np.float32]) -> NDArray[np.float16]:
        nonlocal spent
        spent += 0.03
        world.now += 0.03
        return fitted(values)

    monkeypatch.setattr("cloud_trainer.exits.making.crossing_features", slow)
    world.work(0.0)
    world.now += READ_SECONDS
    began = world.now
    while world.work(0.04) is None:
        pass
    assert spent == pytest.approx(0.03 * 80)
    assert world.now - began >= spent * REST, "each slice is followed by four times as long for all else"


def test_what_is_learned_does_not_depend_on_exits() -> None:
    alone, published = Robot(), World("cut")
    for robot, work in ((alone, None), (published.robot, published.work)):
        for number, name in enumerate(("cat", "dog", "ant"), 1):
            robot.lesson(number, name)
            random = _state(cuda=False)["cpu"].clone()
            if work:
                work()
            assert (_state(cuda=False)["cpu"] == random).all()
        robot.test(("cat", "dog"))
    one, other = alone.end(), published.robot.end()
    assert {name: tensor.tolist() for name, tensor in one.learner.weights.items()} == {
        name: tensor.tolist() for name, tensor in other.learner.weights.items()
    }
    assert (one.memory.refs == other.memory.refs).all()


def test_another_process_goes_on_from_the_version_that_is_there() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    first = world.work()
    world.start()
    assert world.work() == first, "it makes the same"
    world.robot.lesson(3, "ant")
    second = world.work()
    assert second is not None
    assert second.version == 2


def test_a_broker_that_lost_it_is_sent_it_again() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    first = world.work()
    world.broker.retained.clear()
    world.link.reconnect()
    assert world.work() == first
    assert first is not None
    assert world.pieces(first)


def test_two_trainers_of_one_fleet_that_publish_one_version_at_once_leave_a_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, other = World(), World()
    other.broker = world.broker
    other.start("d" * 16)
    for one, shown in ((world, 12), (other, 20)):  # each learned something else under the same names
        one.robot.lesson(1, "cat", shown)
        one.robot.lesson(2, "dog", shown)
    publish, others = world.link.publish, list[FleetExit | None]()

    def interrupted(topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if topic == exit_topic("dogs", world.place) and not others:  # its pieces are there, what says so is not
            others.append(None)
            others[0] = other.work()
        return publish(topic, payload, qos=qos, retain=retain)

    monkeypatch.setattr(world.link, "publish", interrupted)
    manifest = world.work()
    (its,) = others
    assert manifest
    assert its
    assert (its.version, manifest.version, its.boot == manifest.boot) == (1, 1, False)
    assert its.digest != manifest.digest
    assert hashlib.sha256(world.pieces(manifest)).digest() == manifest.digest
    assert other.work() == world.work() == manifest, "that is all that they have to say"


def test_a_robot_that_has_a_later_version_gets_one_that_is_later_still() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    world.reported = 7  # of a trainer whose broker is gone
    manifest = world.work()
    assert manifest is not None
    assert manifest.version == 8


def test_a_version_that_would_leave_no_later_one_is_not_believed() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    world.reported = MAX_COUNT
    manifest = world.work()
    assert manifest is not None
    assert manifest.version == 1


def test_nothing_is_kept_while_the_link_is_down() -> None:
    world = World()
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    world.work(0.0)
    world.link.connected = False
    assert world.work() is None
    world.link.connected = True
    world.robot.lesson(3, "dog")
    manifest = world.work()
    assert manifest is not None
    assert manifest.version == 1


def test_a_robot_of_no_fleet_gets_none() -> None:
    world = World()
    member = world.robot.session.members["r1"]
    member.state = replace(member.state, fleet="")
    world.robot.lesson(1, "cat")
    world.robot.lesson(2, "dog")
    assert world.work() is None


def test_samples_to_fit_are_in_equal_shares_and_in_the_order_of_the_log() -> None:
    known = [("cat", SampleRef(event, 0, 0, 0, 0)) for event in range(90, 0, -1)]
    known += [("dog", SampleRef(event, 1, 0, 0, 0)) for event in range(5)]
    kept = thinned(known, 20)
    assert sum(name == "dog" for name, _ in kept) == 5
    assert sum(name == "cat" for name, _ in kept) == 10
    assert [ref.event for _, ref in kept] == sorted(ref.event for _, ref in kept)
    assert thinned([], 20) == []
