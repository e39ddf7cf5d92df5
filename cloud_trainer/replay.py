"""Trains from a store's log, from its start, to the same weights bit for bit: the proof of exactly once."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from broker.errors import ConfigError
from cloud_trainer.config import TrainingSettings
from cloud_trainer.session import RobotSession
from cloud_trainer.session_start import SessionStart, open_session
from cloud_trainer.store import Store
from hierarchy.checkpoint import CHECKPOINT, Parts, load_checkpoint, save_checkpoint
from hierarchy.command_line import DeviceName
from hierarchy.device import choose_device, set_threads

log = logging.getLogger("cloud-trainer")


def replay(path: Path, out: Path | None, device: DeviceName) -> bool:
    """Train every robot's network from the log. Return whether all equal the checkpoints beside the store.

    out: folder for the resulting checkpoints, or None. Raises ConfigError.
    """
    store = Store(path)
    settings = TrainingSettings(**store.settings)
    set_threads(settings.threads)
    # Not the console's width: a file or a pipe should get a line in one piece.
    console, equal = Console(soft_wrap=True, highlight=False), True
    for robot in store.robots():
        if not store.is_whole(robot):
            raise ConfigError(
                f"the oldest samples of robot {robot} were given up (--store-gb): no replay from the start"
            )
        checkpoint = path.parent / "checkpoint" / robot
        saved = load_checkpoint(checkpoint) if (checkpoint / CHECKPOINT).exists() else None
        session, comparison = _replay_robot(store, robot, settings, device, saved)
        parts, about = session.checkpoint()
        console.print(
            f"robot {robot}: {session.messages_trained:,} messages, {session.prequential.count:,} images, "
            f"{session.trainer.steps:,} steps, weights {digest(parts)[:16]}: {comparison or 'no checkpoint beside it'}"
        )
        equal &= "differs" not in comparison
        if out:
            save_checkpoint(out / "checkpoint" / robot, parts, {**about, "split": asdict(session.state.split)})
    store.close()
    return equal


def _replay_robot(
    store: Store, robot: str, settings: TrainingSettings, device: DeviceName, saved: tuple[Parts, dict[str, int]] | None
) -> tuple[RobotSession, str]:
    """Return the session at the end of the log, and how it compared when it was where the checkpoint is."""
    session: RobotSession | None = None
    comparison, cursor = "", 0
    with Progress(transient=True) as progress:
        task = progress.add_task(robot, total=store.last_event(robot))
        while event := store.next_event(robot, cursor):
            cursor = event.id
            if event.kind == "start":
                start = SessionStart.unpack(event.payload)
                session = open_session(robot, start, settings, choose_device(device), store.batch)
                session.cursor = cursor
            elif session is None:
                raise ConfigError(f"the log of robot {robot} does not begin with a start: is it another version's?")
            else:
                session.apply(event)
            if saved and saved[1]["cursor"] == cursor:
                same = digest(session.checkpoint()[0]) == digest(saved[0])
                comparison = f"{'equal to' if same else 'differs from'} the checkpoint at event {cursor}"
                comparison += ", bit for bit" if same else ""
            progress.update(task, completed=cursor)
    assert session is not None, "a robot is known by its first event"
    if saved and not comparison:
        raise ConfigError(f"robot {robot}: the checkpoint is at event {saved[1]['cursor']}, the log ends before")
    return session, comparison


def digest(parts: Parts) -> str:
    """Return a hash of weights and momentum."""
    result = hashlib.sha256()
    for part in ("weights", "momentum"):
        for name, value in sorted(parts.get(part, {}).items()):
            result.update(f"{part}/{name}{tuple(value.shape)}".encode())
            result.update(value.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()
