"""Files that the commit before versions of saved state has written are taken up."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from broker.errors import ConfigError
from broker.program.version import program_version
from cloud_trainer.config import TrainingSettings
from cloud_trainer.session.session_state import LAYOUT, SessionState
from cloud_trainer.store.opening import STORE, open_store
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint, tensors_of
from tests.cloud_trainer.world import STATE, Cloud, batches, database, scalar
from tests.saved_state import golden_state

R1 = Path("checkpoint") / "r1"


def test_nothing_is_lost_from_a_store(tmp_path: Path) -> None:
    path = golden_state("trainer", tmp_path) / STORE
    tables = dict.fromkeys(("settings", "metrics", "wiped", "forgotten"), "*")
    tables["events"] = "id, robot, kind, boot, sequence, payload"  # its logs have names since
    queries = [f"SELECT {columns} FROM {table}" for table, columns in tables.items()]
    file = sqlite3.connect(path)
    before = [file.execute(query).fetchall() for query in queries]
    file.close()
    only_read = SqliteStore(path)
    settings = TrainingSettings(**only_read.settings)
    assert only_read.robots() == only_read.logs() == ["r1", "r2"]
    assert only_read.next_event("r2", 0) is not None, "it is read as it is"
    only_read.close()
    store = open_store(path, settings)
    assert [database(store).execute(query).fetchall() for query in queries] == before
    assert scalar(store, "SELECT program FROM written_by") == program_version()
    store.close()


def figures(state: SessionState) -> dict[str, object]:
    """Return all that does not follow from how a processor rounds: whether a prediction was right does."""
    (member,) = state.members
    packed = LAYOUT.pack(dataclasses.replace(state, loss=None, members=[]), lambda _: "")
    its: dict[str, Any] = msgspec.to_builtins(dataclasses.replace(member, robot=""))  # version 0 did not say whose
    # With the fields that came later, and without what nobody counted then.
    its["state"], its["edits"] = dataclasses.asdict(member.state), dataclasses.asdict(member.edits) | {"highest": 0}
    return packed | {name: value for name, value in its.items() if name not in {"prequential", "rounds"}}


def test_a_trainer_goes_on_as_the_one_before_would_have(start: Callable[..., Cloud], tmp_path: Path) -> None:
    cloud = start(golden_state("trainer", tmp_path).name, practice=0.5, checkpoint_every=3)
    assert cloud.session().cursor == 33
    again = dataclasses.replace(STATE, rehearse=1.0, boot="9" * 16, weights="checkpoint")
    cloud.say("r1", again, *batches(4, boot=again.boot, edits=2))
    for _ in range(2):
        cloud.work(30.0)
    cloud.finish()
    now = load_checkpoint(cloud.path / R1, LAYOUT)
    then = load_checkpoint(golden_state("trainer-after", tmp_path) / R1, LAYOUT)
    assert figures(now) == figures(then)
    assert now.learner.steps > 44
    theirs = tensors_of(then)
    for name, tensor in tensors_of(now).items():
        assert torch.allclose(tensor.double(), theirs[name].double(), rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("robot", ["checkpoint/r2", "former/checkpoint/r2"])
def test_a_checkpoint_of_before_holds_the_same_as_one_of_now(tmp_path: Path, robot: str) -> None:
    saved = load_checkpoint(golden_state("trainer", tmp_path) / robot, LAYOUT)
    save_checkpoint(tmp_path / "again", LAYOUT, saved)
    again = load_checkpoint(tmp_path / "again", LAYOUT)
    assert LAYOUT.pack(again, lambda _: "") == LAYOUT.pack(saved, lambda _: "")
    assert tensors_of(again).keys() == tensors_of(saved).keys()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[:2000], r"is damaged, or none of ours .*put a copy of it back"),
        (lambda content: content.replace(b'"cursor', b'"kursor'), r"is damaged, or none of ours .*missing.*cursor"),
    ],
    ids=["truncated", "other fields"],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, spoil: Callable[[bytes], bytes], says: str) -> None:
    folder = golden_state("trainer", tmp_path) / R1
    path = folder / CHECKPOINT
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConfigError, match=says):
        load_checkpoint(folder, LAYOUT, "put a copy of it back")
