"""A trainer that works beside its caller: `cloud_trainer.Trainer`, which `cloud-trainer run` is built on."""

from __future__ import annotations

import dataclasses
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from broker.errors import EXIT_INTERRUPTED, ConfigError, NameTaken, NothingDone, NotOpen, StorageError
from broker.link.connect import connect
from broker.program.threads import LoudThread
from broker.security.credentials import payload_keys_for
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.checkpoints import checkpoint_place
from cloud_trainer.config import TrainerConfig
from cloud_trainer.node import TrainerNode
from cloud_trainer.page.model import PageModel
from cloud_trainer.robots.fleet import Fleet
from cloud_trainer.robots.robot import Phase, Robot
from cloud_trainer.robots.training import Training
from cloud_trainer.store.opening import STORE, check_store, has_moved, is_there, open_again, open_store, store_place
from cloud_trainer.store.sqlite_file import damage_explained
from hierarchy.device import choose_device, set_threads
from hierarchy.runtime.command_line import StopRequest, end_at_once
from hierarchy.runtime.page import page_server
from hierarchy.runtime.run_folder import METRICS, RunFolder
from hierarchy.runtime.settings import from_flat
from hierarchy.runtime.tracking.trackers import Trackers

if TYPE_CHECKING:
    from hierarchy.runtime.page.server import PageServer

# How long a turn of taking in waits for a message, and so for how long nobody hears that it is to end.
TURN_SECONDS = 0.2
# How often wait() looks.
POLL_SECONDS = 0.1

log = logging.getLogger("cloud-trainer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotView:
    """What is known of a robot at one moment. Shares are of 1; None where not known yet.

    state: "known" from a former run, "preparing" its network, "waiting" for samples, "training", or one of those in
    which nothing of it is taken: "refused", "stuck", "too costly", "quarantined". reason: why, empty where it is taken.
    online: whether it is there. samples: learned from. messages_waiting: stored, and not learned from yet. loss: of the
    last step. recent: share of the last thousand that was named right before it was learned from. accuracy, by_class:
    on held-out frames.
    """

    name: str
    state: Phase
    reason: str
    online: bool
    samples: int
    messages_waiting: int
    classes: tuple[str, ...]
    loss: float | None
    recent: float | None
    accuracy: float | None
    by_class: Mapping[str, float]


class Trainer:
    """Trains the cloud's half for every robot at a broker, on threads of its own, until it is closed.

        with Trainer(broker="mqtt://localhost", run_dir="runs/cloud") as trainer:
            trainer.wait(until=lambda it: any(robot.samples > 1000 for robot in it.robots.values()))

    The settings are the flags of `cloud-trainer run`, with underscores, apart from --config.
    """

    def __init__(self, **settings: Any) -> None:
        """Take the settings; nothing is opened yet. Raises ConfigError for those that cannot work."""
        self._set_up(from_flat(TrainerConfig, settings))

    @classmethod
    def of(cls, config: TrainerConfig) -> Trainer:
        """Return a trainer with those settings."""
        trainer = cls.__new__(cls)
        trainer._set_up(config)
        return trainer

    def _set_up(self, config: TrainerConfig) -> None:
        self._config = config
        self._opened = ExitStack()
        self._thread = LoudThread("messages", self._take_in, restarts=False)
        self._is_open = self._was_opened = False

    # From opening to closing

    def open(self) -> None:
        """Begin. Raises ConfigError, and MachineError where the disk does not take what a run writes."""
        if self._was_opened:
            raise ConfigError("a Trainer opens once: make another one, which goes on with the run")
        config = self._config
        credentials = credentials_for(config.broker, config.credentials)
        keys = payload_keys_for(config.payload_key, credentials)
        config.track.check_installed()
        set_threads(config.threads)
        device = choose_device(config.device)  # a missing one should be said before a folder is made
        state = TrainerState(
            boot=secrets.token_hex(8), started=time.time(), online=True, trouble="", metrics_by_robot=True
        )
        topic = topics.topic("trainer", config.trainer, "state")
        self._farewell = (topic, pack(dataclasses.replace(state, online=False)))
        self.run_dir: Path = config.run_path
        self._store_place = store_place(config.store) if config.store else self.run_dir / STORE
        place = checkpoint_place(config.checkpoints or self.run_dir)
        if (self.run_dir / METRICS).exists() and not is_there(self._store_place):
            if has_moved(self._store_place):
                raise ConfigError(
                    f"the run in {self.run_dir} has moved (`cloud-trainer store move`): give --store the place where "
                    "it is now, or choose another --run-dir"
                )
            raise ConfigError(
                f"{self.run_dir} holds a run, but not a trainer's, or one whose {STORE} is gone: put that back, or "
                "choose another --run-dir"
            )
        with ExitStack() as opened:
            opened.enter_context(damage_explained(self._store_place))
            page = opened.enter_context(page_server(config.page, config.trainer))
            settings = config.training(torch.get_num_threads())
            check_store(self._store_place, settings)  # what is refused keeps its config.toml
            folder = opened.enter_context(closing(RunFolder(self.run_dir, config.as_toml())))
            store = opened.enter_context(closing(open_store(self._store_place, settings)))
            self._training_store = opened.enter_context(
                closing(open_again(self._store_place, beside=store, waits=True))
            )
            self._link = connect(
                config.broker,
                config.trainer,
                will=self._farewell,
                credentials=credentials,
                keys=keys,
            )
            opened.callback(self._link.close)
            trackers = Trackers(config.track, self.run_dir, name=config.trainer, settings=config.as_toml())
            opened.callback(trackers.close)
            page_model = PageModel(config.trainer) if page else None
            self._fleet = Fleet(config, self._training_store, self.run_dir, device, place)
            self._training = Training(config, self._link, folder, self._fleet, state.boot)
            self._node = TrainerNode(config, state, self._link, folder, store, self._training, page_model, trackers)
            folder.drop_summary()  # of a former process, and the run is not over yet
            if page and page_model:
                _show(page, page_model)
            self._opened = opened.pop_all()
        self._training.start()
        self._thread.start()
        self._is_open = self._was_opened = True

    def _take_in(self, ending: threading.Event) -> None:
        with damage_explained(self._store_place):
            while not ending.is_set():
                self._node.turn(TURN_SECONDS)

    def close(self, *, at_once: bool = False) -> None:
        """End training, and write checkpoints, summary and curves.

        at_once: without those, as where Ctrl-C interrupts it. What no checkpoint holds is in the log, for the next
        start.
        Raises what ended training before, and StorageError where the disk did not take all.
        """
        if not self._is_open:
            return
        self._is_open = False
        farewell: tuple[str, bytes] | None = self._farewell
        whole = not at_once  # no step is broken off
        with self._opened as opened:
            try:
                self._training_store.give_up()  # it goes on with the next start
                self._thread.close()
                self._thread.check()
                if whole:
                    self._training.close()
                    self._training.thread.check()
                    self._settle()
            except NameTaken:
                farewell = None  # the state at the broker is the other's
                raise
            except KeyboardInterrupt:
                whole = False
                raise
            finally:
                self._training.close(None if whole else 0.0)
                if whole:
                    self._node.finish()
                self._link.close(farewell)
                if self.is_in_a_step:
                    self._fleet.preparer.close()
                    opened.pop_all()  # the step still uses it
        if self._node.not_saved:
            raise self._node.not_saved

    def _settle(self) -> None:
        try:
            self._training.settle()
        except StorageError as error:  # what is not settled is in the log, or was never asked for
            log.warning("idle rehearsal is not brought to its end: %s", error)

    def __enter__(self) -> Trainer:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self.close()

    @property
    def is_in_a_step(self) -> bool:
        """Whether training is in the middle of a step, which nothing breaks off, though the trainer is closed."""
        return not self._is_open and self._training.thread.is_alive

    # Beside it

    @property
    def robots(self) -> Mapping[str, RobotView]:
        """What is known of each robot by now, by name."""
        self._check()
        return {name: _view(robot) for name, robot in dict(self._fleet.robots).items()}

    def wait(self, until: Callable[[Trainer], bool] | None = None, timeout: float | None = None) -> bool:
        """Wait until a condition holds, for so many seconds at most; return whether it does.

        until: looked at a few times a second; none never holds. Raises what ended training.
        """
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            self._check()
            if until and until(self):
                return True
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(POLL_SECONDS, left))

    def save(self) -> None:
        """Write a checkpoint of each robot's network. Raises StorageError, and what ended training."""
        self._check()
        self._training.save()

    def _check(self) -> None:
        if not self._is_open:
            raise NotOpen("the trainer is not open: use it as a context manager, `with Trainer(...) as trainer:`")
        self._thread.check()
        self._training.thread.check()

    # The end

    @property
    def what_came(self) -> str:
        """Why nothing was learned though nothing was wrong; empty where anything was."""
        return self._node.what_came

    @property
    def nothing_learned(self) -> str:
        """Why nothing was learned, where robots came and were refused; empty where something was, or none came."""
        return self._node.nothing_learned()


