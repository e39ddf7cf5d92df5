"""Training on a thread of its own: what comes in is stored and receipted meanwhile, and a failure of it is loud."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from broker.wire.codec import pack
from broker.wire.messages import HEARTBEAT_SECONDS, Receipt, TrainerMetrics, TrainerState
from cloud_trainer.replay import replay
from cloud_trainer.robots.training import HELD_UP_SECONDS
from cloud_trainer.store.opening import STORE
from hierarchy.cloud import CloudStep, CloudTrainer
from tests.cloud_trainer.world import STATE, Cloud, batches, make_batch, of, outcomes

DEADLINE_SECONDS = 60.0


def wait_for(condition: Callable[[], object], turn: Callable[[], object] = lambda: time.sleep(0.01)) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come"
        turn()


class Blocked:
    """A trainer whose training thread is in the middle of a step until it is let go on."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.in_step, self.go_on = threading.Event(), threading.Event()
        step = CloudTrainer.step

        def slow_step(trainer: CloudTrainer, *given: Any, **options: Any) -> CloudStep:
            self.in_step.set()
            assert self.go_on.wait(DEADLINE_SECONDS)
            return step(trainer, *given, **options)

        cloud.say("r1", STATE)
        cloud.say("r2", STATE)
        monkeypatch.setattr(CloudTrainer, "step", slow_step)
        cloud.training.thread.start()
        cloud.publish("r1", "activations", pack(make_batch(["cat", "dog"] * 2, sequence=0)))
        self.said: list[Any] = []
        wait_for(self.in_step.is_set, self.turn)

    def turn(self) -> None:
        """Let the thread have a turn that takes in and says."""
        self.cloud.node.turn(timeout=0.01)
        self.said += self.cloud._answers()

    def receipts(self, robot: str) -> list[Receipt]:
        return of(Receipt, [one for one in self.said if f"/{robot}/" in one.topic])


