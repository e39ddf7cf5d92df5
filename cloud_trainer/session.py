"""One robot's training in the cloud: events of its log in, steps of its own cloud segment out. No I/O of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from broker.codec import pack, unpack_as
from broker.errors import MalformedMessage
from broker.messages import ActivationBatch, RobotState, TrainerMetrics
from broker.quantize import Quantized, dequantize, unpack_activations
from cloud_trainer.store import Event
from cloud_trainer.trainer import CloudTrainer
from hierarchy.checkpoint import Parts
from hierarchy.evaluation import HeldOut, Prequential
from hierarchy.rehearsal import BalancedMemory

# Samples predicted at a time in an evaluation; a message may hold thousands of small ones.
PREDICT_AT_ONCE = 256

log = logging.getLogger("cloud-trainer")

# Where a sample is: the event that is its batch, and its place in there.
Place = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A sample that waits until there are enough for a step."""

    name: str
    place: Place
    activation: Quantized


class RobotSession:
    """Trains on a robot's log, event by event, in steps of its own size, and keeps the figures.

    batch: samples in a step, fresh and rehearsed together. How many a message holds follows the link; how many a
    step takes follows the optimizer. memory: samples to rehearse from; they stay in the store. read: returns the batch
    that is the event with an id, as bytes.

    Everything in here follows from the log and the seed. What depends on the time or on chance enters as an event.
    """

    def __init__(
        self,
        robot: str,
        state: RobotState,
        trainer: CloudTrainer,
        *,
        batch: int,
        memory: int,
        seed: int,
        read: Callable[[int], bytes],
    ) -> None:
        self.robot = robot
        self.state = state
        self.trainer = trainer
        self.cursor = 0
        self.messages_trained = 0
        self.prequential = Prequential()
        self.held_out = HeldOut()
        self.loss: float | None = None
        self.trouble = ""
        self._read = read
        self._batch = batch
        self._memory: BalancedMemory[Place] = BalancedMemory(memory, seed)
        self._waiting: list[Waiting] = []
        self._progress: float | None = None
        self._evaluation = 0

    @property
    def waiting(self) -> int:
        """How many samples wait until there are enough for a step."""
        return len(self._waiting)

    @property
    def oldest_needed(self) -> int:
        """The id of the first event that training on the rest of the log still needs, apart from rehearsal."""
        return min([self.cursor + 1, *(one.place[0] for one in self._waiting)])

    def apply(self, event: Event) -> None:
        """Do what an event of the robot's log asks for. ``trouble`` says what was wrong with it, if anything.

        Raises MalformedMessage for a batch that no intake would have let into the log.
        """
        self.trouble = ""
        match event.kind:
            case "batch":
                batch = unpack_as(ActivationBatch, event.payload)
                if batch.evaluation:
                    self._evaluate(batch)
                else:
                    self._take(batch, event.id)
            case "flush":
                self._flush()
            case "rejoin":
                self._flush()
                self.state = unpack_as(RobotState, event.payload)
                self._evaluation = 0
            case "forget":
                up_to = int(event.payload)
                self._memory.forget(lambda place: place[0] <= up_to)
        self.cursor = event.id

    def figures(self, *, messages_waiting: int, rejected: int, quarantine: str) -> TrainerMetrics:
        """Return how the session is doing. The parameters are what only its caller knows."""
        return TrainerMetrics(
            robot=self.robot,
            boot=self.state.boot,
            images=self.prequential.count,
            classes=len(self.trainer.classes),
            cloud_loss=self.loss,
            cloud_prequential=self.prequential.overall,
            cloud_recent=self.prequential.recent,
            cloud_accuracy=self.held_out.accuracy,
            evaluation=self._evaluation,
            evaluated=self.held_out.count,
            messages_trained=self.messages_trained,
            messages_waiting=messages_waiting,
            messages_rejected=rejected,
            quarantine=quarantine,
        )

    def checkpoint(self) -> tuple[Parts, dict[str, Any]]:
        """Return all that training needs to go on behind the cursor: tensors by part and name, and JSON."""
        parts, about = self.trainer.learner.state()
        memory = self._memory.all()
        classes = list(dict.fromkeys(name for name, _ in memory))
        places = [(*place, classes.index(name)) for name, place in memory]
        parts["session"] = {
            "memory": torch.tensor(places, dtype=torch.int64).reshape(-1, 3),
            "waiting": torch.tensor([one.place for one in self._waiting], dtype=torch.int64).reshape(-1, 2),
        }
        return parts, {
            **about,
            "cursor": self.cursor,
            "state": pack(self.state).decode(),
            "memory_classes": classes,
            "memory_random": self._memory.random_state(),
            "prequential": self.prequential.state(),
            "held_out": self.held_out.state(),
            "messages_trained": self.messages_trained,
            "progress": self._progress,
            "evaluation": self._evaluation,
            "loss": self.loss,
        }

    def restore(self, parts: Parts, about: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises RuntimeError where it is another network's, and ConfigError where the store lacks what it refers to.
        """
        self.trainer.learner.restore(parts, about)
        classes = about["memory_classes"]
        memory = [(classes[name], (event, index)) for event, index, name in parts["session"]["memory"].tolist()]
        self._memory.restore(memory, about["memory_random"])
        if memory:
            self._read(min(event for _, (event, _) in memory))  # the oldest go first: where it is there, all are
        self._waiting = [
            Waiting(name=name, place=(event, index), activation=_one(quantized, index))
            for event, index in parts["session"]["waiting"].tolist()
            for name, quantized in [self._sample(event, index)]
        ]
        self.cursor = about["cursor"]
        self.state = unpack_as(RobotState, about["state"].encode())
        self.prequential.restore(about["prequential"])
        self.held_out.restore(about["held_out"])
        self.messages_trained = about["messages_trained"]
        self._progress, self._evaluation, self.loss = about["progress"], about["evaluation"], about["loss"]

    def _take(self, batch: ActivationBatch, event: int) -> None:
        quantized = unpack_activations(batch.activations)
        self._progress = batch.progress
        for index, name in enumerate(batch.names):
            self._waiting.append(Waiting(name=name, place=(event, index), activation=_one(quantized, index)))
        self.messages_trained += 1
        while len(self._waiting) >= self._fresh_per_step:
            self._step()

    def _flush(self) -> None:
        while self._waiting:
            self._step()

    @property
    def _fresh_per_step(self) -> int:
        return max(1, round(self._batch / (1 + self.state.rehearse)))

    def _step(self) -> None:
        fresh = self._waiting[: self._fresh_per_step]
        del self._waiting[: len(fresh)]
        rehearsed = self._memory.draw(round(len(fresh) * self.state.rehearse))
        names = [one.name for one in fresh] + [name for name, _ in rehearsed]
        samples = [one.activation for one in fresh]
        samples += [_one(self._sample(event, index)[1], index) for _, (event, index) in rehearsed]
        activations = np.concatenate([dequantize(sample) for sample in samples])
        try:
            step = self.trainer.step(activations, names, fresh=len(fresh), progress=self._progress)
        except MalformedMessage as error:
            self.trouble = str(error)
            return
        self.loss = step.loss
        self.prequential.add(step.correct)
        if self.state.rehearse:
            for one in fresh:
                self._memory.add(one.name, one.place)

    def _evaluate(self, batch: ActivationBatch) -> None:
        self._flush()
        if batch.evaluation != self._evaluation:
            self._evaluation = batch.evaluation
            self.held_out = HeldOut()
        quantized, names = unpack_activations(batch.activations), batch.names
        for start in range(0, len(names), PREDICT_AT_ONCE):
            part = slice(start, start + PREDICT_AT_ONCE)
            self.held_out.add(names[part], self.trainer.predict(dequantize(quantized[part])))

    def _sample(self, event: int, index: int) -> tuple[str, Quantized]:
        """Return the class name of a stored sample, and the activations of its whole batch."""
        batch = unpack_as(ActivationBatch, self._read(event))
        return batch.names[index], unpack_activations(batch.activations)


def _one(quantized: Quantized, index: int) -> Quantized:
    """Return one sample with memory of its own, so that keeping it does not keep its whole batch."""
    codes = quantized.codes[index : index + 1].copy()
    return Quantized(codes=codes, low=quantized.low, step=quantized.step, bits=quantized.bits)
