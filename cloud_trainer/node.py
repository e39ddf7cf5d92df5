"""The cloud trainer's loop: the one file where broker, store, disk and clock meet training."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from broker.errors import StorageError
from broker.link.base import Link
from broker.wire.messages import TrainerState
from cloud_trainer.config import TrainerConfig
from cloud_trainer.messages.incoming import Incoming
from cloud_trainer.messages.other_trainers import OtherTrainers
from cloud_trainer.messages.outgoing import Outgoing
from cloud_trainer.page.model import FleetState, PageModel
from cloud_trainer.page.rows import Rows
from cloud_trainer.page.tracked import RobotsTracking
from cloud_trainer.robots.training import Training
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import STORE
from cloud_trainer.summary import fleet_summary
from hierarchy.runtime.command_line import Notice
from hierarchy.runtime.run_folder import RunFolder
from hierarchy.runtime.tracking.trackers import Trackers

METRICS_SECONDS = 0.5
REPORT_SECONDS = 5.0
PAGE_SECONDS = 1.0
# At the end a checkpoint that the disk does not take is tried again so often, for so long: systemd gives two minutes.
LAST_RETRY_SECONDS, LAST_SAVE_SECONDS = 2.0, 30.0

NOBODY_CAME = "No robot came, so nothing was learned"
NOTHING_CAME = "No robot sent anything to learn from"

logger = logging.getLogger("cloud-trainer")


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
        page_model: PageModel | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        """page_model: where what the page shows is replaced. trackers: that are told each robot's figures."""
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
        self._page_model = page_model
        self._tracking = RobotsTracking(trackers=trackers) if trackers else None
        self._rows = Rows(folder.path, training.exits.newest)
        self._notice = Notice(logger)
        self._bytes_used = 0
        self._next_post = self._next_metrics = self._next_report = 0.0

    def turn(self, timeout: float) -> None:
        """Store what came, waiting up to timeout seconds for it, and say what is due.

        Raises what ended training, if that was a failure: a trainer that does not train must not seem to be there.
        """
        self._training.thread.check()
        self._incoming.hear_training()
        self._incoming.take_in(timeout)
        self._incoming.have_next_prepared()
        self._training.exits.listen()
        now = time.monotonic()
        self._outgoing.say_what_is_missing()
        self._outgoing.beat(now)
        if now >= self._next_metrics:
            self._next_metrics = now + METRICS_SECONDS
            self._outgoing.publish_metrics(now)
        if self._page_model and now >= self._next_post:
            self._next_post = now + PAGE_SECONDS
            self._post(self._page_model, now)
        if self._tracking:
            self._tracking.post(self._robots.values(), now)
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

    def _post(self, page_model: PageModel, now: float) -> None:
        """Tell the page what is so."""
        wall, strangers = time.time(), self._incoming.strangers
        page_model.state = FleetState(
            robots=tuple(self._rows.row(robot, now, wall) for robot in self._robots.values()),
            store_bytes=self._store_bytes(),
            store_limit=self._config.store_gb * 1e9,
            link="" if self._link.connected else f"no broker: {self._link.problem}",
            problem=self._outgoing.problem,
            strangers=tuple(strangers.rejections),
            strangers_rejected=strangers.rejected,
            strangers_dropped=strangers.dropped,
        )

    def _store_bytes(self) -> int:
        """Return what the store holds, or held when it could be asked last."""
        with suppress(StorageError):
            self._bytes_used = self._store.bytes_used
        return self._bytes_used

    # The end

    def finish(self) -> None:
        """Write everything down, when training has ended. What is not trained on yet waits for the next start."""
        self._fleet.preparer.close()
        now = time.monotonic()
        self._save_last()
        self._outgoing.publish_metrics(now)
        if self._tracking:
            self._tracking.post(self._robots.values(), now, is_last=True)
        if waiting := sum(robot.messages_waiting for name, robot in self._robots.items() if self._trains(name)):
            logger.info("%s messages are stored and wait for training", f"{waiting:,}")
        self._folder.finish(self._summary(now))
        self._folder.disk.missing |= self._fleet.disk.missing
        self.not_saved = self._folder.disk.error(
            f"What has a receipt is in {STORE}: the same --run-dir trains on it again where it is in no checkpoint"
        )

    def _summary(self, now: float) -> dict[str, Any]:
        trained = {
            name: (robot, its)
            for name, robot in self._robots.items()
            if (its := self._fleet.training_of(name).session) and name in its.members
        }
        return fleet_summary(
            {name: metrics for name, (robot, _) in trained.items() if (metrics := robot.trainer_metrics(now))},
            {name: robot.metrics for name, (robot, _) in trained.items() if robot.metrics},
            {name: session.trainer.classes for name, (_, session) in trained.items()},
            {name: session.members[name].rounds.newest.by_class for name, (_, session) in trained.items()},
            {name: session.members[name].rounds.accuracies() for name, (_, session) in trained.items()},
            self._incoming.strangers.rejected,
            {name: robot.training.log for name, (robot, _) in trained.items()},
        )

    def _trains(self, robot: str) -> bool:
        return self._fleet.training_of(robot).session is not None

    def _save_last(self) -> None:
        """Write all checkpoints; those that the disk does not take are tried again for a while."""
        give_up = time.monotonic() + LAST_SAVE_SECONDS
        left = [log for log in self._fleet.trainings if not self._fleet.save(log)]
        try:
            while left and time.monotonic() < give_up:
                self._notice.say(f"trying again for {LAST_SAVE_SECONDS:.0f} s to write what is missing")
                time.sleep(LAST_RETRY_SECONDS)
                left = [log for log in left if not self._fleet.save(log)]
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
