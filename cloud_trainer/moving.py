"""`cloud-trainer store move`: a run's log and checkpoints go from a file to a database, or back.

Events keep their ids, so a checkpoint's place in the log stays what it was.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from broker.errors import ConfigError, StorageError
from cloud_trainer.checkpoints import CHECKPOINTS, FORMER, CheckpointPlace, checkpoint_name
from cloud_trainer.config import TrainingSettings
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import Place, has_moved, is_there, open_again, open_store
from hierarchy.runtime.run_folder import lock_folder

log = logging.getLogger("cloud-trainer")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's log and checkpoints."""

    store: Place
    checkpoints: CheckpointPlace


def move(source: Run, target: Run) -> list[str]:
    """Move a run; return the names of its logs. The source is left alone but for a mark that it has moved.

    All of it is there at the target, or nothing that counts: then it can be moved once more. Raises ConfigError where
    there is none, where somebody writes to it, or where the target holds a run; and StorageError.
    """
    if not is_there(source.store):
        moved = ": it has been moved already" if has_moved(source.store) else ""
        raise ConfigError(f"there is no store at {source.store}{moved}")
    with ExitStack() as opened:
        _lock(source.store, opened)
        _lock(target.store, opened)
        old = opened.enter_context(closing(open_again(source.store)))
        old.be_alone()
        settings = TrainingSettings(**old.settings)
        new = opened.enter_context(closing(open_store(target.store, settings, anew=True)))
        new.be_alone()
        if new.logs():
            raise ConfigError(f"{target.store} holds a run already: choose another place")
        logs = old.logs()
        try:
            names = _copy_checkpoints(source.checkpoints, old, target.checkpoints, new)
        except OSError as error:
            raise StorageError(f"the checkpoints cannot be copied: {error}") from error
        new.fill(old, names)
        old.leave(str(target.store))
    return logs


def _lock(place: Place, opened: ExitStack) -> None:
    """Keep trainers away from the run folder of a file. A database knows who has it open."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        opened.enter_context(closing(lock_folder(place.parent)))


def _copy_checkpoints(source: CheckpointPlace, old: Store, target: CheckpointPlace, new: Store) -> dict[str, str]:
    """Copy checkpoints that hold, and former networks; return their names in the new store, by log. Raises OSError.

    What lies at the target of a former stay would be older than the log.
    """
    for name in target.names(CHECKPOINTS):
        target.delete(name)
    names = dict[str, str]()
    for one in old.logs():
        name = checkpoint_name(one, old)
        if name and source.look(name):
            saved = source.load(name, "nothing was moved")
            names[one] = f"0-{saved.cursor}-{secrets.token_hex(4)}" if new.is_remote else ""
            target.save("/".join(filter(None, (CHECKPOINTS, one, names[one]))), saved)
        former = f"{FORMER}/{CHECKPOINTS}/{one}"
        if source.look(former):
            target.save(former, source.load(former, "nothing was moved"))
    return names
