"""One robot's training in the cloud: events of its log in, steps of its own cloud segment out. No I/O of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import numpy as np

from broker.errors import MalformedMessage
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, ClassEdit, RobotState, TrainerMetrics
from broker.wire.quantize import Quantized, dequantize
from cloud_trainer.session.batches import InflatedBatch, StoredSamples, one_sample
from cloud_trainer.session.class_edits import ClassEdits, Wipes
from cloud_trainer.session.evaluation_rounds import Rounds
from cloud_trainer.session.rehearsal import Rehearsal
from cloud_trainer.session.sample_memory import SampleMemory, SampleRef
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.session.still_learning import StillLearning
from cloud_trainer.session.waiting_samples import Waiting, WaitingSamples, take
from cloud_trainer.store import Event
from hierarchy.cloud import CloudStep, CloudTrainer
from hierarchy.evaluation import Prequential
from hierarchy.schedule import settling

# Samples that idle rehearsal may be owed for at most: it lets the network settle, and is no second training. With
# --practice 0.5 that is 100 steps. With 300 more of a robot's samples were known by heart, and fewer others recognised:
# from some frames the robot's half has learned more than it knows of others, and the cloud learns to rely on that.
MAX_UNREHEARSED = 200
# Samples predicted at a time in an evaluation, and no more than a step has; a message may hold thousands of small ones.
PREDICT_AT_ONCE = 256

# Work that can be interrupted wherever it yields: behind each step, test and edit. An event is done when it ends.
Work = Iterator[None]

log = logging.getLogger("cloud-trainer")


class RobotSession:
    """Trains on a robot's log, event by event, in steps of its own size, and keeps the metrics.

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
        still: bool = False,
    ) -> None:
        """still: whether the network stands still but for its head, which is then fitted to all samples at once."""
        self.robot = robot
        self.state = state
        self.trainer = trainer
        self.cursor = 0
        self.messages_trained = 0
        self.prequential = Prequential()
        self.loss: float | None = None
        self.problem = ""
        self.began_alike: bool | None = None  # with the pretrained weights that the robot told of
        self.is_torn = False  # an event was broken off: what is in here belongs to no place of the log
        self.is_taught = False  # the newest samples are of a lesson: people wait for what comes of it
        self.wipes = Wipes()
        self.rounds = Rounds()
        self.waiting = WaitingSamples()
        self.edits = ClassEdits(state.edits)
        self._memory = SampleMemory(memory, seed)
        self._stored = StoredSamples(read)
        self._still = StillLearning(trainer, self._memory, self._stored) if still else None
        self._batch = batch
        self._began_at: int | None = None  # the first version that came of the robot's present process
        self._progress: float | None = None
        self._unrehearsed = 0.0  # samples that idle rehearsal is owed for
        self._idle_steps = 0  # taken since the last fresh sample

    def idle_steps_due(self, per_sample: float) -> int:
        """Return the steps of rehearsal alone that are due, where each fresh sample is worth so many."""
        if self._still:
            return self._still.fits_due(self._idle_steps) if per_sample else 0
        return int(self._unrehearsed * per_sample) if len(self._memory) else 0

    @property
    def stands_still(self) -> bool:
        """Whether nothing learns but the head."""
        return self._still is not None

    @property
    def is_behind(self) -> bool:
        """Whether samples wait to be learned from."""
        return bool(self.waiting) or (self._still is not None and self._still.unfitted > 0)

    @property
    def rehearses(self) -> bool:
        """Whether idle rehearsal was the last that it learned from."""
        return self._idle_steps > 0

    @property
    def oldest_needed(self) -> int:
        """The id of the first event that training on the rest of the log still needs, apart from rehearsal."""
        return int(min(self.cursor + 1, self.waiting.oldest_event))

    def without_forgotten(self, payload: bytes) -> bytes | None:
        """Return a batch of the log without samples that are no more; None where it has none of those."""
        batch = unpack_as(ActivationBatch, payload)
        wiped = self.edits.wipe(batch)
        return pack(wiped) if wiped else None

    def apply(self, event: Event) -> None:
        """Do all that an event of the robot's log asks for, as `work` does in pieces."""
        for _ in self.work(event):
            pass

    def work(self, event: Event, batch: InflatedBatch | None = None) -> Work:
        """Do what an event of the robot's log asks for, a step at a time: one message may be worth hundreds.

        batch: that the event is, where somebody has inflated it already.
        ``problem`` says what was wrong with it, if anything. Raises MalformedMessage for a batch that no intake would
        have let into the log.
        """
        self.problem = ""
        self.is_torn = True
        match event.kind:
            case "batch":
                yield from self._take(batch or InflatedBatch.read(event.payload), event.id)
            case "edit":
                for edit in self.edits.take(unpack_as(ClassEdit, event.payload)):
                    self._edit(edit)
                    if edit.change == "forget":
                        self.wipes.up_to = event.id
                    yield
            case "flush":
                yield from self._flush()
            case "rehearse" | "settle":
                yield from self._rehearse(Rehearsal.unpack(event.kind, event.payload))
            case "rejoin":
                yield from self._flush()
                self._rejoin(unpack_as(RobotState, event.payload))
            case "forget":
                up_to = int(event.payload)
                self._memory.forget(lambda _, ref: ref.event <= up_to)
                self.rounds.forget(up_to)
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
            cloud_accuracy=self.rounds.newest.accuracy,
            evaluation=self.rounds.number,
            evaluated=self.rounds.evaluated,
            messages_trained=self.messages_trained,
            messages_waiting=messages_waiting,
            messages_rejected=rejected,
            quarantine=quarantine,
            began_alike=self.began_alike,
        )

    def checkpoint(self) -> SessionState:
        """Return all that training needs to go on behind the cursor."""
        return SessionState(
            learner=self.trainer.learner.state(),
            cursor=self.cursor,
            state=self.state,
            edits=self.edits.state(),
            memory=self._memory.state(),
            waiting=self.waiting.state(),
            wipes=self.wipes,
            prequential=self.prequential,
            rounds=self.rounds.state(),
            messages_trained=self.messages_trained,
            progress=self._progress,
            loss=self.loss,
            began_at=self._began_at,
            unrehearsed=self._still.unfitted if self._still else self._unrehearsed,
            idle_steps=self._idle_steps,
            start="",
        )

    def restore(self, saved: SessionState) -> None:
        """Go on from a checkpoint.

        Raises RuntimeError where it is another network's, and ConfigError where the store lacks what it refers to.
        """
        self.trainer.learner.restore(saved.learner)
        self._memory.restore(saved.memory)
        if (oldest := self._memory.oldest_event()) is not None:
            self._stored.check(oldest)  # the oldest go first: where it is there, all are
        self.waiting.restore(saved.waiting, self._stored.at)
        self.edits.restore(saved.edits)
        self.rounds.restore(saved.rounds)
        self.cursor, self.state, self.wipes = saved.cursor, saved.state, replace(saved.wipes)
        self.prequential, self.loss = replace(saved.prequential), saved.loss
        self.messages_trained, self._progress = saved.messages_trained, saved.progress
        self._began_at, self._unrehearsed, self._idle_steps = saved.began_at, saved.unrehearsed, saved.idle_steps
        if self._still:
            self._still.unfitted = int(saved.unrehearsed)

    # Samples

    def _take(self, batch: InflatedBatch, event: int) -> Work:
        if batch.message.evaluation:
            yield from self._evaluate(batch, event)
            return
        self.messages_trained += 1
        if self._still and not self._encode(self._still, batch, event):
            return
        self._queue(batch, event)
        while len(self.waiting.fresh) >= self._fresh_per_step:
            self._step()
            yield
        # More than the next steps take, as when a robot re-encodes all that it has.
        self._store_re_encoded(len(self.waiting.re_encoded) - self._batch)

    def _encode(self, still: StillLearning, batch: InflatedBatch, event: int) -> bool:
        """Compute a batch's features; False, and ``problem`` says why, where they would be infinite."""
        self._tidy(still)
        try:
            still.take_in(event, batch.quantized)
        except MalformedMessage as error:
            self.problem = str(error)
        return not self.problem

    def _tidy(self, still: StillLearning) -> None:
        waiting = [one.ref for one in self.waiting.fresh + self.waiting.re_encoded]
        still.tidy(waiting, self.rounds.events, self.rounds.evaluated)

    def _queue(self, batch: InflatedBatch, event: int) -> None:
        """Let a batch's samples wait for a step, but those that an edit has given up."""
        message = batch.message
        self.edits.note(message)
        self._progress = message.progress
        version = self._version_of(message)
        queue = self.waiting.re_encoded if message.again else self.waiting.fresh
        self.is_taught = message.session > 0 or (message.again and self.is_taught)
        gone: set[int] = set()
        for row, (name, sample) in enumerate(zip(self.edits.names_now(message), message.samples.tolist(), strict=True)):
            if name:
                ref = SampleRef(event, row, sample, message.session, version)
                queue.append(Waiting(name=name, ref=ref, activation=one_sample(batch.quantized, row)))
                continue
            self.wipes.note(event)
            if sample and not message.again:
                gone.add(sample)
        if gone:  # re-encoded they may have come before it was known that these are their numbers
            self._give_up(lambda _, ref: ref.sample in gone)

    def _version_of(self, batch: ActivationBatch) -> int:
        """Return the segment that encoded a batch, as the robot's present process counts its steps.

        A killed robot goes on from its checkpoint, with fewer steps than its last messages before have told of.
        """
        if batch.boot != self.state.boot:
            return batch.edge_version if self._began_at is None else min(batch.edge_version, self._began_at)
        if self._began_at is None:
            self._began_at = batch.edge_version
            self._memory.go_back(self._began_at)
            self.waiting.go_back(self._began_at)
        return batch.edge_version

    def _rejoin(self, state: RobotState) -> None:
        if state.run != self.state.run:  # the network goes on for another run, whose edits and rounds count from 1
            self.edits.begin_run(state.edits)
            self._memory.begin_run()  # so lessons of the former one cannot be taken back any more
            self.rounds.begin_run()
        if state.boot != self.state.boot:  # else more of its edits are known, and no more than that
            self._began_at = None
            self.rounds.expect_repeats()
        self.state = state

    def _store_re_encoded(self, count: int) -> None:
        """Leave re-encoded samples, the first so many, to idle rehearsal: no step is waiting for them."""
        for one in take(self.waiting.re_encoded, count):
            self._memory.add(one.name, one.ref)
            self._unrehearsed = min(self._unrehearsed + 1, MAX_UNREHEARSED)
            if self._still:
                self._still.unfitted += 1

    def _give_up(self, gone: Callable[[str, SampleRef], bool]) -> None:
        """Neither train on nor rehearse samples that are gone."""
        self._memory.forget(gone)
        self.waiting.give_up(gone)

    # Steps

    def _flush(self) -> Work:
        while self.waiting.fresh:
            self._step()
            yield
        self._store_re_encoded(len(self.waiting.re_encoded))
        if self._still and self._still.unfitted:
            self._fit(self._still)
            yield

    @property
    def _fresh_per_step(self) -> int:
        return max(1, round(self._batch / (1 + self.state.rehearse)))

    def _step(self) -> None:
        fresh = take(self.waiting.fresh, self._fresh_per_step)
        if self._still:
            self._learn_still(self._still, fresh)
            return
        count = round(len(fresh) * self.state.rehearse)
        # First what the robot rehearses itself: it is as its segment encodes now.
        re_encoded = take(self.waiting.re_encoded, count)
        stored = self._memory.draw(count - len(re_encoded))
        names = [one.name for one in fresh + re_encoded] + [name for name, _ in stored]
        samples = [one.activation for one in fresh + re_encoded] + self._stored.at([ref for _, ref in stored])
        step = self._learn(samples, names, fresh=len(fresh), progress=self._progress)
        if step is None:
            return
        self.rounds.move_on()
        self.loss = step.loss
        self.prequential.add(step.correct)
        self._idle_steps = 0
        self._unrehearsed = min(self._unrehearsed + len(fresh), MAX_UNREHEARSED)
        for one in fresh + re_encoded:
            self._memory.add(one.name, one.ref)

    def _rehearse(self, asked: Rehearsal) -> Work:
        """Take steps on stored samples alone, and test what came of them where that is asked for."""
        if asked.anew:
            self._idle_steps = 0
        for left in range(asked.last, asked.last - asked.steps, -1):
            if not self._rehearse_once(settling(self._idle_steps, left)):
                break
            self._idle_steps += 1
            yield
        self._unrehearsed *= asked.left / asked.due
        if asked.test:
            yield from self._test_again()

    def _rehearse_once(self, progress: float) -> bool:
        """Take one step on stored samples alone; False where there are none, or they would make weights infinite."""
        if self._still:
            return self._fit(self._still)
        drawn = self._memory.draw(self._batch)
        samples, names = self._stored.at([ref for _, ref in drawn]), [name for name, _ in drawn]
        # As on the robot: a constant rate would leave the network wherever the last steps took it.
        return bool(drawn) and self._learn(samples, names, fresh=0, progress=progress) is not None

    def _learn_still(self, still: StillLearning, fresh: list[Waiting]) -> None:
        self.prequential.add(still.learn([one.name for one in fresh], [one.ref for one in fresh]))
        self.rounds.move_on()
        self._idle_steps = 0
        if still.is_due:
            self._fit(still)

    def _fit(self, still: StillLearning) -> bool:
        loss = still.fit()
        self.loss = self.loss if loss is None else loss
        return loss is not None

    def _learn(
        self, samples: list[Quantized], names: list[str], *, fresh: int, progress: float | None
    ) -> CloudStep | None:
        """Take a step; None, and ``problem`` says why, where these samples would make the weights infinite."""
        activations = np.concatenate([dequantize(sample) for sample in samples])
        try:
            return self.trainer.step(activations, names, fresh=fresh, progress=progress)
        except MalformedMessage as error:
            self.problem = str(error)
            return None

    # Tests

    def _evaluate(self, batch: InflatedBatch, event: int) -> Work:
        yield from self._flush()
        message = batch.message
        self.edits.note(message)
        if message.boot != self.state.boot:
            return  # nobody waits for the tests of a process that has ended
        if self.rounds.admit(message.evaluation):
            if self._still:
                self._tidy(self._still)  # a robot may send tests alone
            names, predicted = yield from self._test(batch, event)
            self.rounds.add(event, names, predicted)

    def _test_again(self) -> Work:
        """Predict the samples of the last round once more; of a large round the first, as other robots wait."""
        held_out = self.rounds.begin_again()
        for event in self.rounds.events:
            held_out.add(*(yield from self._test(self._stored.batch(event), event)))

    def _test(self, batch: InflatedBatch, event: int) -> Generator[None, None, tuple[list[str], list[str]]]:
        """Return what the samples that are not given up are called, and what they are taken for."""
        names = self.edits.names_now(batch.message)
        predicted = self._named(self._still, batch, event) if self._still else []
        at_once = min(PREDICT_AT_ONCE, self._batch)
        for start in range(len(predicted), len(names), at_once):
            predicted += self.trainer.predict(dequantize(batch.quantized[start : start + at_once]))
            yield
        known = [(name, guess) for name, guess in zip(names, predicted, strict=True) if name]
        return [name for name, _ in known], [guess for _, guess in known]

    def _named(self, still: StillLearning, batch: InflatedBatch, event: int) -> list[str]:
        """Return what samples are taken for; for nothing, and ``problem`` says why, where features are infinite."""
        try:
            return still.predict(event, batch.quantized)
        except MalformedMessage as error:
            self.problem = str(error)
            return [""] * len(batch.quantized)

    # Class edits

    def _edit(self, edit: ClassEdit) -> None:
        """Do to what is here already what `ClassEdits` does to what comes later."""
        if self._still:
            self._idle_steps = 0  # the rest has to make up for what the class leaves behind
        if edit.change == "rename":
            self.rounds.rename(edit.name, edit.to, merged=edit.to in self.trainer.classes)
            self.trainer.learner.rename(edit.name, edit.to)
            self._memory.rename(edit.name, edit.to)
            self.waiting.rename(edit.name, edit.to)
            return
        if edit.change == "undo":
            self._give_up(lambda name, ref: self.edits.is_of_session(ref.session, ref.sample, edit.session))
        if edit.name:
            self.trainer.learner.remove(edit.name)
            self.rounds.remove(edit.name)
            self._give_up(lambda name, ref: name == edit.name)
