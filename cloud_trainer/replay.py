"""Trains from a store's log, from its start, to the same weights bit for bit: the proof of exactly once."""

from __future__ import annotations

import hashlib
import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from broker.errors import ConfigError, NothingDone, StorageError
from broker.program.machine import refused
from broker.program.plain_text import counted
from cloud_trainer.checkpoints import CheckpointFolder, CheckpointPlace, checkpoint_name
from cloud_trainer.config import TrainingSettings
from cloud_trainer.logs import title
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_start import open_session
from cloud_trainer.session.session_state import LAYOUT, SessionState
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import Place, open_again
from hierarchy.device import choose_device, set_threads
from hierarchy.runtime.checkpoint import save_checkpoint, tensors_of
from hierarchy.runtime.command_line import DeviceName
from hierarchy.runtime.console import PlainConsole
from hierarchy.runtime.progress import RunProgress

logger = logging.getLogger("cloud-trainer")


def replay(place: Place, out: Path | None, device: DeviceName, checkpoints: CheckpointPlace | None = None) -> bool:
    """Train every network from its log. Return whether all equal the checkpoints.

    checkpoints: where they are; beside a store in a file by default. out: folder for the resulting checkpoints, or
    None. Raises ConfigError, NothingDone for a store without robots, and StorageError where the disk does not take a
    checkpoint.
    """
    with closing(open_again(place)) as store:
        settings = TrainingSettings(**store.settings)
        set_threads(settings.threads)
        checkpoints = checkpoints or (CheckpointFolder(place.parent) if isinstance(place, Path) else None)
        # Not the console's width: a file or a pipe should get a line in one piece.
        console, equal = PlainConsole(soft_wrap=True), True
        logs = store.logs()
        if not store.robots():
            raise NothingDone(f"NOTHING WAS TRAINED: {place} holds nothing of any robot")
        for log in logs:
            if not store.is_whole(log):
                raise ConfigError(
                    f"the oldest samples of {title(log)} were given up (--store-gb): no replay from the start"
                )
            saved = _saved(log, store, checkpoints)
            session, comparison = _replay_log(store, log, settings, device, saved)
            state = session.checkpoint()
            weights = digest(tensors_of(state.learner.weights, "weights"))[:16]
            comparison = comparison or "no checkpoint beside it"
            console.print(
                f"{title(log)}: {counted(session.messages_trained, 'message')}, "
                f"{counted(session.images, 'image')}, "
                f"{counted(session.trainer.steps, 'step')}, weights {weights}: {comparison}"
            )
            equal &= "differs" not in comparison
            if out:
                _save(out / "checkpoint" / log, state)
    return equal


def _saved(log: str, store: Store, place: CheckpointPlace | None) -> SessionState | None:
    """Return a log's checkpoint, None where there is none."""
    name = checkpoint_name(log, store)
    try:
        if place is None or not name or not place.look(name):
            return None
    except OSError as error:
        raise StorageError(f"the checkpoint at {place.where(name) if place else ''} cannot be read: {error}") from error
    return place.load(name, f"move {place.where(name)} away to train from the log without comparing")


def _replay_log(
    store: Store, log: str, settings: TrainingSettings, device: DeviceName, saved: SessionState | None
) -> tuple[Session, str]:
    """Return the session at the end of the log, and how it compared when it was where the checkpoint is."""
    session: Session | None = None
    comparison, cursor, done = "", 0, 0
    logger.info("%s: training from the log", title(log))
    with RunProgress(store.event_count(log), f"events of {title(log)}", console=PlainConsole(stderr=True)) as progress:
        while event := store.next_event(log, cursor):
            if saved and session and not comparison and event.id > saved.cursor:
                comparison = _compared(session, saved)
            cursor = event.id
            if event.kind == "start":
                start = SessionStart.unpack(event.payload)
                session = open_session(log, start, settings, choose_device(device), store.batches, robot=event.robot)
                session.cursor = cursor
            elif session is None:
                raise ConfigError(f"the log of {title(log)} does not begin with a start: is it another version's?")
            else:
                session.apply(event)
            done += 1
            progress.show(done, [f"{session.images:,} images, {session.trainer.steps:,} steps"])
    assert session is not None, "a robot is known by its first event"
    if saved and not comparison:
        comparison = _compared(session, saved)
    return session, comparison


def _save(folder: Path, state: SessionState) -> None:
    try:
        save_checkpoint(folder, LAYOUT, state)
    except OSError as error:
        raise refused("--run-dir", error, path=folder) from error


def _compared(session: Session, saved: SessionState) -> str:
    """Say whether a session is, in all that its training depends on, where the checkpoint is."""
    here, there = session.checkpoint(), replace(saved, start="")
    same = digest(tensors_of(here)) == digest(tensors_of(there)) and _without_tensors(here) == _without_tensors(there)
    at = f"the checkpoint at event {saved.cursor}"
    return f"equal to {at}, bit for bit" if same else f"differs from {at}"


def _without_tensors(state: SessionState) -> dict[str, Any]:
    """Return all else, for a comparison: a state that was read again may have its names in another order."""
    return LAYOUT.pack(state, lambda _tensor: "")


def digest(tensors: dict[str, Tensor]) -> str:
    """Return a hash of tensors and their names."""
    result = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        result.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        result.update(value.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()