def _view(robot: Robot) -> RobotView:
    now, standing = time.monotonic(), robot.standing
    metrics = standing.metrics if standing else None
    return RobotView(
        name=robot.name,
        state=robot.phase(now),
        reason=robot.problem(now),
        online=robot.online,
        samples=metrics.images if metrics else 0,
        messages_waiting=robot.messages_waiting,
        classes=standing.classes if standing else (),
        loss=metrics.cloud_loss if metrics else None,
        recent=metrics.cloud_recent if metrics else None,
        accuracy=metrics.cloud_accuracy if metrics else None,
        by_class=standing.by_class if standing else {},
    )


def _show(server: PageServer, page_model: PageModel) -> None:
    from cloud_trainer.page.app import build

    server.start(lambda app: build(app, page_model))


def run(config: TrainerConfig) -> None:
    """Train for every robot at the broker until Ctrl-C; then write checkpoints, summary and curves.

    A second Ctrl-C ends it at once; nothing that has a receipt is lost.

    Raises ConfigError, NameTaken where another trainer with this name is online, StorageError where the disk did not
    take all of it, and NothingDone where robots came and nothing could be learned from any.
    """
    with StopRequest() as stop:
        path, missing = train(config, lambda: stop.made)
    log.info("the run is in %s; the same --run-dir goes on from here%s", path, f". {missing}" if missing else "")


def train(config: TrainerConfig, stopped: Callable[[], bool]) -> tuple[Path, str]:
    """Do the same until ``stopped`` says so.

    Return the run's folder, and why nothing was learned though nothing was wrong, empty where anything was.
    """
    trainer = Trainer.of(config)
    try:
        with trainer:
            try:
                trainer.wait(until=lambda _: stopped())
            except KeyboardInterrupt:  # a second Ctrl-C right behind the first
                trainer.close(at_once=True)
                raise
    except KeyboardInterrupt:  # the second Ctrl-C
        if trainer.is_in_a_step:
            end_at_once(EXIT_INTERRUPTED)
        raise
    if nothing := trainer.nothing_learned:
        raise NothingDone(nothing)
    return trainer.run_dir, trainer.what_came
