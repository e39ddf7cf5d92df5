"""The cloud trainer's loop: the one file where broker, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from pathlib import Path

import torch

from broker import topics
from broker.codec import pack, unpack_as
from broker.errors import ConfigError, MalformedMessage
from broker.link import Delivery, Link, MqttLink
from broker.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerMetrics,
    TrainerState,
)
from cloud_trainer.config import TrainerConfig
from cloud_trainer.segment import CloudSegment
from cloud_trainer.session import RobotSession
from cloud_trainer.summary import fleet_summary
from cloud_trainer.trainer import CloudTrainer, fastest_compute
from hierarchy.checkpoint import load_checkpoint, save_checkpoint
from hierarchy.command_line import Notice, SparseLog, StopRequest
from hierarchy.device import choose_device, set_threads
from hierarchy.learner import restore_weights
from hierarchy.run_folder import RunFolder

METRICS_SECONDS = 0.5
REPORT_SECONDS = 5.0
# Samples that wait for a full step are trained on when a robot has been silent for this long.
SILENCE_SECONDS = 3.0

log = logging.getLogger("cloud-trainer")


def run(config: TrainerConfig) -> None:
    """Train for every robot at the broker until Ctrl-C; then write checkpoints, summary and curves."""
    set_threads(config.threads)
    choose_device(config.device)  # a missing one should be said before a folder is made
    state = TrainerState(boot=secrets.token_hex(8), started=time.time(), online=True, trouble="")
    topic = topics.topic("trainer", config.trainer, "state")
    farewell = (topic, pack(dataclasses.replace(state, online=False)))
    with StopRequest() as stop:
        folder = RunFolder(config.run_path, config.as_toml())
        link = MqttLink(config.broker, f"{config.trainer}-{state.boot}", will=farewell)
        node = TrainerNode(config, state, link, folder)
        try:
            while not stop.made:
                node.turn(timeout=0.2)
        finally:
            node.finish()
            link.close(farewell)
    log.info("the run is in %s", folder.path)


class TrainerNode:
    """Reads the broker and lets each robot's session train."""

    def __init__(self, config: TrainerConfig, state: TrainerState, link: Link, folder: RunFolder) -> None:
        self._config = config
        self._state = state
        self._link = link
        self._folder = folder
        self._sessions: dict[str, RobotSession] = {}
        self._refused: dict[str, tuple[str, str]] = {}  # robot -> boot that cannot be trained for, and why
        self._rejected = 0  # before they reached a session
        self._garbage = SparseLog(log)
        self._robot_metrics: dict[str, RobotMetrics] = {}
        self._published: dict[str, TrainerMetrics] = {}
        self._heard: dict[str, float] = {}
        self._notice = Notice(log)
        self._connection = 0
        self._next_heartbeat = self._next_metrics = self._next_report = 0.0
        self._reported: dict[str, int] = {}
        # States first: they say what the activations behind them are.
        for channel in ("state", "metrics", "activations"):
            link.subscribe(topics.topic("robot", topics.ANYONE, channel))

    def turn(self, timeout: float) -> None:
        """Take in one message, waiting up to timeout seconds for it, and do what the clock asks for."""
        delivery = self._link.receive(timeout)
        if delivery:
            self._take(delivery)
        now = time.monotonic()
        self._say_what_is_missing()
        for robot, session in self._sessions.items():
            if session.waiting and now > self._heard[robot] + SILENCE_SECONDS:
                self._flush(robot)
        if self._link.connections != self._connection or now >= self._next_heartbeat:
            self._announce(now)
        if now >= self._next_metrics:
            self._next_metrics = now + METRICS_SECONDS
            self._publish_metrics()
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._report()

    def finish(self) -> None:
        """Train on what has come, and write everything down."""
        for robot in self._sessions:
            self._flush(robot)
            self._save(robot)
        self._publish_metrics()
        figures = {robot: session.figures() for robot, session in self._sessions.items()}
        by_class = {robot: session.held_out.by_class for robot, session in self._sessions.items()}
        classes = {robot: session.trainer.classes for robot, session in self._sessions.items()}
        self._folder.finish(fleet_summary(figures, self._robot_metrics, classes, by_class, self._rejected))

    def _take(self, delivery: Delivery) -> None:
        try:
            topic = topics.parse(delivery.topic)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a message: {error}")
            return
        robot = topic.name
        try:
            match topic.channel:
                case "state":
                    self._take_state(robot, unpack_as(RobotState, delivery.payload))
                case "metrics":
                    self._take_metrics(robot, unpack_as(RobotMetrics, delivery.payload))
                case "activations":
                    self._take_batch(robot, unpack_as(ActivationBatch, delivery.payload))
        except MalformedMessage as error:
            self._reject(robot, str(error))

    def _reject(self, robot: str, reason: str) -> None:
        self._rejected += 1
        self._garbage.warn(f"robot {robot}: message rejected: {reason}")

    def _take_state(self, robot: str, state: RobotState) -> None:
        session = self._sessions.get(robot)
        if not state.online:
            if session and session.state.boot == state.boot:
                log.info("robot %s has gone", robot)
                self._flush(robot)
                self._save(robot)
        elif session and session.state.boot == state.boot:
            pass  # a heartbeat
        elif session and state.weights == "checkpoint" and session.state.split == state.split:
            log.info("robot %s is back, going on from its checkpoint", robot)
            session.rejoin(state)
        elif self._refused.get(robot, ("", ""))[0] != state.boot:
            self._open_session(robot, state)

    def _take_metrics(self, robot: str, metrics: RobotMetrics) -> None:
        session = self._sessions.get(robot)
        if session and session.state.boot == metrics.boot:
            self._robot_metrics[robot] = metrics

    def _flush(self, robot: str) -> None:
        try:
            self._sessions[robot].flush()
        except MalformedMessage as error:
            self._reject(robot, str(error))

    def _open_session(self, robot: str, state: RobotState) -> None:
        self._sessions.pop(robot, None)
        try:
            trainer = self._new_trainer(robot, state)
        except ConfigError as error:
            log.warning("robot %s cannot be trained for: %s", robot, error)
            self._refused[robot] = (state.boot, str(error))
            return
        memory = int(self._config.rehearsal_mb * 1e6 / max(1, torch.Size(state.split.shape).numel()))
        self._sessions[robot] = RobotSession(
            robot, state, trainer, batch=self._config.batch, memory=memory, seed=self._config.seed
        )
        self._heard[robot] = time.monotonic()
        self._reported[robot] = 0

    def _new_trainer(self, robot: str, state: RobotState) -> CloudTrainer:
        torch.manual_seed(self._config.seed)
        split = state.split
        segment = CloudSegment(split, pretrained=state.weights == "default")
        if self._config.weights != "none":
            parts, about = load_checkpoint(Path(self._config.weights) / "checkpoint" / robot)
            try:
                restore_weights(segment, segment.head, parts, about)
            except RuntimeError as error:
                raise ConfigError(f"--weights {self._config.weights}: not of this split: {error}") from error
        compute = fastest_compute(segment, split.shape, self._config.batch, choose_device(self._config.device))
        log.info("robot %s: %s from %s on, %s", robot, split.backbone, split.cut, compute)
        return CloudTrainer(segment, compute=compute, peak_learning_rate=self._config.learning_rate)

    def _take_batch(self, robot: str, batch: ActivationBatch) -> None:
        self._heard[robot] = time.monotonic()
        session = self._sessions.get(robot)
        refused_boot, reason = self._refused.get(robot, ("", ""))
        if refused_boot == batch.boot:
            self._reject(robot, reason)
            self._send_receipt(
                robot,
                Receipt(boot=batch.boot, sequence=batch.sequence, outcome="rejected", reason=reason[:400]),
            )
            return
        if session is None:
            return  # its state has not come in yet; the robot sends the batch again
        steps = session.trainer.steps
        receipt = session.accept(batch)
        if receipt is None:
            return
        if receipt.outcome == "rejected":
            self._garbage.warn(f"robot {robot}: message rejected: {receipt.reason}")
        if session.trainer.steps > steps:
            figures = session.figures()
            self._folder.add_metrics(
                robot=robot,
                images=figures.images,
                classes=figures.classes,
                cloud_loss=figures.cloud_loss,
                cloud_prequential=session.prequential.recent,
            )
        self._send_receipt(robot, receipt)

    def _send_receipt(self, robot: str, receipt: Receipt) -> None:
        self._link.publish(topics.topic("robot", robot, "receipt"), pack(receipt), qos=1)

    def _announce(self, now: float) -> None:
        topic = topics.topic("trainer", self._config.trainer, "state")
        if self._link.publish(topic, pack(self._state), qos=1, retain=True):
            self._connection = self._link.connections
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._published.clear()  # metrics are QoS 0: say them again, in case some were lost

    def _publish_metrics(self) -> None:
        topic = topics.topic("trainer", self._config.trainer, "metrics")
        for robot, session in self._sessions.items():
            figures = session.figures()
            if self._published.get(robot) != figures and self._link.publish(topic, pack(figures)):
                self._published[robot] = figures

    def _say_what_is_missing(self) -> None:
        if not self._link.connected:
            self._notice.say(f"waiting for the broker ({self._link.trouble})")
        elif not self._sessions:
            self._notice.say("connected; waiting for robots")
        else:
            self._notice.say("")

    def _report(self) -> None:
        for robot, session in self._sessions.items():
            figures = session.figures()
            if figures.images > self._reported[robot] and figures.cloud_loss is not None:
                self._reported[robot] = figures.images
                log.info(
                    "robot %s: %s images, %d classes, loss %.2f, prequential accuracy %.1f %%",
                    robot,
                    f"{figures.images:,}",
                    figures.classes,
                    figures.cloud_loss,
                    100 * (session.prequential.recent or 0),
                )

    def _save(self, robot: str) -> None:
        session = self._sessions[robot]
        parts, about = session.trainer.learner.state()
        split = dataclasses.asdict(session.state.split)
        save_checkpoint(self._folder.checkpoint / robot, parts, {**about, "split": split})
