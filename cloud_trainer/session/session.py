"""Training in the cloud: events of a log in, steps of a cloud segment out. No I/O of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from broker.errors import MalformedMessage
from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch, ClassEdit, RobotState, SplitSpec
from cloud_trainer.logs import is_shared, is_taken_out
from cloud_trainer.session.batches import InflatedBatch, Reader
from cloud_trainer.session.changed_classes import change_classes, take_out
from cloud_trainer.session.member import Member
from cloud_trainer.session.network import Network
from cloud_trainer.session.rehearsal import Rehearsal
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.store.log import Event
from hierarchy.cloud import CloudTrainer
from hierarchy.schedule import settling

# Work that can be interrupted wherever it yields: behind each step, test and edit. An event is done when it ends.
Work = Iterator[None]


class Session:
    """Trains on a log, event by event, and keeps the metrics.

    log: its name. network: that learns. members: robots whose samples it learns from, by name, in the order in which
    they came. cursor: the last event that was done.

    Everything in here follows from the log and the seed. What depends on the time or on chance enters as an event.
    """

    def __init__(
        self,
        log: str,
        state: RobotState,
        trainer: CloudTrainer,
        *,
        robot: str = "",
        batch: int,
        memory: int,
        seed: int,
        read: Reader,
        still: bool = False,
    ) -> None:
        """state: of the robot whose start began the log; robot: its name, where several share the log.

        batch, memory, seed, read, still: as of `Network`.
        """
        self.log = log
        self.network = Network(trainer, batch=batch, memory=memory, seed=seed, read=read, still=still)
        self.members = {robot or log: Member(robot or log, 0, state)}
        self.cursor = 0
        self.began_alike: bool | None = None  # with the pretrained weights that the robot told of
        self.is_torn = False  # an event was broken off: what is in here belongs to no place of the log
        self.is_taught = False  # the newest samples are of a lesson: people wait for what comes of it

    @property
    def trainer(self) -> CloudTrainer:
        """Of the network."""
        return self.network.trainer

    @property
    def split(self) -> SplitSpec:
        """Which half the network is."""
        return next(iter(self.members.values())).state.split

    @property
    def images(self) -> int:
        """Fresh images that were learned from."""
        return sum(one.prequential.count for one in self.members.values())

    @property
    def messages_trained(self) -> int:
        """Messages that were learned from."""
        return sum(one.messages_trained for one in self.members.values())

    @property
    def problem(self) -> str:
        """What was wrong with the newest event, empty where nothing was."""
        return self.network.problem

    @property
    def blamed(self) -> str:
        """The robot whose samples that was about."""
        return list(self.members)[self.network.blamed]

    @property
    def held_out(self) -> tuple[int, int]:
        """How many held-out samples of all robots' newest tests were named right, and how many there were."""
        tests = [one.rounds.newest for one in self.members.values()]
        return sum(one.right for one in tests), sum(one.count for one in tests)

    @property
    def oldest_needed(self) -> int:
        """The id of the first event that training on the rest of the log still needs, apart from rehearsal."""
        return int(min(self.cursor + 1, self.network.waiting.oldest_event))

    def apply(self, event: Event) -> None:
        """Do all that an event of the log asks for, as `work` does in pieces."""
        for _ in self.work(event):
            pass

    def work(self, event: Event, batch: InflatedBatch | None = None) -> Work:
        """Do what an event of the log asks for, a step at a time: one message may be worth hundreds.

        batch: that the event is, where somebody has inflated it already.
        ``problem`` says what was wrong with it, if anything. Raises MalformedMessage for a batch that no intake would
        have let into the log.
        """
        self.network.problem = ""
        self.is_torn = True
        member = self.members.get(event.robot)
        if member:
            self.network.blamed = member.number
        match event.kind:
            case "batch" if member:
                yield from self._take(member, batch or InflatedBatch.read(event.payload), event.id)
            case "edit" if member:
                for edit in member.edits.take(unpack_as(ClassEdit, event.payload)):
                    change_classes(
                        edit, event.id, member, self.members.values(), self.network, shared=is_shared(self.log)
                    )
                    if edit.change == "forget":
                        member.wipes.up_to = event.id
                    yield
            case "flush":
                yield from self._flush()
            case "rehearse" | "settle":
                yield from self._rehearse(Rehearsal.unpack(event.kind, event.payload))
            case "rejoin" | "join":
                yield from self._flush()
                self._join(event.robot, unpack_as(RobotState, event.payload), event.id)
            case "forget" if member:
                up_to = int(event.payload)
                self.network.memory.forget(lambda _, ref: member.owns(ref) and ref.event <= up_to)
                member.rounds.forget(up_to)
            case _:
                raise MalformedMessage(f"event {event.id} ({event.kind}) is of robot {event.robot!r}, which never came")
        self.cursor = event.id
        self.is_torn = False

    def checkpoint(self) -> SessionState:
        """Return all that training needs to go on behind the cursor."""
        return SessionState(
            learner=self.trainer.learner.state(),
            cursor=self.cursor,
            memory=self.network.memory.state(),
            waiting=self.network.waiting.state(),
            members=[one.checkpoint() for one in self.members.values()],
            loss=self.network.loss,
            unrehearsed=self.network.owed,
            idle_steps=self.network.idle_steps,
            start="",
        )

    def restore(self, saved: SessionState) -> None:
        """Go on from a checkpoint. Raises what `Network.restore` does."""
        self.network.restore(saved)
        first = next(iter(self.members))
        self.members = {}
        for number, its in enumerate(saved.members):
            robot = its.robot or first
            self.members[robot] = Member(robot, number, its.state)
            self.members[robot].restore(its)
        self.cursor = saved.cursor

    # Samples

    def _take(self, member: Member, batch: InflatedBatch, event: int) -> Work:
        if batch.message.evaluation:
            yield from self._evaluate(member, batch, event)
            return
        member.messages_trained += 1
        self._tidy()
        if not self.network.encode(event, batch.quantized):
            return
        self._queue(member, batch, event)
        while len(self.network.waiting.fresh) >= self.network.fresh_per_step(self._rehearse_each):
            self._step()
            yield
        # More than the next steps take, as when a robot re-encodes all that it has.
        self.network.store_re_encoded(len(self.network.waiting.re_encoded) - self.network.batch)

    def _queue(self, member: Member, batch: InflatedBatch, event: int) -> None:
        """Let a batch's samples wait for a step, but those that an edit has given up."""
        message = batch.message
        arrived = member.take(batch, event, self._version_of(member, message))
        waiting = self.network.waiting
        queue = waiting.re_encoded if message.again else waiting.fresh
        queue += arrived.waiting
        self.is_taught = message.session > 0 or (message.again and self.is_taught)
        if arrived.gone:  # re-encoded they may have come before it was known that these are their numbers
            self.network.give_up(lambda _, ref: member.owns(ref) and ref.sample in arrived.gone)

    def _version_of(self, member: Member, batch: ActivationBatch) -> int:
        """Return the segment that encoded a batch, as the robot's present process counts its steps.

        A killed robot goes on from its checkpoint, with fewer steps than its last messages before have told of. Of
        robots that share a network none has a segment that changes.
        """
        if is_shared(self.log):
            return 0
        began_at = member.began_at
        if batch.boot != member.state.boot:
            return batch.edge_version if began_at is None else min(batch.edge_version, began_at)
        if began_at is None:
            member.began_at = batch.edge_version
            self.network.memory.go_back(batch.edge_version)
            self.network.waiting.go_back(batch.edge_version)
        return batch.edge_version

    def _join(self, robot: str, state: RobotState, event: int) -> None:
        member = self.members.setdefault(robot, Member(robot, len(self.members), state))
        if state.run != member.state.run:
            self.network.memory.begin_run(member.number)  # so lessons of the former run cannot be taken back any more
        member.rejoin(state)
        if is_taken_out(self.log, state):
            take_out(member, event, self.members.values(), self.network)

    def _tidy(self) -> None:
        rounds = [one.rounds for one in self.members.values()]
        tests = [event for one in rounds for event in one.events]
        self.network.tidy(tests, sum(one.evaluated for one in rounds))

    # Steps

    @property
    def _rehearse_each(self) -> float:
        """Rehearsed samples for each fresh one."""
        return max(one.state.rehearse for one in self.members.values())

    @property
    def _progress(self) -> float | None:
        """How much of the stream is over. That of a fleet has no end."""
        return None if is_shared(self.log) else next(iter(self.members.values())).progress

    def _step(self) -> None:
        learned = self.network.step(self._rehearse_each, self._progress)
        for member in self.members.values():
            member.prequential.add(right for ref, right in learned if member.owns(ref))
            if learned:
                member.rounds.move_on()

    def _flush(self) -> Work:
        network = self.network
        while network.waiting.fresh:
            self._step()
            yield
        network.store_re_encoded(len(network.waiting.re_encoded))
        if network.still and network.still.unfitted:
            network.fit()
            yield

    def _rehearse(self, asked: Rehearsal) -> Work:
        """Take steps on stored samples alone, and test what came of them where that is asked for."""
        network = self.network
        if asked.anew:
            network.idle_steps = 0
        for left in range(asked.last, asked.last - asked.steps, -1):
            if not network.rehearse(settling(network.idle_steps, left)):
                break
            network.idle_steps += 1
            yield
        network.rehearsed(asked.left / asked.due)
        if asked.test:
            for member in self.members.values():
                yield from self._test_again(member)

    # Tests

    def _evaluate(self, member: Member, batch: InflatedBatch, event: int) -> Work:
        yield from self._flush()
        message = batch.message
        member.edits.note(message)
        if message.boot != member.state.boot:
            return  # nobody waits for the tests of a process that has ended
        if member.rounds.admit(message.evaluation):
            self._tidy()  # a robot may send tests alone
            names, predicted = yield from self._test(member, batch, event)
            member.rounds.add(event, names, predicted)

    def _test_again(self, member: Member) -> Work:
        """Predict the samples of the last round once more; of a large round the first, as other robots wait."""
        held_out = member.rounds.begin_again()
        for event in member.rounds.events:
            held_out.add(*(yield from self._test(member, self.network.stored.batch(event), event)))

    def _test(
        self, member: Member, batch: InflatedBatch, event: int
    ) -> Generator[None, None, tuple[list[str], list[str]]]:
        """Return what the samples that are not given up are called, and what they are taken for."""
        predicted = yield from self.network.predict(event, batch.quantized)
        return member.known(batch, event, predicted)
