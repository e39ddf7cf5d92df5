"""One robot's training in the cloud: from its messages to steps of its own cloud segment. No I/O."""

from __future__ import annotations

import numpy as np

from broker.errors import MalformedMessage
from broker.messages import ActivationBatch, Receipt, RobotState, TrainerMetrics
from broker.quantize import Quantized, dequantize, unpack_activations
from cloud_trainer.intake import Intake
from cloud_trainer.trainer import CloudTrainer
from hierarchy.evaluation import HeldOut, Prequential
from hierarchy.rehearsal import BalancedMemory

# Samples predicted at a time in an evaluation; a message may hold thousands of small ones.
PREDICT_AT_ONCE = 256


class RobotSession:
    """Takes a robot's batches, trains on them in steps of its own size, and keeps the figures.

    batch: samples in a step, fresh and rehearsed together. How many a message holds follows the link; how many a
    step takes follows the optimizer.
    """

    def __init__(
        self, robot: str, state: RobotState, trainer: CloudTrainer, *, batch: int, memory: int, seed: int
    ) -> None:
        self.robot = robot
        self.state = state
        self.trainer = trainer
        self.messages_trained = 0
        self.messages_rejected = 0
        self.prequential = Prequential()
        self.held_out = HeldOut()
        self._intake = Intake(state.boot, state.split)
        self._batch = batch
        self._memory: BalancedMemory[Quantized] = BalancedMemory(memory, seed)
        self._waiting: list[tuple[str, Quantized]] = []
        self._progress: float | None = None
        self._evaluation = 0
        self._loss: float | None = None

    @property
    def waiting(self) -> int:
        """How many samples wait until there are enough for a step."""
        return len(self._waiting)

    def rejoin(self, state: RobotState) -> None:
        """Go on with a robot that has started again from its checkpoint."""
        self.flush()
        self.state = state
        self._intake = Intake(state.boot, state.split)
        self._evaluation = 0

    def accept(self, batch: ActivationBatch) -> Receipt | None:
        """Take in a batch and train what makes a step. None for a boot that has not said what it is yet."""
        if batch.boot != self.state.boot:
            return None
        outcome, reason = self._intake.judge(batch)
        if outcome == "accepted":
            try:
                self._take(batch)
            except MalformedMessage as error:
                outcome, reason = "rejected", str(error)
        if outcome == "rejected":
            self.messages_rejected += 1
        return Receipt(boot=batch.boot, sequence=batch.sequence, outcome=outcome, reason=reason[:400])

    def flush(self) -> None:
        """Train on what waits, as nothing more is coming for now."""
        while self._waiting:
            self._step()

    def figures(self) -> TrainerMetrics:
        """Return how the session is doing."""
        return TrainerMetrics(
            robot=self.robot,
            boot=self.state.boot,
            images=self.prequential.count,
            classes=len(self.trainer.classes),
            cloud_loss=self._loss,
            cloud_prequential=self.prequential.overall,
            cloud_recent=self.prequential.recent,
            cloud_accuracy=self.held_out.accuracy,
            evaluation=self._evaluation,
            evaluated=self.held_out.count,
            messages_trained=self.messages_trained,
            messages_waiting=0,
            messages_rejected=self.messages_rejected,
            quarantine="",
        )

    def _take(self, batch: ActivationBatch) -> None:
        quantized = unpack_activations(batch.activations)
        if batch.evaluation:
            self._evaluate(batch, quantized)
            return
        self._progress = batch.progress
        for index, name in enumerate(batch.names):
            self._waiting.append((name, _one(quantized, index)))
        while len(self._waiting) >= self._fresh_per_step:
            self._step()
        self.messages_trained += 1

    @property
    def _fresh_per_step(self) -> int:
        return max(1, round(self._batch / (1 + self.state.rehearse)))

    def _step(self) -> None:
        fresh = self._waiting[: self._fresh_per_step]
        del self._waiting[: len(fresh)]
        rehearsed = self._memory.draw(round(len(fresh) * self.state.rehearse))
        names = [name for name, _ in fresh + rehearsed]
        activations = np.concatenate([dequantize(sample) for _, sample in fresh + rehearsed])
        step = self.trainer.step(activations, names, fresh=len(fresh), progress=self._progress)
        self._loss = step.loss
        self.prequential.add(step.correct)
        if self.state.rehearse:
            for name, sample in fresh:
                self._memory.add(name, sample)

    def _evaluate(self, batch: ActivationBatch, quantized: Quantized) -> None:
        self.flush()
        if batch.evaluation != self._evaluation:
            self._evaluation = batch.evaluation
            self.held_out = HeldOut()
        names = batch.names
        for start in range(0, len(names), PREDICT_AT_ONCE):
            part = slice(start, start + PREDICT_AT_ONCE)
            self.held_out.add(names[part], self.trainer.predict(dequantize(quantized[part])))


def _one(quantized: Quantized, index: int) -> Quantized:
    """Return one sample with memory of its own, so that keeping it does not keep its whole batch."""
    codes = quantized.codes[index : index + 1].copy()
    return Quantized(codes=codes, low=quantized.low, step=quantized.step, bits=quantized.bits)
