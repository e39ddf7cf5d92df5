"""One robot's training in the cloud: events of its log in, steps of its own cloud segment out. No I/O of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from broker.errors import MalformedMessage
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, ClassEdit, RobotState, TrainerMetrics
from broker.wire.quantize import Quantized, dequantize, unpack_activations
from cloud_trainer.class_edits import ClassEdits
from cloud_trainer.sample_memory import Place, SampleMemory
from cloud_trainer.store import Event
from cloud_trainer.trainer import CloudStep, CloudTrainer
from hierarchy.continual import AccuracyRounds
from hierarchy.evaluation import HeldOut, Prequential
from hierarchy.runtime.checkpoint import Parts
from hierarchy.schedule import settling

# Samples of a round of tests, and those of one message more, that are predicted once more behind idle rehearsal.
MOST_TESTED_AGAIN = 4000
# Samples that idle rehearsal may be owed for at most: it lets the network settle, and is no second training. With
# --practice 0.5 that is 100 steps. With 300 more of a robot's samples were known by heart, and fewer others recognised:
# from some frames the robot's half has learned more than it knows of others, and the cloud learns to rely on that.
MOST_UNREHEARSED = 200
# Samples predicted at a time in an evaluation, and no more than a step has; a message may hold thousands of small ones.
PREDICT_AT_ONCE = 256

# Work that can be interrupted wherever it yields: behind each step, test and edit. An event is done when it ends.
Work = Iterator[None]

log = logging.getLogger("cloud-trainer")


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
        self.held_out = HeldOut()  # the newest test
        self._rounds = AccuracyRounds()  # of tests before this one
        self._first: HeldOut | None = None  # this one as it was before idle rehearsal, where it was tested again
        self._settled: HeldOut | None = None  # and behind it, where more was learned since
        self._has_moved_on = False  # whether more was learned since this one
        self.loss: float | None = None
        self.trouble = ""
        self.is_torn = False  # an event was broken off: what is in here belongs to no place of the log
        self._read = read
        self._batch = batch
        self._memory = SampleMemory(memory, seed)
        self._edits = ClassEdits(state.edits)
        self._wipe_up_to = 0
        self._wipe: list[int] = []
        self._waiting: list[Waiting] = []
        self._began_at: int | None = None  # the first version that came of the robot's present process
        self._anew: list[Waiting] = []  # rehearsed by the robot, to be rehearsed here with the next steps
        self._progress: float | None = None
        self._evaluation = 0
        self._evaluated = 0  # samples of that round, each counted once however often it was predicted
        self._tests: list[int] = []  # events of that round
        self._unrehearsed = 0.0  # samples that idle rehearsal is owed for
        self._idle_steps = 0  # taken since the last fresh sample

    @property
    def waiting(self) -> int:
        """How many samples wait for a step, or until there are enough for one."""
        return len(self._waiting) + len(self._anew)

    def idle_steps_due(self, per_sample: float) -> int:
        """Return the steps of rehearsal alone that are due, where each fresh sample is worth so many."""
        return int(self._unrehearsed * per_sample) if len(self._memory) else 0

    @property
    def rehearses(self) -> bool:
        """Whether idle rehearsal was the last that it learned from."""
        return self._idle_steps > 0

    def knows_edit(self, edit: ClassEdit) -> bool:
        """Whether an edit is in the log already, or not of this run."""
        return self._edits.knows(edit)

    @property
    def oldest_needed(self) -> int:
        """The id of the first event that training on the rest of the log still needs, apart from rehearsal."""
        return min([self.cursor + 1, *(one.place.event for one in self._waiting + self._anew)])

    @property
    def wipes(self) -> tuple[int, list[int]]:
        """Where the log holds samples of forgotten classes: in batches up to an event, and in those of these ids."""
        return self._wipe_up_to, list(self._wipe)

    def wiped(self) -> None:
        """Note that the log holds none of them any more."""
        self._wipe_up_to, self._wipe = 0, []

    def without_forgotten(self, payload: bytes) -> bytes | None:
        """Return a batch of the log without samples that are no more; None where it has none of those."""
        batch = unpack_as(ActivationBatch, payload)
        wiped = self._edits.wipe(batch)
        return pack(wiped) if wiped else None

    def apply(self, event: Event) -> None:
        """Do all that an event of the robot's log asks for, as `work` does in pieces."""
        for _ in self.work(event):
            pass

    def work(self, event: Event) -> Work:
        """Do what an event of the robot's log asks for, a step at a time: one message may be worth hundreds.

        ``trouble`` says what was wrong with it, if anything. Raises MalformedMessage for a batch that no intake would
        have let into the log.
        """
        self.trouble = ""
        self.is_torn = True
        match event.kind:
            case "batch":
                batch = unpack_as(ActivationBatch, event.payload)
                if batch.evaluation:
                    yield from self._evaluate(batch, event.id)
                else:
                    yield from self._take(batch, event.id)
            case "edit":
                for edit in self._edits.take(unpack_as(ClassEdit, event.payload)):
                    self._edit(edit)
                    if edit.change == "forget":
                        self._wipe_up_to = event.id
                    yield
            case "flush":
                yield from self._flush()
            case "rehearse":
                count, due = (int(number) for number in event.payload.split())
                yield from self._rehearse(count, due)
                self._unrehearsed *= (due - count) / due
                if count == due:
                    yield from self._test_again()
            case "settle":
                count, due, test = (int(number) for number in event.payload.split())
                yield from self._rehearse(count, count)
                self._unrehearsed *= (due - count) / due
                if test:
                    yield from self._test_again()
            case "rejoin":
                yield from self._flush()
                state = unpack_as(RobotState, event.payload)
                if state.run != self.state.run:
                    self._begin_run(state)
                if state.boot != self.state.boot:  # else more of its edits are known, and no more than that
                    self._began_at = None
                    self._evaluated = 0  # a killed robot repeats rounds, from the one behind its checkpoint on
                self.state = state
            case "forget":
                up_to = int(event.payload)
                self._memory.forget(lambda _, place: place.event <= up_to)
                self._tests = [test for test in self._tests if test > up_to]
        self.cursor = event.id
        self.is_torn = False

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
            evaluated=self._evaluated,
            messages_trained=self.messages_trained,
            messages_waiting=messages_waiting,
            messages_rejected=rejected,
            quarantine=quarantine,
        )

    def rounds(self) -> AccuracyRounds:
        """Return how each class did in each round of tests, and at last how it does after idle rehearsal."""
        rounds = self._rounds_to_keep()
        if self._first and rounds.rows[-1:] != [self.held_out.by_class]:
            rounds.add(self.held_out.by_class, self._evaluation)
        return rounds

    def _rounds_to_keep(self) -> AccuracyRounds:
        """Return each round as it was tested first, and once more behind the idle rehearsal that followed it.

        Where it is tested again after more was learned, that is not what the round is to tell of.
        """
        rounds = AccuracyRounds()
        rounds.restore(self._rounds.state())
        rounds.add((self._first or self.held_out).by_class, self._evaluation)
        settled = self._settled if self._has_moved_on else self.held_out
        if self._first and settled:
            rounds.add(settled.by_class, self._evaluation)
        return rounds

    def checkpoint(self) -> tuple[Parts, dict[str, Any]]:
        """Return all that training needs to go on behind the cursor: tensors by part and name, and JSON."""
        parts, about = self.trainer.learner.state()
        memory, about_memory = self._memory.state()
        parts["session"] = {
            "memory": memory,
            "waiting": _table([one.place for one in self._waiting]),
            "anew": _table([one.place for one in self._anew]),
        }
        return parts, {
            **about,
            "cursor": self.cursor,
            "state": pack(self.state).decode(),
            "edits": self._edits.state(),
            "memory": about_memory,
            "wipes": [self._wipe_up_to, self._wipe],
            "waiting_classes": [one.name for one in self._waiting],
            "anew_classes": [one.name for one in self._anew],
            "prequential": self.prequential.state(),
            "held_out": self.held_out.state(),
            "first": self._first.state() if self._first else None,
            "settled": self._settled.state() if self._settled else None,
            "has_moved_on": self._has_moved_on,
            "rounds": self._rounds.state(),
            "messages_trained": self.messages_trained,
            "progress": self._progress,
            "evaluation": self._evaluation,
            "evaluated": self._evaluated,
            "tests": self._tests,
            "loss": self.loss,
            "began_at": self._began_at,
            "unrehearsed": self._unrehearsed,
            "idle_steps": self._idle_steps,
        }

    def restore(self, parts: Parts, about: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises RuntimeError where it is another network's, and ConfigError where the store lacks what it refers to.
        """
        self.trainer.learner.restore(parts, about)
        self._memory.restore(parts["session"]["memory"], about["memory"])
        if (oldest := self._memory.oldest_event()) is not None:
            self._read(oldest)  # the oldest go first: where it is there, all are
        self._waiting = self._of_table(parts["session"]["waiting"], about["waiting_classes"])
        self._anew = self._of_table(parts["session"]["anew"], about["anew_classes"])
        self._edits.restore(about["edits"])
        self._wipe_up_to, self._wipe = about["wipes"][0], list(about["wipes"][1])
        self.cursor = about["cursor"]
        self.state = unpack_as(RobotState, about["state"].encode())
        self.prequential.restore(about["prequential"])
        self.held_out.restore(about["held_out"])
        self._first, self._settled = _held_out(about["first"]), _held_out(about["settled"])
        self._has_moved_on = about["has_moved_on"]
        self._rounds.restore(about["rounds"])
        self.messages_trained = about["messages_trained"]
        self._progress, self._evaluation, self.loss = about["progress"], about["evaluation"], about["loss"]
        self._unrehearsed, self._idle_steps = about["unrehearsed"], about["idle_steps"]
        self._evaluated, self._tests = about["evaluated"], list(about["tests"])
        self._began_at = about["began_at"]

    def _take(self, batch: ActivationBatch, event: int) -> Work:
        self._edits.note(batch)
        quantized = unpack_activations(batch.activations)
        self._progress = batch.progress
        version = self._version_of(batch)
        gone: set[int] = set()
        for row, (name, sample) in enumerate(zip(self._edits.names_now(batch), batch.samples.tolist(), strict=True)):
            if not name and not batch.again and sample:
                gone.add(sample)
            if name:
                place = Place(event, row, sample, batch.session, version)
                one = Waiting(name=name, place=place, activation=_one(quantized, row))
                (self._anew if batch.again else self._waiting).append(one)
            elif event not in self._wipe:
                self._wipe.append(event)
        if gone:  # encoded anew they may have come before it was known that these are their numbers
            self._give_up(lambda _, place: place.sample in gone)
        self.messages_trained += 1
        while len(self._waiting) >= self._fresh_per_step:
            self._step()
            yield
        # More than the next steps take, as when a robot encodes all that it has anew.
        self._store_anew(len(self._anew) - self._batch)

    def _version_of(self, batch: ActivationBatch) -> int:
        """Return the segment that encoded a batch, as the robot's present process counts its steps.

        A killed robot goes on from its checkpoint, with fewer steps than its last messages before have told of.
        """
        if batch.boot != self.state.boot:
            return batch.edge_version if self._began_at is None else min(batch.edge_version, self._began_at)
        if self._began_at is None:
            self._began_at = batch.edge_version
            self._memory.go_back(self._began_at)
            for one in self._waiting + self._anew:
                one.place.version = min(one.place.version, self._began_at)
        return batch.edge_version

    def _begin_run(self, state: RobotState) -> None:
        """Go on with the network for another run, whose edits and sessions count from 1 again."""
        self._edits.begin_run(state.edits)
        self._memory.begin_run()  # so lessons of the former one cannot be taken back any more
        self._rounds.begin_run()
        self._evaluation = 0

    def _flush(self) -> Work:
        while self._waiting:
            self._step()
            yield
        self._store_anew(len(self._anew))

    @property
    def _fresh_per_step(self) -> int:
        return max(1, round(self._batch / (1 + self.state.rehearse)))

    def _step(self) -> None:
        fresh = self._waiting[: self._fresh_per_step]
        del self._waiting[: len(fresh)]
        count = round(len(fresh) * self.state.rehearse)
        # First what the robot rehearses itself: it is as its segment encodes now.
        anew = self._anew[:count]
        del self._anew[:count]
        stored = self._memory.draw(count - len(anew))
        names = [one.name for one in fresh + anew] + [name for name, _ in stored]
        samples = [one.activation for one in fresh + anew] + self._samples(stored)
        step = self._learn(samples, names, fresh=len(fresh), progress=self._progress)
        if step is None:
            return
        if not self._has_moved_on:
            self._has_moved_on = True
            self._settled = self.held_out if self._first else None
        self.loss = step.loss
        self.prequential.add(step.correct)
        self._idle_steps = 0
        self._unrehearsed = min(self._unrehearsed + len(fresh), MOST_UNREHEARSED)
        for one in fresh + anew:
            self._remember(one)

    def _remember(self, one: Waiting) -> None:
        self._memory.add(one.name, one.place)

    def _store_anew(self, count: int) -> None:
        """Leave samples that came again, the first so many, to idle rehearsal: no step is waiting for them."""
        for one in self._anew[: max(0, count)]:
            self._remember(one)
            self._unrehearsed = min(self._unrehearsed + 1, MOST_UNREHEARSED)
        del self._anew[: max(0, count)]

    def _rehearse(self, count: int, last: int) -> Work:
        """Take steps on stored samples alone, at a rate that falls to its end with the last one, counted from here."""
        for left in range(last, last - count, -1):
            drawn = self._memory.draw(self._batch)
            samples, names = self._samples(drawn), [name for name, _ in drawn]
            # As on the robot: a constant rate would leave the network wherever the last steps took it.
            if not drawn or self._learn(samples, names, fresh=0, progress=settling(self._idle_steps, left)) is None:
                break
            self._idle_steps += 1
            yield

    def _learn(
        self, samples: list[Quantized], names: list[str], *, fresh: int, progress: float | None
    ) -> CloudStep | None:
        """Take a step; None, and ``trouble`` says why, where these samples would make the weights infinite."""
        activations = np.concatenate([dequantize(sample) for sample in samples])
        try:
            return self.trainer.step(activations, names, fresh=fresh, progress=progress)
        except MalformedMessage as error:
            self.trouble = str(error)
            return None

    def _evaluate(self, batch: ActivationBatch, event: int) -> Work:
        yield from self._flush()
        self._edits.note(batch)
        if batch.boot != self.state.boot:
            return  # nobody waits for the tests of a process that has ended
        if batch.evaluation < self._evaluation and self._evaluated:
            return  # the rest of a round that a later one has overtaken
        if batch.evaluation > self._evaluation or not self._evaluated:
            self._begin_round(batch.evaluation)
        if self._evaluated < MOST_TESTED_AGAIN:
            self._tests.append(event)
        names, predicted = yield from self._test(batch)
        for held_out in self._tested:
            held_out.add(names, predicted)
        self._evaluated += len(names)

    def _begin_round(self, number: int) -> None:
        """Begin a round of tests, which may be one that was there and comes once more."""
        self._rounds = self._rounds_to_keep()
        self._rounds.give_up(number)
        self._evaluation, self._evaluated = number, 0
        self.held_out, self._first, self._settled = HeldOut(), None, None
        self._has_moved_on = False
        self._tests = []

    def _test_again(self) -> Work:
        """Predict samples of the last round once more: rehearsal has made another network of this one.

        Of a large round the first MOST_TESTED_AGAIN, as other robots have to wait meanwhile.
        """
        self._first = self._first or self.held_out
        self.held_out = HeldOut()
        for event in self._tests:
            self.held_out.add(*(yield from self._test(unpack_as(ActivationBatch, self._read(event)))))

    @property
    def _tested(self) -> list[HeldOut]:
        """The present round: the newest test, and the first and the settled one where those are others."""
        others = [one for one in (self._first, self._settled) if one and one is not self.held_out]
        return [self.held_out, *others]

    def _test(self, batch: ActivationBatch) -> Generator[None, None, tuple[list[str], list[str]]]:
        """Return what the samples that are not given up are called, and what they are taken for."""
        quantized, names = unpack_activations(batch.activations), self._edits.names_now(batch)
        predicted: list[str] = []
        at_once = min(PREDICT_AT_ONCE, self._batch)
        for start in range(0, len(names), at_once):
            predicted += self.trainer.predict(dequantize(quantized[start : start + at_once]))
            yield
        known = [(name, guess) for name, guess in zip(names, predicted, strict=True) if name]
        return [name for name, _ in known], [guess for _, guess in known]

    def _edit(self, edit: ClassEdit) -> None:
        """Do to what is here already what `ClassEdits` does to what comes later."""
        if edit.change == "rename":
            self._rounds.rename(edit.name, edit.to, merged=edit.to in self.trainer.classes)
            self.trainer.learner.rename(edit.name, edit.to)
            self._memory.rename(edit.name, edit.to)
            for held_out in self._tested:
                held_out.rename(edit.name, edit.to)
            for waiting in (self._waiting, self._anew):
                waiting[:] = [replace(one, name=edit.to if one.name == edit.name else one.name) for one in waiting]
            return
        if edit.change == "undo":
            self._give_up(lambda name, place: self._edits.is_of_session(place.session, place.sample, edit.session))
        if edit.name:
            self.trainer.learner.remove(edit.name)
            for held_out in self._tested:
                held_out.remove(edit.name)
            self._rounds.remove(edit.name)
            self._give_up(lambda name, place: name == edit.name)

    def _give_up(self, gone: Callable[[str, Place], bool]) -> None:
        """Neither train on nor rehearse samples that are gone."""
        self._memory.forget(gone)
        for waiting in (self._waiting, self._anew):
            waiting[:] = [one for one in waiting if not gone(one.name, one.place)]

    def _samples(self, drawn: list[tuple[str, Place]]) -> list[Quantized]:
        """Return stored samples. Each batch is read once, and none is held beside another: they may be large."""
        rows: dict[int, set[int]] = {}
        for _, place in drawn:
            rows.setdefault(place.event, set()).add(place.row)
        found: dict[tuple[int, int], Quantized] = {}
        for event, wanted in rows.items():
            quantized = unpack_activations(unpack_as(ActivationBatch, self._read(event)).activations)
            found |= {(event, row): _one(quantized, row) for row in wanted}
        return [found[place.event, place.row] for _, place in drawn]

    def _of_table(self, table: Tensor, names: list[str]) -> list[Waiting]:
        """Return what `_table` made a table of."""
        drawn = [(name, Place(*row)) for name, row in zip(names, table.tolist(), strict=True)]
        return [
            Waiting(name=name, place=place, activation=activation)
            for (name, place), activation in zip(drawn, self._samples(drawn), strict=True)
        ]


def _held_out(state: dict[str, Any] | None) -> HeldOut | None:
    if state is None:
        return None
    held_out = HeldOut()
    held_out.restore(state)
    return held_out


def _one(quantized: Quantized, row: int) -> Quantized:
    """Return one sample with memory of its own, so that keeping it does not keep its whole batch."""
    codes = quantized.codes[row : row + 1].copy()
    return Quantized(codes=codes, low=quantized.low, step=quantized.step, bits=quantized.bits)


def _table(places: list[Place]) -> Tensor:
    """Return places as a checkpoint holds them, int64 (N, 5)."""
    return torch.tensor([astuple(place) for place in places], dtype=torch.int64).reshape(-1, 5)
