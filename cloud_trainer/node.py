"""The cloud trainer's loop: the one file where broker, store, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from broker.errors import EXIT_INTERRUPTED, ConfigError, MalformedMessage, NameTaken, NothingDone, StorageError
from broker.link.base import Link, redial_if_silent
from broker.link.inbox import Delivery, everything
from broker.link.mqtt import MqttLink
from broker.program.machine import room
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    ClassEdit,
    Outcome,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerState,
)
from cloud_trainer.config import TrainerConfig
from cloud_trainer.fleet import Fleet
from cloud_trainer.held import Held
from cloud_trainer.other_trainers import TAKEOVER_SECONDS, OtherTrainers
from cloud_trainer.page.board import Board, FleetState, Rows
from cloud_trainer.robot_record import MOST_REJECTIONS, Rejection, RobotRecord
from cloud_trainer.store import STORE, Store, damage_explained, open_store
from cloud_trainer.summary import fleet_summary
from cloud_trainer.training import SILENCE_SECONDS, Training
from hierarchy.device import choose_device, set_threads
from hierarchy.evaluation import RECENT
from hierarchy.runtime.command_line import Notice, SparseLog, StopRequest, end_at_once
from hierarchy.runtime.disk import REMIND_SECONDS
from hierarchy.runtime.page import page_server
from hierarchy.runtime.run_folder import METRICS, RunFolder

if TYPE_CHECKING:
    from hierarchy.runtime.page.server import PageServer

METRICS_SECONDS = 0.5
REPORT_SECONDS = 5.0
PAGE_SECONDS = 1.0
# Messages stored with one flush of the disk. A flush takes milliseconds; a receipt should not wait for more of them.
TAKE_AT_ONCE = 256
# A name that never trained may give way to another one after this: three heartbeats, in which a robot that is there
# sends its first activations. Names cost nothing where a broker lets anybody in.
NEWCOMER_SECONDS = 3 * HEARTBEAT_SECONDS
# Unless it sends activations, which wait for its network to be prepared: a robot repeats them after 30 s.
FED_SECONDS = 60.0
# After the disk refused to take something it is tried again this often; robots hold their data meanwhile.
RETRY_SECONDS = 10.0
# At the end a checkpoint that the disk does not take is tried again so often, for so long: systemd gives two minutes.
LAST_RETRY_SECONDS, LAST_SAVE_SECONDS = 2.0, 30.0
# Between two warnings that nothing is taken: a store that is nearly full takes some and refuses the next, all the time.
WARNING_SECONDS = 60.0

NOBODY_CAME = "No robot came, so nothing was learned"
NOTHING_CAME = "No robot sent anything to learn from"

log = logging.getLogger("cloud-trainer")


def run(config: TrainerConfig) -> None:
    """Train for every robot at the broker until Ctrl-C; then write checkpoints, summary and curves.

    A second Ctrl-C ends it at once; nothing that has a receipt is lost.

    Raises ConfigError, NameTaken where another trainer with this name is online, StorageError where the disk did not
    take all of it, and NothingDone where robots came and nothing could be learned from any.
    """
    with StopRequest() as stop:
        path, missing = train(config, lambda: stop.made)
    log.info("the run is in %s; the same --run-dir goes on from here%s", path, f". {missing}" if missing else "")


def train(
    config: TrainerConfig, stopped: Callable[[], bool], wanted: Callable[[str], bool] = everything
) -> tuple[Path, str]:
    """Do the same until ``stopped`` says so, for robots whose topics are ``wanted``.

    Return the run's folder, and why nothing was learned though nothing was wrong, empty where anything was.
    """
    credentials = credentials_for(config.broker, config.credentials)
    set_threads(config.threads)
    choose_device(config.device)  # a missing one should be said before a folder is made
    state = TrainerState(boot=secrets.token_hex(8), started=time.time(), online=True, trouble="")
    topic = topics.topic("trainer", config.trainer, "state")
    will = (topic, pack(dataclasses.replace(state, online=False)))
    farewell: tuple[str, bytes] | None = will
    whole = True  # no step was broken off
    if (config.run_path / METRICS).exists() and not (config.run_path / STORE).exists():
        raise ConfigError(
            f"{config.run_path} holds a run, but not a trainer's, or one whose {STORE} is gone: put that back, or "
            "choose another --run-dir"
        )
    with (
        damage_explained(config.run_path / STORE),
        page_server(config.page, config.trainer) as page,
        closing(RunFolder(config.run_path, config.as_toml())) as folder,
        closing(open_store(folder.path / STORE, config.training(torch.get_num_threads()))) as store,
        closing(Store(folder.path / STORE)) as training_store,
    ):
        link = MqttLink(config.broker, config.trainer, will=will, credentials=credentials, wanted=wanted)
        board = Board(config.trainer) if page else None
        fleet = Fleet(config, training_store, folder.checkpoint, choose_device(config.device))
        training = Training(config, link, folder, fleet)
        node = TrainerNode(config, state, link, folder, store, training, board)
        folder.drop_summary()  # of a former process, and the run is not over yet
        training.start()
        try:
            if page and board:
                _show(page, board)
            while not stopped():
                node.turn(timeout=0.2)
            training.close()
            training.thread.check()
            training.settle()
        except NameTaken:
            farewell = None  # the state at the broker is the other's
            raise
        except KeyboardInterrupt:  # the second Ctrl-C
            whole = False  # what no checkpoint holds is in the log, for the next start
            raise
        finally:
            training.close(None if whole else 0.0)
            if whole:
                node.finish()
            link.close(farewell)
            if training.thread.is_alive:  # in the middle of a step, which nothing breaks off
                fleet.close()
                end_at_once(EXIT_INTERRUPTED)
    if node.not_saved:
        raise node.not_saved
    if nothing := node.nothing_learned():
        raise NothingDone(nothing)
    return folder.path, node.what_came


def _show(server: PageServer, board: Board) -> None:
    from cloud_trainer.page.app import build

    server.start(lambda app: build(app, board))


class TrainerNode:
    """Puts what robots send into the store and receipts it; says that the trainer is there, and how it is doing.

    It never waits for a step: `Training` does those, on a thread of its own, from the store.
    """

    def __init__(
        self,
        config: TrainerConfig,
        state: TrainerState,
        link: Link,
        folder: RunFolder,
        store: Store,
        training: Training,
        board: Board | None = None,
    ) -> None:
        """board: of the page."""
        self._config = config
        self._state = state
        self._link = link
        self._folder = folder
        self._others = OtherTrainers(config.trainer, state)
        self._store = store
        self._training = training
        self._fleet = training.fleet
        self._robots = self._fleet.robots
        # Not in the store yet: receipts to send once it is, and when what they are about came; and whose batches it is.
        self._receipts: list[tuple[str, Receipt, float]] = []
        self._added: list[RobotRecord] = []
        self._rejected = 0  # messages of nobody we know
        self._dropped = 0  # of those, and unread, as they were too many
        self._new_states: set[str] = set()  # robots that said one since they were last looked at
        self._held = Held()  # messages of robots whose networks are being prepared
        self._again: deque[Delivery] = deque()  # of those, what can be taken now
        self._strangers: deque[Rejection] = deque(maxlen=MOST_REJECTIONS)
        self._board = board
        self._rows = Rows(folder.checkpoint)
        self._next_post = 0.0
        self._garbage = SparseLog(log)
        self._floods = SparseLog(log)
        self._notice = Notice(log)
        self.not_saved: StorageError | None = None  # what to end with, where the disk did not take all at the end
        self._trouble_said = ""  # in the log, and not over yet
        self._warned_at = float("-inf")
        self._connection = 0
        self._announced_at = float("-inf")
        self._next_heartbeat = self._next_metrics = self._next_report = self._retry_at = 0.0
        # Trainers first: one that has our name must be known before anything is taken. Then robots' states: they say
        # what the activations behind them are.
        self._tell_apart()
        link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))
        for channel in ("state", "metrics", "activations"):
            link.subscribe(topics.topic("robot", topics.ANYONE, channel))

    def turn(self, timeout: float) -> None:
        """Store what came, waiting up to timeout seconds for it, and say what is due.

        Raises what ended training, if that was a failure: a trainer that does not train must not seem to be there.
        """
        self._training.thread.check()
        self._hear_training()
        self._take_in(timeout)
        now = time.monotonic()
        if self._new_states and self._others.name_is_free(now):
            self._have_prepared(self._new_states.pop())
        self._say_what_is_missing()
        if self._link.connections != self._connection or now >= self._next_heartbeat:
            self._announce(now)
        if redial_if_silent(self._link, self._announced_at, now):
            self._announced_at = float("-inf")  # until there is an answer to wait for again
        if now >= self._next_metrics:
            self._next_metrics = now + METRICS_SECONDS
            self._publish_metrics(now)
        if self._board and now >= self._next_post:
            self._next_post = now + PAGE_SECONDS
            self._post(self._board, now)
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._report()
            self._report_floods()
            self._new_states.update(robot for robot, record in self._robots.items() if record.waits)
            self._mind_the_disk(now)

    def finish(self) -> None:
        """Write everything down, when training has ended. What is not trained on yet waits for the next start."""
        self._fleet.close()
        now = time.monotonic()
        self._save_last()
        self._publish_metrics(now)
        known = {robot: record for robot, record in self._robots.items() if record.session}
        waiting = sum(record.messages_waiting for record in known.values())
        if waiting:
            log.info("%s messages are stored and wait for training", f"{waiting:,}")
        figures = {robot: figures for robot, record in known.items() if (figures := record.figures(robot, now))}
        reported = {robot: record.metrics for robot, record in known.items() if record.metrics}
        sessions = {robot: record.session for robot, record in known.items() if record.session}
        by_class = {robot: session.held_out.by_class for robot, session in sessions.items()}
        rounds = {robot: session.rounds() for robot, session in sessions.items()}
        classes = {robot: session.trainer.classes for robot, session in sessions.items()}
        self._folder.finish(fleet_summary(figures, reported, classes, by_class, rounds, self._rejected))
        self._folder.disk.missing |= self._fleet.disk.missing
        self.not_saved = self._folder.disk.error(
            f"What has a receipt is in {STORE}: the same --run-dir trains on it again where it is in no checkpoint"
        )

    def _save_last(self) -> None:
        """Write all checkpoints; those that the disk does not take are tried again for a while."""
        give_up = time.monotonic() + LAST_SAVE_SECONDS
        left = [robot for robot in self._robots if not self._fleet.save(robot)]
        try:
            while left and time.monotonic() < give_up:
                self._notice.say(f"trying again for {LAST_SAVE_SECONDS:.0f} s to write what is missing")
                time.sleep(LAST_RETRY_SECONDS)
                left = [robot for robot in left if not self._fleet.save(robot)]
        except KeyboardInterrupt:  # the second Ctrl-C: the rest is written all the same
            return

    @property
    def what_came(self) -> str:
        """Why nothing was learned though nothing was wrong; empty where anything was."""
        if not self._robots:
            return NOBODY_CAME
        return "" if any(record.entered for record in self._robots.values()) else NOTHING_CAME

    def nothing_learned(self) -> str:
        """Say why nothing was learned, where robots came and were refused; empty where something was, or none came."""
        if any(record.session and record.session.trainer.steps for record in self._robots.values()):
            return ""
        reasons = {robot: why for robot, record in self._robots.items() if (why := _refusal(record))}
        if not reasons:
            return ""
        robot, reason = next(iter(reasons.items()))
        return (
            f"NOTHING WAS LEARNED: {len(reasons)} of {len(self._robots)} robots were refused, robot {robot}: {reason}"
        )

    # What comes in

    def _take_in(self, timeout: float) -> None:
        try:
            for _ in range(TAKE_AT_ONCE):
                delivery = self._again.popleft() if self._again else self._link.receive(timeout)
                if delivery is None:
                    break
                self._take(delivery)
                timeout = 0.0
            self._commit()
        except StorageError as error:
            self._receipts.clear()  # the robots send it again
            self._added.clear()
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._set_trouble(str(error), f"; {room(self._folder.path)}")

    def _commit(self) -> None:
        """Put what came on the disk, and only then say so to the robots."""
        self._store.commit()
        for record in self._added:
            record.stored += 1
        self._training.look()
        if self._added and self._trouble_said:  # not before something was stored: to try is not to succeed
            self._trouble_said = ""
            log.info("taking activations again")
        for robot, receipt, arrived in self._receipts:
            receipt = dataclasses.replace(receipt, held=time.monotonic() - arrived)
            self._link.publish(topics.topic("robot", robot, "receipt"), pack(receipt), qos=1)
        self._added.clear()
        self._receipts.clear()

    def _take(self, delivery: Delivery) -> None:
        now = time.monotonic()
        try:
            topic = topics.parse(delivery.topic)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a message: {error}")
            return
        if topic.role == "trainer":
            self._take_trainer(topic.name, delivery, now)
            return
        robot = topic.name
        record = self._robots.get(robot)
        # States are heard all the same: a robot that goes, or comes back, is told whether it is in quarantine.
        if record and topic.channel != "state" and record.conduct.quarantine(now):
            record.conduct.rejected += topic.channel == "activations"
            return
        try:
            match topic.channel:
                case "state":
                    self._take_state(robot, unpack_as(RobotState, delivery.payload), now)
                case "metrics" if record:
                    metrics = unpack_as(RobotMetrics, delivery.payload)
                    if record.state and record.state.boot == metrics.boot:
                        record.metrics = metrics
                        self._store.keep_metrics(robot, delivery.payload)
                case "activations":
                    message = unpack(delivery.payload)
                    if not isinstance(message, ActivationBatch | ClassEdit):
                        raise MalformedMessage(f"ActivationBatch or ClassEdit expected, got {type(message).__name__}")
                    if record and record.state:  # else it comes again, once its state has come
                        self._take_message(robot, record, message, delivery, now)
        except MalformedMessage as error:
            self._reject(robot, str(error), now)

    def _take_trainer(self, name: str, delivery: Delivery, now: float) -> None:
        try:
            other = unpack_as(TrainerState, delivery.payload)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a message on {delivery.topic}: {error}")
            return
        if self._others.hear(name, other, now, retained=delivery.retained):
            self._next_heartbeat = 0.0

    def _reject(self, robot: str, reason: str, now: float, *, grave: bool = False) -> None:
        self._garbage.warn(f"robot {robot}: message rejected: {reason}")
        record = self._robots.get(robot)
        rejections = self._strangers if record is None else record.rejections
        rejections.append(Rejection(time=time.time(), robot=robot, reason=reason))
        if record is None:
            self._rejected += 1
        elif record.conduct.bad(now, reason, grave=grave):
            log.warning("robot %s is in quarantine: %s", robot, record.conduct.quarantine(now))

    def _take_state(self, robot: str, state: RobotState, now: float) -> None:
        record = self._robots.get(robot)
        if not state.online:
            if record and record.state and record.state.boot == state.boot:
                log.info("robot %s has gone", robot)
                record.online = False
                record.fed = now - SILENCE_SECONDS  # nothing more is coming
                record.save_when_idle = True
            return
        if record is None:
            if len(self._robots) >= self._config.most_robots and not self._make_place(robot, now):
                reason = f"this trainer has its {self._config.most_robots} robots (--most-robots)"
                turned_away = RobotRecord(state=state, refused=reason)
                self._publish_figures(robot, turned_away, now)
                self._garbage.warn(f"robot {robot} is turned away: {reason}")
                return
            record = self._robots[robot] = RobotRecord(since=now)
        if state.boot in record.boots and record.entered and state.boot != record.entered.boot:
            return  # of a former start, come late: going back to it would throw away what was learned since
        record.heard, record.online = now, True
        if record.state is None or record.state.boot != state.boot:
            record.state, record.refused, record.waits = state, "", ""
            self._new_states.add(robot)
        elif record.entered != state and record.state.split == state.split:
            record.state = state  # more of its edits may have been taken meanwhile, by the trainer before this one
        elif record.state.split != state.split:
            self._reject(robot, "it changed its split while it ran", now, grave=True)

    def _make_place(self, newcomer: str, now: float) -> bool:
        """Let a name that never trained give way to another one; whether there was one that has had its time."""
        idle = [
            (record.since, robot)
            for robot, record in self._robots.items()
            if not record.has_trained
            and now >= record.since + NEWCOMER_SECONDS
            and (record.refused or now >= record.fed + FED_SECONDS)
        ]
        if not idle:
            return False
        since, robot = min(idle)
        self._garbage.warn(
            f"robot {robot} gives way to {newcomer}: it has sent nothing to train on in {now - since:.0f} s, and this "
            f"trainer has its {self._config.most_robots} robots (--most-robots)"
        )
        del self._robots[robot]
        self._new_states.discard(robot)
        return True

    def _tell_apart(self) -> None:
        """Have the link keep what trained robots send from what all others do, who may be many and nobody."""
        trained = [robot for robot, record in self._robots.items() if record.has_trained]
        senders = [topics.sender("robot", robot) for robot in trained]
        self._link.know([topics.sender("trainer", self._config.trainer), *senders])

    def _report_floods(self) -> None:
        """Say what the link dropped unread."""
        for source, count in self._link.take_dropped().items():
            name = source.split("/")[3] if "/" in source else ""
            if record := self._robots.get(name):
                record.dropped += count
            else:
                self._dropped += count
            whose = f"robot {name}" if record else source
            self._floods.warn(f"{whose}: {count:,} messages dropped unread: more than are read, or too large")

    def _take_message(
        self, robot: str, record: RobotRecord, message: ActivationBatch | ClassEdit, delivery: Delivery, now: float
    ) -> None:
        record.heard = record.fed = now
        if not self._others.name_is_free(now) or record.waits:
            return  # without a receipt: the robot keeps it
        if record.entered != record.state and not record.refused and not self._state.trouble:
            if self._fleet.must_prepare(record):
                self._have_prepared(robot, urgent=True)
                self._held.add(robot, delivery)
                return
            self._enter(robot, record)
        if record.refused or record.stuck or record.intake is None or self._state.trouble:
            return  # without a receipt: the robot keeps it
        known = False
        try:
            if isinstance(message, ActivationBatch):
                record.intake.check(message)
            elif not (known := self._fleet.knows_edit(robot, message)):
                record.intake.check_edit(message)
        except MalformedMessage as error:
            self._receipt(robot, message, "rejected", delivery.arrived, str(error)[:400])
            raise
        record.conduct.good(now)
        kind: Literal["batch", "edit"] = "batch" if isinstance(message, ActivationBatch) else "edit"
        append = self._store.append_message
        added = not known and append(robot, message.boot, message.sequence, delivery.payload, kind)
        if added and kind == "batch":
            self._added.append(record)
        self._receipt(robot, message, "accepted" if added else "duplicate", delivery.arrived)

    def _receipt(
        self, robot: str, message: ActivationBatch | ClassEdit, outcome: Outcome, arrived: float, reason: str = ""
    ) -> None:
        """Have a receipt sent for a message that came in then, once all that came before it is in the store."""
        receipt = Receipt(boot=message.boot, sequence=message.sequence, outcome=outcome, reason=reason, held=0.0)
        self._receipts.append((robot, receipt, arrived))

    def _enter(self, robot: str, record: RobotRecord) -> None:
        entered, intake = record.entered, record.intake
        try:
            self._fleet.enter(robot, self._store)
            self._commit()  # what was entered must not be lost with what comes behind it
            if record.entered:
                record.boots.add(record.entered.boot)
                self._tell_apart()
        except StorageError:
            record.entered, record.intake = entered, intake
            raise

    # What training says

    def _have_prepared(self, robot: str, *, urgent: bool = False) -> None:
        record = self._robots.get(robot)
        if record and record.state and self._fleet.must_prepare(record):
            self._training.prepare(robot, record.state, urgent=urgent)

    def _hear_training(self) -> None:
        """Take in what networks robots may begin, and what was wrong with what they sent."""
        while prepared := self._training.take_prepared():
            self._fleet.note(prepared)
            if not prepared.waits:  # else it is asked for again after a while
                self._have_prepared(prepared.robot)  # where it has said another state meanwhile
            self._again.extend(self._held.release(prepared.robot))
        while self._training.reports:
            robot, trouble = self._training.reports.popleft()
            self._reject(robot, trouble, time.monotonic(), grave=True)

    # What goes out

    def _announce(self, now: float) -> None:
        if not self._others.name_is_free(now):
            return
        topic = topics.topic("trainer", self._config.trainer, "state")
        if self._link.publish(topic, pack(self._state), qos=1, retain=True):
            self._connection = self._link.connections
            self._next_heartbeat, self._announced_at = now + HEARTBEAT_SECONDS, now
            for record in self._robots.values():
                record.published = None  # metrics are QoS 0: say them again, in case some were lost

    def _set_trouble(self, trouble: str, where: str = "") -> None:
        """Say why nothing is taken, empty where it is. where: to make room, for who reads the log."""
        now = time.monotonic()
        again = WARNING_SECONDS if trouble != self._trouble_said else REMIND_SECONDS
        if trouble and now >= self._warned_at + again:
            self._trouble_said, self._warned_at = trouble, now
            log.warning("taking no activations: %s%s", trouble, where)
        if trouble[:400] != self._state.trouble:
            self._state = dataclasses.replace(self._state, trouble=trouble[:400])
            self._announce(now)

    def _mind_the_disk(self, now: float) -> None:
        full = self._training.full or self._training.held_up()
        if full:
            self._retry_at = now + RETRY_SECONDS
            self._set_trouble(full)
        elif now >= self._retry_at:
            self._set_trouble("")

    def _publish_metrics(self, now: float) -> None:
        for robot, record in self._robots.items():
            self._publish_figures(robot, record, now)

    def _publish_figures(self, robot: str, record: RobotRecord, now: float) -> None:
        figures = record.figures(robot, now)
        topic = topics.topic("trainer", self._config.trainer, "metrics")
        if not self._others.name_is_free(now):
            return
        if figures and figures != record.published and self._link.publish(topic, pack(figures)):
            record.published = figures

    def _post(self, board: Board, now: float) -> None:
        """Tell the page what is so."""
        wall = time.time()
        board.state = FleetState(
            robots=tuple(self._rows.row(robot, record, now, wall) for robot, record in self._robots.items()),
            store_bytes=self._store.bytes_used,
            store_limit=self._config.store_gb * 1e9,
            link="" if self._link.connected else f"no broker: {self._link.trouble}",
            trouble=self._state.trouble,
            strangers=tuple(self._strangers),
            strangers_rejected=self._rejected,
            strangers_dropped=self._dropped,
        )

    def _say_what_is_missing(self) -> None:
        if not self._link.connected:
            self._notice.say(f"waiting for the broker ({self._link.trouble})")
        elif not self._others.name_is_free(time.monotonic()):
            name, seconds = self._config.trainer, TAKEOVER_SECONDS
            self._notice.say(f"another trainer seems to be named {name!r}: waiting {seconds:g} s for a sign of life")
        elif not any(record.state for record in self._robots.values()):
            self._notice.say("connected; waiting for robots")
        else:
            self._notice.say("")

    def _report(self) -> None:
        for robot, record in self._robots.items():
            if bool(doubted := record.doubt) != bool(record.doubt_said):
                record.doubt_said = doubted
                log.warning("robot %s: %s", robot, doubted or "what it sends teaches something now")
            figures = record.standing.figures if record.standing else None
            if figures and figures.cloud_loss is not None and figures.images > record.images_reported:
                record.images_reported = figures.images
                log.info(
                    "robot %s: %s images, %d classes, loss %.2f, %.1f %% right of the last %s, %s messages wait",
                    robot,
                    f"{figures.images:,}",
                    figures.classes,
                    figures.cloud_loss,
                    100 * (figures.cloud_recent or 0),
                    f"{RECENT:,}",
                    f"{record.messages_waiting:,}",
                )


def _refusal(record: RobotRecord) -> str:
    """Say why nothing is learned from a robot; empty where nothing speaks against it."""
    if record.refused or record.rejections:
        return record.refused or record.rejections[-1].reason
    return ""
