"""Files that the commit before versions of saved state has written are taken up."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from broker.program.version import program_version
from cloud_trainer.config import TrainingSettings
from cloud_trainer.store import STORE, Store, open_store
from tests.golden_state import golden_state


def test_nothing_is_lost_from_a_store(tmp_path: Path) -> None:
    path = golden_state("trainer", tmp_path) / STORE
    queries = [f"SELECT * FROM {table}" for table in ("settings", "events", "metrics", "wiped", "forgotten")]
    file = sqlite3.connect(path)
    before = [file.execute(query).fetchall() for query in queries]
    file.close()
    only_read = Store(path)
    settings = TrainingSettings(**only_read.settings)
    assert only_read.robots() == ["r1", "r2"]
    only_read.close()
    store = open_store(path, settings)
    assert [store._database.execute(query).fetchall() for query in queries] == before
    assert store._scalar("SELECT program FROM written_by") == program_version()
    store.close()
