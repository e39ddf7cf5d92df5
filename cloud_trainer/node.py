"""The cloud trainer's loop: the one file where broker, store, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from broker.errors import EXIT_INTERRUPTED, ConfigError, NameTaken, NothingDone, StorageError
from broker.link.base import Link
from broker.link.inbox import everything
from broker.link.mqtt import MqttLink
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.config import TrainerConfig
from cloud_trainer.fleet import Fleet
from cloud_trainer.incoming import Incoming
from cloud_trainer.other_trainers import OtherTrainers
from cloud_trainer.outgoing import Outgoing
from cloud_trainer.page.board import Board, FleetState, Rows
from cloud_trainer.store import STORE, Store, damage_explained, open_store
from cloud_trainer.summary import fleet_summary
from cloud_trainer.training import Training
from hierarchy.device import choose_device, set_threads
from hierarchy.runtime.command_line import Notice, StopRequest, end_at_once
from hierarchy.runtime.page import page_server
from hierarchy.runtime.run_folder import METRICS, RunFolder

if TYPE_CHECKING:
    from hierarchy.runtime.page.server import PageServer

METRICS_SECONDS = 0.5
REPORT_SECONDS = 5.0
PAGE_SECONDS = 1.0
# At the end a checkpoint that the disk does not take is tried again so often, for so long: systemd gives two minutes.
LAST_RETRY_SECONDS, LAST_SAVE_SECONDS = 2.0, 30.0

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
        self.not_saved: StorageError | None = None  # what to end with, where the disk did not take all at the end
        self._config = config
        self._link = link
        self._folder = folder
        self._store = store
        self._training = training
        self._fleet = training.fleet
        self._robots = self._fleet.robots
        self._others = OtherTrainers(config.trainer, state)
        self._outgoing = Outgoing(state, config.trainer, link, self._others, self._robots)
        self._incoming = Incoming(config, link, folder.path, store, training, self._others, self._outgoing)
        self._board = board
        self._rows = Rows(folder.checkpoint)
        self._notice = Notice(log)
        self._next_post = self._next_metrics = self._next_report = 0.0

    def turn(self, timeout: float) -> None:
        """Store what came, waiting up to timeout seconds for it, and say what is due.

        Raises what ended training, if that was a failure: a trainer that does not train must not seem to be there.
        """
        self._training.thread.check()
        self._incoming.hear_training()
        self._incoming.take_in(timeout)
        self._incoming.have_next_prepared()
        now = time.monotonic()
        self._outgoing.say_what_is_missing()
        self._outgoing.beat(now)
        if now >= self._next_metrics:
            self._next_metrics = now + METRICS_SECONDS
            self._outgoing.publish_metrics(now)
        if self._board and now >= self._next_post:
            self._next_post = now + PAGE_SECONDS
            self._post(self._board, now)
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._outgoing.report()
            self._incoming.look_again()
            self._mind_the_disk(now)

    def _mind_the_disk(self, now: float) -> None:
        if problem := self._training.full or self._training.held_up():
            self._outgoing.pause(problem)
        else:
            self._outgoing.resume_if_due(now)

    def _post(self, board: Board, now: float) -> None:
        """Tell the page what is so."""
        wall, strangers = time.time(), self._incoming.strangers
        board.state = FleetState(
            robots=tuple(self._rows.row(robot, now, wall) for robot in self._robots.values()),
            store_bytes=self._store.bytes_used,
            store_limit=self._config.store_gb * 1e9,
            link="" if self._link.connected else f"no broker: {self._link.trouble}",
            trouble=self._outgoing.problem,
            strangers=tuple(strangers.rejections),
            strangers_rejected=strangers.rejected,
            strangers_dropped=strangers.dropped,
        )

    # The end

    def finish(self) -> None:
        """Write everything down, when training has ended. What is not trained on yet waits for the next start."""
        self._fleet.close()
        now = time.monotonic()
        self._save_last()
        self._outgoing.publish_metrics(now)
        if waiting := sum(robot.messages_waiting for robot in self._robots.values() if robot.training.session):
            log.info("%s messages are stored and wait for training", f"{waiting:,}")
        self._folder.finish(self._summary(now))
        self._folder.disk.missing |= self._fleet.disk.missing
        self.not_saved = self._folder.disk.error(
            f"What has a receipt is in {STORE}: the same --run-dir trains on it again where it is in no checkpoint"
        )

    def _summary(self, now: float) -> dict[str, Any]:
        trained = {name: (robot, its) for name, robot in self._robots.items() if (its := robot.training.session)}
        return fleet_summary(
            {name: metrics for name, (robot, _) in trained.items() if (metrics := robot.trainer_metrics(now))},
            {name: robot.metrics for name, (robot, _) in trained.items() if robot.metrics},
            {name: session.trainer.classes for name, (_, session) in trained.items()},
            {name: session.held_out.by_class for name, (_, session) in trained.items()},
            {name: session.rounds() for name, (_, session) in trained.items()},
            self._incoming.strangers.rejected,
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
        return "" if any(robot.entered for robot in self._robots.values()) else NOTHING_CAME

    def nothing_learned(self) -> str:
        """Say why nothing was learned, where robots came and were refused; empty where something was, or none came."""
        if any(robot.training.steps for robot in self._robots.values()):
            return ""
        reasons = {name: robot.refusal for name, robot in self._robots.items() if robot.refusal}
        if not reasons:
            return ""
        robot, reason = next(iter(reasons.items()))
        return (
            f"NOTHING WAS LEARNED: {len(reasons)} of {len(self._robots)} robots were refused, robot {robot}: {reason}"
        )
