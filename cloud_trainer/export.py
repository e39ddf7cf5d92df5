"""The cloud's half of a robot's network as a folder, which `robot-edge export` joins with the robot's."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import refused
from cloud_trainer.checkpoints import CheckpointPlace, checkpoint_name
from cloud_trainer.logs import title
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.opening import Place, open_again
from hierarchy.rest_file import RestState, save_rest


def export(place: Place, checkpoints: CheckpointPlace, robot: str, out: Path) -> RestState:
    """Write the half of a robot's network, or of its fleet's, as its last checkpoint has it, and return it.

    A trainer may run meanwhile. Raises ConfigError where there is none, and StorageError where the disk does not take
    it.
    """
    with closing(open_again(place)) as store:
        entered = [log for log, _ in store.states_of(robot)]
        if not entered:
            known = ", ".join(store.robots()) or "none"
            raise ConfigError(f"--robot {robot}: {place} knows no robot of that name; it knows {known}")
        log = entered[-1]
        if not (name := checkpoint_name(log, store)) or not checkpoints.look(name):
            raise ConfigError(f"--robot {robot}: {title(log)} has no checkpoint yet; it has one when the trainer ends")
    half = rest_of(checkpoints.load(name, "stop the trainer, and start it again"))
    try:
        save_rest(out, half)
    except OSError as error:
        raise refused(f"--out {out}", error, path=out, advice="choose another one") from error
    return half


def rest_of(saved: SessionState) -> RestState:
    """Return what a session's checkpoint has of the network."""
    return RestState(
        split=saved.members[0].state.split,
        stands_still=SessionStart.unpack(saved.start.encode()).still,
        learner=replace(saved.learner, momentum={}, random={}),
    )