@pytest.fixture
def blocked(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    its = Blocked(cloud, monkeypatch)
    yield its
    its.go_on.set()
    cloud.training.thread.close(DEADLINE_SECONDS)


def test_receipts_do_not_wait_for_a_step_of_whatever_robot(blocked: Blocked) -> None:
    cloud = blocked.cloud
    for number in range(20):
        cloud.publish("r1", "activations", pack(batches(1, first=number + 1)[0]))
        cloud.publish("r2", "activations", pack(batches(1, first=number)[0]))
    wait_for(lambda: len(blocked.receipts("r1")) == 21 and len(blocked.receipts("r2")) == 20, blocked.turn)
    assert set(outcomes(blocked.receipts("r2"))) == {"accepted"}
    assert cloud.known["r1"].training.steps == cloud.known["r2"].training.steps == 0, "the step is not over"
    assert cloud.store.last_event("r2") > 20
    blocked.go_on.set()
    wait_for(lambda: not cloud.known["r1"].messages_waiting + cloud.known["r2"].messages_waiting)
    cloud.training.thread.close(DEADLINE_SECONDS)
    assert cloud.finish()["images"] == 41 * 4
    assert replay(cloud.path / STORE, None, "cpu"), "training is a function of the log, whatever the threads did"


def test_the_heartbeat_and_metrics_do_not_wait_for_a_step(blocked: Blocked) -> None:
    for _ in range(5):
        blocked.said.clear()
        blocked.cloud.clock.now += HEARTBEAT_SECONDS
        blocked.turn()
        assert len(of(TrainerState, blocked.said)) == 1
        assert {one.robot for one in of(TrainerMetrics, blocked.said)} == {"r1"}, "r2 has sent nothing"


def test_a_step_that_never_ends_is_no_heartbeat_of_a_trainer_that_is_well(blocked: Blocked) -> None:
    assert not blocked.cloud.trouble
    blocked.cloud.clock.now += HELD_UP_SECONDS + 1
    blocked.turn()
    assert blocked.cloud.trouble == f"training has not come on for {HELD_UP_SECONDS + 1:.0f} s"
    blocked.go_on.set()
    wait_for(lambda: not blocked.cloud.training.held_up())
    blocked.cloud.clock.now += 20
    blocked.turn()
    assert not blocked.cloud.trouble


def test_a_training_thread_that_dies_ends_the_trainer(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(cloud.training.fleet, "next_to_train", fail)
    cloud.training.thread.start()
    wait_for(lambda: not cloud.training.thread.is_alive)
    with pytest.raises(ZeroDivisionError, match="planted"):
        cloud.node.turn(timeout=0)


def test_what_a_robot_sends_while_its_network_is_prepared_is_kept_in_order(cloud: Cloud) -> None:
    cloud.publish("r1", "state", pack(STATE))
    for batch in batches(3):
        cloud.publish("r1", "activations", pack(batch))
    cloud.node.turn(timeout=0)
    assert len(cloud.node._incoming._held) == 3
    assert of(Receipt, list(cloud._answers())) == []
    receipts = [one.sequence for one in of(Receipt, cloud.work())]
    assert receipts == [0, 1, 2]
    assert len(cloud.node._incoming._held) == 0


def test_a_network_is_prepared_once_however_much_its_robot_sends_meanwhile(cloud: Cloud) -> None:
    cloud.publish("r1", "state", pack(STATE))
    cloud.node.turn(timeout=0)
    state = cloud.training._wanted.pop("r1")  # the training thread is at it
    for batch in batches(3):
        cloud.publish("r1", "activations", pack(batch))
        cloud.node.turn(timeout=0)
    assert not cloud.training._wanted
    cloud.training.prepared.append(cloud.training.fleet.preparer.prepare("r1", state))
    assert len(of(Receipt, cloud.work())) == 3


def test_who_has_sent_something_comes_before_all_who_only_say_that_they_are_there(cloud: Cloud) -> None:
    for number in range(20):
        cloud.publish(f"invented-{number}", "state", pack(replace(STATE, boot=f"{number:016d}")))
    cloud.publish("r1", "state", pack(STATE))
    wait_for(lambda: len(cloud.training._wanted) == 21, lambda: cloud.node.turn(timeout=0.0))
    cloud.publish("r1", "activations", pack(batches(1)[0]))
    wait_for(lambda: cloud.node._incoming._held, lambda: cloud.node.turn(timeout=0.0))
    cloud.training._prepare()
    assert [prepared.robot for prepared in cloud.training.prepared] == ["r1"]


def test_what_a_refused_robot_sent_meanwhile_is_neither_kept_nor_receipted(cloud: Cloud) -> None:
    impossible = make_batch(["cat"] * 4)
    state = STATE.__class__(
        **{**vars(STATE), "split": STATE.split.__class__(**{**vars(STATE.split), "cut": "nowhere"})}
    )
    cloud.publish("r1", "state", pack(state))
    cloud.publish("r1", "activations", pack(impossible))
    cloud.node.turn(timeout=0)
    assert len(cloud.node._incoming._held) == 1
    assert of(Receipt, cloud.work()) == []
    assert len(cloud.node._incoming._held) == 0
    assert "cannot cut" in cloud.figures().quarantine


def test_a_robot_that_starts_again_while_its_network_is_prepared_gets_the_one_of_its_new_start(cloud: Cloud) -> None:
    new = replace(STATE, boot="d" * 16)
    cloud.publish("r1", "state", pack(STATE))
    cloud.node.turn(timeout=0)
    prepared = cloud.training.fleet.preparer.prepare("r1", STATE)  # the training thread is at it
    cloud.publish("r1", "state", pack(new))
    cloud.publish("r1", "activations", pack(make_batch(["cat"] * 4, boot=new.boot)))
    cloud.node.turn(timeout=0)
    cloud.training.prepared.append(prepared)
    assert outcomes(of(Receipt, cloud.work())) == ["accepted"]
    assert cloud.session().members["r1"].state.boot == new.boot
