"""What the cloud's tests share: robots' messages, a network that is built at once, and a trainer at a broker in memory.

A trainer in here reads the time from a clock that stands still until a test moves it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import broker.link.inbox
import broker.link.memory
import cloud_trainer.messages.incoming
import cloud_trainer.messages.outgoing
import cloud_trainer.node
import cloud_trainer.robots.robot
import cloud_trainer.robots.training
import cloud_trainer.session.session_start
import hierarchy.runtime.curves
import hierarchy.runtime.downloads
from broker.errors import ConfigError
from broker.link.inbox import Delivery, everything
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import (
    ActivationBatch,
    ClassEdit,
    Message,
    Receipt,
    RobotMetrics,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.checkpoints import checkpoint_place
from cloud_trainer.config import TrainerConfig
from cloud_trainer.node import TrainerNode
from cloud_trainer.robots.fleet import Fleet
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.training import Training
from cloud_trainer.session.session import Session
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import STORE, Place, open_again, open_store
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.device import Compute
from hierarchy.exits import LENGTH
from hierarchy.head import GrowingHead
from hierarchy.runtime.run_folder import RunFolder
from tests.messages import robot_state

AnyMessage = TypeVar("AnyMessage")

CPU = torch.device("cpu")
# Both the tiny network and the real one can be cut like this.
SPLIT = SplitSpec(backbone="shufflenet_v2_x0_5", cut="stage3", image_size=16, bits=4, bottleneck=6, shape=(6, 2, 2))
STATE = robot_state(SPLIT)
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="")
CHANNELS: dict[type, topics.Channel] = {
    RobotState: "state",
    ActivationBatch: "activations",
    ClassEdit: "activations",
    RobotMetrics: "metrics",
}
CLASSES = ("cat", "dog", "ant")


def make_batch(
    names: Sequence[str],
    split: SplitSpec = SPLIT,
    values: NDArray[np.float32] | None = None,
    *,
    boot: str = STATE.boot,
    sequence: int = 0,
    evaluation: int = 0,
    progress: float | None = None,
    edits: int = 0,
    session: int = 0,
    samples: Sequence[int] = (),
    again: bool = False,
    edge_version: int = 0,
) -> ActivationBatch:
    """Return a batch of one sample for each class name; a class is a higher channel, under noise."""
    classes = tuple(dict.fromkeys(names))
    if values is None:
        values = np.random.default_rng(sequence).standard_normal((len(names), *split.shape)).astype(np.float32)
        for value, name in zip(values, names, strict=True):
            value[sum(name.encode()) % split.shape[0]] += 3
    return ActivationBatch(
        boot=boot,
        sequence=sequence,
        split=split.fingerprint,
        evaluation=evaluation,
        progress=progress,
        edge_version=edge_version,
        edits=edits,
        session=session,
        classes=classes,
        labels=np.array([classes.index(name) for name in names], np.uint16),
        samples=np.array(samples or range(1000 * sequence + 1, 1000 * sequence + 1 + len(names)), np.uint32),
        again=again,
        activations=pack_activations(quantize(values, split.bits)),
    )


def batches(count: int, *, first: int = 0, size: int = 4, **settings: Any) -> list[ActivationBatch]:
    """Return so many messages of ``size`` samples, from a sequence on."""
    names = [CLASSES[index % 2] for index in range(size)]
    return [make_batch(names, sequence=number, **settings) for number in range(first, first + count)]


class TinySegment(nn.Module):
    """A cloud segment with all that makes resuming hard: statistics, random numbers, a head that grows."""

    def __init__(self, split: SplitSpec, *, weights: object) -> None:
        super().__init__()
        if split.shape[1:] != (2, 2) or (split.bottleneck and split.bottleneck != split.shape[0]):
            raise ConfigError(f"the split says that {split.shape} crosses")
        self.rest = nn.Sequential(
            nn.Conv2d(split.shape[0], 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
        )
        self.head = GrowingHead(20)
        self.stands_still = False

    def features(self, activations: Tensor) -> Tensor:
        features: Tensor = self.rest(activations)
        return F.normalize(features.float(), dim=1) * LENGTH if self.stands_still else features

    def forward(self, activations: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(activations))
        return logits


def use_tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every robot's network be tiny, unmeasured, and its curves undrawn."""
    monkeypatch.setattr(cloud_trainer.session.session_start, "CloudSegment", TinySegment)
    monkeypatch.setattr(cloud_trainer.session.session_start, "fastest_compute", lambda *_arguments: Compute(device=CPU))
    monkeypatch.setattr(hierarchy.runtime.downloads.Downloads, "waits_for", lambda *_arguments: "")
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)


def forget(store: Store, robot: str, up_to: int) -> None:
    """Delete a robot's batches up to an event."""
    while store.forget_some(robot, robot, up_to):
        pass


def finish_idle(fleet: Fleet, robot: str) -> None:
    """Do what the training thread does for a silent robot."""
    fleet.training_of(robot).finish_idle(lambda: not fleet.next_to_train())


def note_grown(fleet: Fleet) -> None:
    """Do what whoever takes messages in does once they are committed."""
    for log, training in fleet.trainings.items():
        training.note_grown(fleet.store.last_event(log))


