"""A robot's network on the disk: its checkpoint, and the network of a run that the robot has left."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from broker.errors import ConfigError
from cloud_trainer.logs import title
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_state import LAYOUT, SessionState
from cloud_trainer.store.log import Store
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hierarchy.runtime.disk import DiskWatch

# Networks of runs that their robots have left are kept in here, as in a run folder of their own.
FORMER = "former"

log = logging.getLogger("cloud-trainer")


class SavedNetwork:
    """Writes and reads them. cursor, steps: of the session in the last checkpoint."""

    def __init__(self, log: str, checkpoints: Path, store: Store, disk: DiskWatch) -> None:
        """checkpoints: folder with a checkpoint for each log that has one."""
        self.cursor = 0
        self.steps = 0
        self._log = log
        self._folder = checkpoints / log
        self._former = checkpoints.parent / FORMER / checkpoints.name / log
        self._store = store
        self._disk = disk

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return (self._folder / CHECKPOINT).exists()

    def write(self, session: Session, start: bytes) -> bool:
        """Write a checkpoint; False where the disk does not take it. start: the event that the session began with."""
        what = f"the checkpoint of {title(self._log)}"
        self.steps = session.trainer.steps  # where it fails, not again at every step
        try:
            save_checkpoint(self._folder, LAYOUT, replace(session.checkpoint(), start=start.decode()))
            self.cursor = session.cursor
        except OSError as error:
            self._disk.failed(what, error, ", training goes on without")
            return False
        self._disk.written(what)
        return True

    def keep_former(self, session: Session) -> None:
        """Keep the network of a run that its robot has left; only the last one, as each takes some 100 MB."""
        try:
            save_checkpoint(self._former, LAYOUT, session.checkpoint())
        except OSError as error:
            log.warning("the former network of %s cannot be kept: %s", title(self._log), error)

    def load(self) -> SessionState:
        """Return the checkpoint. Raises ConfigError where it is damaged, or the store is not the one it belongs to."""
        saved = load_checkpoint(self._folder, LAYOUT, self._advice)
        cursor, last = saved.cursor, self._store.last_event(self._log)
        if cursor > last:
            raise ConfigError(
                f"the checkpoint {self._folder} is from event {cursor}, the store ends at {last}: put back the store "
                "that belongs to it"
            )
        states = self._store.states(self._log)
        starts = [event.payload for event in states if event.kind == "start" and event.id <= cursor]
        if starts[-1:] != [saved.start.encode()]:
            raise ConfigError(
                f"the checkpoint {self._folder} was made with another store than the one beside it: put back the store "
                "that belongs to it, or move the checkpoint away"
            )
        return saved

    def restore(self, session: Session, saved: SessionState) -> None:
        """Let a session go on from a checkpoint. Raises ConfigError where it is another network's."""
        try:
            session.restore(saved)
        except RuntimeError as error:
            raise ConfigError(
                f"the checkpoint {self._folder} is of another network ({error}): {self._advice}"
            ) from error
        self.cursor, self.steps = saved.cursor, session.trainer.steps

    @property
    def _advice(self) -> str:
        """Say what to do where the checkpoint cannot be used, and what that would cost."""
        whole = self._store.is_whole(self._log)
        again = "once more from the log, to the same weights" if whole else "from what is left of the log only"
        return f"put a copy of it back, or move {self._folder} away: then its network is trained {again}"


def refuse_strange_checkpoints(checkpoints: Path, known: list[str]) -> None:
    """Raise ConfigError where there is a checkpoint without its log, as where the store was emptied or made anew."""
    for path in sorted(checkpoints.glob(f"*/{CHECKPOINT}")):
        if path.parent.name not in known:
            raise ConfigError(
                f"the store beside {path.parent} knows no robot of that name: put back the store that belongs to "
                "it, or move the checkpoint away"
            )
