"""A robot's network on the disk: its checkpoint, and the network of a run that the robot has left."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from pathlib import PurePosixPath

from broker.errors import ConfigError, StorageError, Superseded
from cloud_trainer.checkpoints import CHECKPOINTS, FORMER, CheckpointFile, CheckpointPlace, checkpoint_name
from cloud_trainer.logs import title
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.store.log import Store
from hierarchy.runtime.disk import DiskWatch

log = logging.getLogger("cloud-trainer")


class SavedNetwork:
    """Writes and reads them.

    cursor, steps: of the session in the last checkpoint. file: when that was written and what it takes; None where
    there is none.
    """

    def __init__(self, log: str, place: CheckpointPlace, store: Store, disk: DiskWatch) -> None:
        self.cursor = 0
        self.steps = 0
        self.file: CheckpointFile | None = None
        self._log = log
        self._own = f"{CHECKPOINTS}/{log}"
        self._place = place
        self._store = store
        self._disk = disk

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint. Raises StorageError where that cannot be told now."""
        name = checkpoint_name(self._log, self._store)
        if name:
            self._look(name)
        return bool(name) and self.file is not None

    @property
    def lost(self) -> str:
        """What there is to say where a database names a checkpoint that does not exist; empty where it names none."""
        name = checkpoint_name(self._log, self._store) if self._store.is_remote else ""
        if not name or self.file is not None:
            return ""
        return (
            f"its checkpoint {self._place.where(name)} is not there: was it made with another --checkpoints? Its "
            f"network is trained {self._again}"
        )

    def _look(self, name: str) -> None:
        try:
            self.file = self._place.look(name)
        except OSError as error:
            raise StorageError(f"the checkpoint of {title(self._log)} cannot be looked at: {error}") from error

    def write(self, session: Session, start: bytes) -> bool:
        """Write a checkpoint; False where the disk does not take it. start: the event that the session began with.

        Raises Superseded.
        """
        what = f"the checkpoint of {title(self._log)}"
        self.steps = session.trainer.steps  # where it fails, not again at every step
        state = replace(session.checkpoint(), start=start.decode())
        try:
            if self._store.is_remote:
                self._write_named(state)
            else:
                self._place.save(self._own, state)
                self._look(self._own)
        except (OSError, StorageError) as error:
            self._disk.failed(what, error, ", training goes on without")
            return False
        self.cursor = session.cursor
        self._disk.written(what)
        return True

    def _write_named(self, state: SessionState) -> None:
        """Write a checkpoint beside the former one, and let it hold from one moment on: that of a commit.

        Another process may own the log by now. Then its checkpoint goes on to hold, and this one is deleted.
        """
        epoch = self._store.claims[self._log]
        name = f"{epoch}-{state.cursor}-{secrets.token_hex(4)}"
        self._place.save(f"{self._own}/{name}", state)
        try:
            self._store.name_checkpoint(self._log, name)
        except Superseded:
            self._delete(f"{self._own}/{name}")
            raise
        self._look(f"{self._own}/{name}")
        # What a process of a later epoch writes is not there yet, or named already: then this one was refused.
        for other in self._place.names(self._own):
            if other != f"{self._own}/{name}" and _epoch(other) <= epoch:
                self._delete(other)

    def _delete(self, name: str) -> None:
        try:
            self._place.delete(name)
        except OSError as error:
            log.warning("the former checkpoint %s cannot be deleted: %s", self._place.where(name), error)

    def keep_former(self, session: Session) -> None:
        """Keep the network of a run that its robot has left; only the last one, as each takes some 100 MB."""
        try:
            self._place.save(f"{FORMER}/{self._own}", session.checkpoint())
        except OSError as error:
            log.warning("the former network of %s cannot be kept: %s", title(self._log), error)

    def load(self) -> SessionState:
        """Return the checkpoint.

        Raises ConfigError where it is damaged, or the store is not the one it belongs to, and StorageError.
        """
        name = checkpoint_name(self._log, self._store)
        saved = self._place.load(name, self._advice)
        cursor, last = saved.cursor, self._store.last_event(self._log)
        if cursor > last:
            raise ConfigError(
                f"the checkpoint {self._place.where(name)} is from event {cursor}, the store ends at {last}: put back "
                "the store that belongs to it"
            )
        states = self._store.states(self._log)
        starts = [event.payload for event in states if event.kind == "start" and event.id <= cursor]
        if starts[-1:] != [saved.start.encode()]:
            raise ConfigError(
                f"the checkpoint {self._place.where(name)} was made with another store than the one beside it: put "
                "back the store that belongs to it, or move the checkpoint away"
            )
        return saved

    def restore(self, session: Session, saved: SessionState) -> None:
        """Let a session go on from a checkpoint. Raises ConfigError where it is another network's."""
        try:
            session.restore(saved)
        except RuntimeError as error:
            raise ConfigError(
                f"the checkpoint {self._where} is of another network ({error}): {self._advice}"
            ) from error
        self.cursor, self.steps = saved.cursor, session.trainer.steps

    @property
    def _advice(self) -> str:
        """Say what to do where the checkpoint cannot be used, and what that would cost."""
        return f"put a copy of it back, or move {self._where} away: then its network is trained {self._again}"

    @property
    def _again(self) -> str:
        whole = self._store.is_whole(self._log)
        return "once more from the log, to the same weights" if whole else "from what is left of the log only"

    @property
    def _where(self) -> str:
        return self._place.where(checkpoint_name(self._log, self._store) or self._own)


def _epoch(name: str) -> int:
    """Return the epoch in which a checkpoint of that name was written."""
    return int(PurePosixPath(name).name.partition("-")[0])


def refuse_strange_checkpoints(place: CheckpointPlace, known: list[str]) -> None:
    """Raise ConfigError where there is a checkpoint without its log, as where the store was emptied or made anew.

    Raises StorageError where that cannot be told.
    """
    try:
        names = place.names(CHECKPOINTS)
    except OSError as error:
        raise StorageError(f"the checkpoints in {place.where(CHECKPOINTS)} cannot be listed: {error}") from error
    for name in names:
        log_name = PurePosixPath(name).parts[1]
        if log_name not in known:
            raise ConfigError(
                f"the store beside {place.where(f'{CHECKPOINTS}/{log_name}')} knows no robot of that name: put back "
                "the store that belongs to it, or move the checkpoint away"
            )
