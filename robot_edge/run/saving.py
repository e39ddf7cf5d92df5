"""What saves a robot's run: checkpoints on the way, the last one, and a place elsewhere where the disk is full."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import tomli_w

from broker.errors import ConfigError
from broker.program.machine import refused
from hierarchy.runtime.checkpoint import CHECKPOINT, save_checkpoint, tensors_of
from hierarchy.runtime.command_line import Notice, StopRequest
from hierarchy.runtime.disk import other_place
from hierarchy.runtime.run_folder import CONFIG, RunFolder, refuse_other_program
from robot_edge.run.checkpoint import LAYOUT, RunState, checkpoint_of
from robot_edge.run.config import RobotConfig
from robot_edge.run.identity import RUN, run_identity
from robot_edge.run.kept_look import LOOK
from robot_edge.run.secret_seed import keep_seed
from robot_edge.uplink.outbox import Outbox

# A checkpoint that the disk did not take is tried again this often, not at every step; and at the end for so long:
# less than systemd gives a stopped robot.
RETRY_SECONDS, LAST_SAVE_SECONDS = 10.0, 30.0
# Between two tries at the end: somebody may be making room just then.
LAST_RETRY_SECONDS = 2.0
CHECKPOINT_NAME = "the checkpoint"

log = logging.getLogger("robot-edge")


class Saving:
    """Writes a run's checkpoints. saved_steps: those of which the last one knows."""

    def __init__(self, config: RobotConfig, state: RunState, outbox: Outbox, folder: RunFolder, stop: StopRequest):
        self.saved_steps = state.trainer.steps
        self._config = config
        self._state = state
        self._outbox = outbox
        self._folder = folder
        self._stop = stop
        self._notice = Notice(log)
        self._again_at = -math.inf  # after the disk did not take one
        self._elsewhere: Path | None = None  # the last checkpoint, where the run's disk did not take it

    @property
    def unsaved_steps(self) -> int:
        """How many steps would be lost if the process ended now."""
        return self._state.trainer.steps - self.saved_steps

    def save_now_and_then(self) -> None:
        """Write a checkpoint where one is due."""
        if self.unsaved_steps >= self._config.learning.checkpoint_every and time.monotonic() >= self._again_at:
            self.save()
        self._folder.disk.remind()

    def save(self) -> bool:
        """Write a checkpoint, if anything was learned. Return False where the disk does not take it."""
        if self._state.trainer.steps == 0:
            return True
        try:
            # In this order: a checkpoint that is ahead of the outbox would skip what the outbox has not got.
            if not self._outbox.sync(time.monotonic()):
                raise OSError(f"the outbox takes no more: {self._outbox.trouble}")
            save_checkpoint(self._folder.checkpoint, LAYOUT, checkpoint_of(self._state))
        except OSError as error:
            self._folder.disk.failed(CHECKPOINT_NAME, error, ", training goes on without")
            self._again_at = time.monotonic() + RETRY_SECONDS
            return False
        self.saved_steps = self._state.trainer.steps
        self._folder.disk.written(CHECKPOINT_NAME)
        return True

    def copy_to(self, path: Path, settings: dict[str, Any]) -> None:
        """Write a copy of the run into another folder, with those settings. Raises ConfigError, and MachineError."""
        if (path / RUN).exists() and run_identity(path, "none") != run_identity(self._folder.path, "none"):
            raise ConfigError(f"{path} holds another run: choose another folder")
        refuse_other_program(path, settings)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / CONFIG).write_text(tomli_w.dumps(settings))
            shutil.copyfile(self._folder.path / RUN, path / RUN)
            if (self._folder.path / LOOK).exists():
                shutil.copyfile(self._folder.path / LOOK, path / LOOK)
            keep_seed(path, self._config.seed)
            self._outbox.copy_to(path / self._outbox.path.name)
            save_checkpoint(path / "checkpoint", LAYOUT, checkpoint_of(self._state))
        except OSError as error:
            raise refused(f"the copy in {path}", error, path=path) from error

    def save_last(self) -> None:
        """Write the last checkpoint; where the disk does not take it, wait a while for room, then look elsewhere."""
        give_up = time.monotonic() + LAST_SAVE_SECONDS
        stopped_before = self._stop.made
        try:
            while self.unsaved_steps and not self.save():
                left = give_up - time.monotonic()
                if left <= 0 or (self._stop.made and not stopped_before):
                    break
                self._notice.say(
                    f"trying again for {LAST_SAVE_SECONDS:.0f} s to write the checkpoint; Ctrl-C ends that"
                )
                time.sleep(min(left, LAST_RETRY_SECONDS))
        except KeyboardInterrupt:  # whoever waits no longer still wants what was learned
            pass
        if self.unsaved_steps:
            self._save_elsewhere()
        if not self._outbox.sync(time.monotonic()):
            self._folder.disk.failed("outbox.db", self._outbox.trouble)

    def how_to_go_on(self) -> str:
        """Say what is left of what was learned, and how a next run begins with it."""
        lost = self.unsaved_steps
        if self._elsewhere:
            return (
                f"What was learned is in {self._elsewhere} for now: start again with another --run-dir and "
                f"--weights {self._elsewhere}"
            )
        if lost and (self._folder.checkpoint / CHECKPOINT).exists():
            return f"The checkpoint that is there lacks the last {lost:,} steps: the same --run-dir goes on from it"
        if lost:
            return f"Nothing of what was learned in {lost:,} steps is left"
        return f"What was learned is saved: the same --run-dir {self._folder.path} goes on from it"

    def _save_elsewhere(self) -> None:
        """Keep what was learned on another disk, if there is one with room, as a folder that --weights takes."""
        state = checkpoint_of(self._state)
        size = sum(one.numel() * one.element_size() for one in tensors_of(state).values())
        try:
            place = other_place(self._folder.path, size, [Path(tempfile.gettempdir()), Path.home()])
            if place is None:
                return
            # For nobody else's eyes: it has frames in it.
            folder = Path(tempfile.mkdtemp(prefix=f"reflexarc-{self._config.robot}-", dir=place))
            save_checkpoint(folder / "checkpoint", LAYOUT, state)
            (folder / CONFIG).write_bytes((self._folder.path / CONFIG).read_bytes())
            self._elsewhere = folder
        except (OSError, RuntimeError) as error:  # a home that nobody knows is a RuntimeError
            log.warning("what was learned cannot be kept elsewhere either: %s", error)