class Clock:
    """A clock that a test moves on. Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Cloud:
    """A trainer at a broker in memory, and the robots' end of that broker."""

    def __init__(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        wanted: Callable[[str], bool] = everything,
        place: Place | None = None,
        checkpoints: str = "",
        **settings: Any,
    ) -> None:
        self.path = path
        self.place = place or path / STORE
        self._checkpoints = checkpoints
        self._wanted = wanted
        clock = vars(cloud_trainer.node)["time"]
        self.clock = clock if isinstance(clock, Clock) else Clock()  # one for all trainers of a test
        for module in (
            broker.link.inbox,
            broker.link.memory,
            cloud_trainer.messages.incoming,
            cloud_trainer.node,
            cloud_trainer.messages.outgoing,
            cloud_trainer.robots.robot,
            cloud_trainer.robots.training,
        ):  # they compare what they read
            monkeypatch.setattr(module, "time", self.clock)
        # A test's messages come all at once, by a clock that stands still.
        monkeypatch.setattr(broker.link.inbox, "MESSAGES_PER_SECOND", 1e9)
        self.config = TrainerConfig(**{"trainer": "t1", "batch": 4, "rehearse_from": 100, "device": "cpu", **settings})
        self._open = False
        self.start()

    def start(self) -> None:
        """Start the trainer, again after `kill` or `finish`."""
        broker = MemoryBroker()
        self.robots = MemoryLink(broker)
        for filter_ in (
            topics.topic("robot", topics.ANYONE, "receipt"),
            topics.topic("trainer", "t1", "state"),
            topics.cloud_metrics_topic(topics.ANYONE, "t1"),
        ):
            self.robots.subscribe(filter_)
        self.link = MemoryLink(broker, self._wanted)
        (self.path / "metrics.jsonl").unlink(missing_ok=True)
        self.folder = RunFolder(self.path, {})
        self.store = open_store(self.place, self.config.training(1))
        self.training_store = open_again(self.place, beside=self.store, waits=True)
        fleet = Fleet(
            self.config, self.training_store, self.path, CPU, checkpoint_place(self._checkpoints or self.path)
        )
        self.training = Training(self.config, self.link, self.folder, fleet, "e" * 16)
        self.node = TrainerNode(self.config, TRAINER, self.link, self.folder, self.store, self.training)
        self._sent = 0
        self._open = True

    def publish(self, robot: str, channel: topics.Channel, payload: bytes) -> None:
        """Let a robot send bytes."""
        self.robots.publish(topics.topic("robot", robot, channel), payload)

    def say(self, robot: str, *messages: RobotState | ActivationBatch | ClassEdit | RobotMetrics) -> list[Receipt]:
        """Let a robot send messages, and return the receipts that it got, after all is trained on."""
        for message in messages:
            self.publish(robot, CHANNELS[type(message)], pack(message))
        its = topics.topic("robot", robot, "receipt")
        return of(Receipt, [one for one in self.work() if one.topic == its])

    def work(self, seconds: float = 0.0) -> list[Delivery]:
        """Move the clock on, let the node take in and train on all there is, and return what it says."""
        self.clock.now += seconds
        answers: list[Delivery] = []
        while True:
            self.turn()
            answers += self._answers()
            if not self.waits:
                # Once more: what is trained on is said in the turn after.
                self.turn()
                return answers + list(self._answers())

    def turn(self) -> None:
        """Let both of the trainer's threads have a turn, on this one."""
        self.node.turn(timeout=0)
        self.training.turn()

    @property
    def waits(self) -> bool:
        """Whether there is anything to take in, or to train on."""
        return bool(len(self.link._inbox.common)) or bool(self.node._incoming._ready) or self.training.waits

    @property
    def trouble(self) -> str:
        """What the trainer last said that is in its way."""
        return self.node._outgoing.problem

    @property
    def known(self) -> dict[str, Robot]:
        """The robots that the trainer knows."""
        return self.training.fleet.robots

    def robot(self, name: str = "r1") -> Robot:
        return self.known[name]

    def session(self, robot: str = "r1") -> Session:
        session = self.training.fleet.training_of(robot).session
        assert session is not None
        return session

    def figures(self, robot: str = "r1", seconds: float = 1.0) -> TrainerMetrics:
        """Return what the trainer says of a robot, a moment later."""
        self.link.connections += 1  # makes it say all again
        found = [one for one in of(TrainerMetrics, self.work(seconds) + self.work(seconds)) if one.robot == robot]
        return found[-1]

    def finish(self) -> dict[str, Any]:
        """End the run, as Ctrl-C does, and return its summary."""
        self.training.settle()
        self.node.finish()
        self.store.close()
        self.training_store.close()
        self._open = False
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary

    def kill(self) -> None:
        """End it without a word, as a power cut would."""
        if self._open:
            self.folder.close()
            self.store.close()
            self.training_store.close()
            self._open = False

    def _answers(self) -> Iterator[Delivery]:
        while (delivery := self.robots.receive(0)) is not None:
            yield delivery


def of(kind: type[AnyMessage], deliveries: list[Delivery]) -> list[AnyMessage]:
    """Return the messages of a kind."""
    messages: list[Message] = [unpack(delivery.payload) for delivery in deliveries]
    return [message for message in messages if isinstance(message, kind)]


def outcomes(receipts: list[Receipt]) -> list[str]:
    return [receipt.outcome for receipt in receipts]


def is_finite(session: Session) -> bool:
    """Whether all weights, statistics and momentum are."""
    learner = session.checkpoint().learner
    tensors = [*learner.weights.values(), *learner.momentum.values()]
    return all(bool(torch.isfinite(one.float()).all()) for one in tensors)


def database(store: Store) -> sqlite3.Connection:
    """Return what a store in a file is made of."""
    assert isinstance(store, SqliteStore)
    return store._database


def scalar(store: Store, query: str) -> Any:
    """Return what a store in a file says to a question of one answer."""
    return database(store).execute(query).fetchone()[0]


def limit_pages(store: Store, more: int) -> None:
    """Let the store's file grow by so many pages at most, as a full disk would; a negative number lifts the limit."""
    pages = scalar(store, "PRAGMA page_count")
    scalar(store, f"PRAGMA max_page_count = {pages + more if more >= 0 else 2**30}")
