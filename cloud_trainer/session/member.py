"""One robot of a session: what it said, which classes its samples are of by now, how its tests went. No network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, RobotState
from cloud_trainer.session.batches import InflatedBatch, one_sample
from cloud_trainer.session.class_edits import ClassEdits, EditsState, Wipes
from cloud_trainer.session.evaluation_rounds import Rounds, RoundsState
from cloud_trainer.session.sample_memory import SampleRef
from cloud_trainer.session.waiting_samples import Waiting
from hierarchy.evaluation import Prequential


@dataclass(frozen=True, kw_only=True)
class MemberState:
    """All that a session must know of a robot to go on. robot: empty in a checkpoint of before sessions had several.

    The others are as in `Member`.
    """

    robot: str
    state: RobotState
    edits: EditsState
    wipes: Wipes
    prequential: Prequential
    rounds: RoundsState
    messages_trained: int
    progress: float | None
    began_at: int | None
    taught: list[str]
    forgotten: list[str]


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """The samples of a batch that wait for a step from now on, and the numbers of those that an edit gave up."""

    waiting: list[Waiting]
    gone: set[int]


class Member:
    """One robot whose samples a session learns from.

    number: of the robot in its session, from 0. state: the last in the log. wipes: what of its log to overwrite.
    prequential, rounds: of its samples alone. progress: of its newest batch. began_at: the first version that came of
    its present process. taught: classes that it sent samples of to learn from, in order. forgotten: of these, those
    that another robot had forgotten everywhere, and it has not taught again or forgotten since.
    """

    def __init__(self, robot: str, number: int, state: RobotState) -> None:
        self.robot = robot
        self.number = number
        self.state = state
        self.edits = ClassEdits(state.edits)
        self.wipes = Wipes()
        self.prequential = Prequential()
        self.rounds = Rounds()
        self.messages_trained = 0
        self.progress: float | None = None
        self.began_at: int | None = None
        self.taught: dict[str, None] = {}
        self.forgotten: dict[str, None] = {}

    def take(self, batch: InflatedBatch, event: int, version: int) -> Arrived:
        """Take in a batch that is an event, encoded by that version of the robot's segment."""
        message = batch.message
        self.edits.note(message)
        self.progress = message.progress
        waiting: list[Waiting] = []
        gone: set[int] = set()
        for row, (name, sample) in enumerate(
            zip(self.edits.names_now(message, event), message.samples.tolist(), strict=True)
        ):
            if name:
                self.taught[name] = None
                self.forgotten.pop(name, None)
                ref = SampleRef(event, row, sample, message.session, version, self.number)
                waiting.append(Waiting(name=name, ref=ref, activation=one_sample(batch.quantized, row)))
                continue
            self.wipes.note(event)
            if sample and not message.again:
                gone.add(sample)
        return Arrived(waiting=waiting, gone=gone)

    def rename(self, old: str, new: str) -> None:
        """Have taught a class under another name, if at all."""
        self.forgotten.pop(old, None)
        if old in self.taught:
            del self.taught[old]
            self.taught[new] = None

    def forget(self, name: str) -> None:
        """Have taught a class no more, as the robot itself said."""
        self.taught.pop(name, None)
        self.forgotten.pop(name, None)
        self.rounds.remove(name)

    def forget_elsewhere(self, name: str, event: int) -> None:
        """Have taught a class no more, as another robot had it forgotten everywhere, at an event."""
        self.edits.forget_elsewhere(name, event)
        was_taught = name in self.taught
        self.forget(name)
        self.wipes.up_to = event
        if was_taught:
            self.forgotten[name] = None

    def leave(self, event: int) -> None:
        """Have taught nothing: its samples were taken out, at an event."""
        self.edits.leave(event)
        self.wipes.up_to = event
        self.taught.clear()
        self.forgotten.clear()
        self.rounds = Rounds()

    @property
    def is_out(self) -> bool:
        """Whether its samples were taken out, and it has not come back since."""
        return self.state.share == "withdraw"

    def rejoin(self, state: RobotState) -> None:
        """Take in the state of another process of the robot, or of the same one that knows more of its edits."""
        if state.run != self.state.run:  # the network goes on for another run, whose edits and rounds count from 1
            self.edits.begin_run(state.edits)
            self.rounds.begin_run()
        if state.boot != self.state.boot:  # else more of its edits are known, and no more than that
            self.began_at = None
            self.rounds.expect_repeats()
        self.state = state

    def without_forgotten(self, payload: bytes, event: int) -> bytes | None:
        """Return a batch of the log without samples that are no more; None where it has none of those.

        event: that the batch is.
        """
        wiped = self.edits.wipe(unpack_as(ActivationBatch, payload), event)
        return pack(wiped) if wiped else None

    def owns(self, ref: SampleRef) -> bool:
        """Whether a sample is the robot's."""
        return ref.member == self.number

    def known(self, batch: InflatedBatch, event: int, predicted: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return what the samples that are not given up are called, and what they are taken for."""
        names = self.edits.names_now(batch.message, event)
        known = [(name, guess) for name, guess in zip(names, predicted, strict=True) if name]
        return [name for name, _ in known], [guess for _, guess in known]

    def checkpoint(self) -> MemberState:
        """Return what a checkpoint must hold."""
        return MemberState(
            robot=self.robot,
            state=self.state,
            edits=self.edits.state(),
            wipes=self.wipes,
            prequential=self.prequential,
            rounds=self.rounds.state(),
            messages_trained=self.messages_trained,
            progress=self.progress,
            began_at=self.began_at,
            taught=list(self.taught),
            forgotten=list(self.forgotten),
        )

    def restore(self, saved: MemberState) -> None:
        """Go on from a checkpoint."""
        self.state, self.wipes, self.prequential = saved.state, replace(saved.wipes), replace(saved.prequential)
        self.edits.restore(saved.edits)
        self.rounds.restore(saved.rounds)
        self.messages_trained, self.progress, self.began_at = saved.messages_trained, saved.progress, saved.began_at
        self.taught, self.forgotten = dict.fromkeys(saved.taught), dict.fromkeys(saved.forgotten)
