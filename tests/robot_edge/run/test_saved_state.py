"""Files that the commit before versions of saved state has written are taken up."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.program.version import program_version
from robot_edge.run.identity import RUN, RunIdentity, run_identity
from robot_edge.run.source_files import FILE, SourceFiles, read_files
from robot_edge.uplink.outbox import Outbox
from tests.golden_state import golden_state


def test_a_run_keeps_its_identity(tmp_path: Path) -> None:
    folder = golden_state("robot", tmp_path)
    before = json.loads((folder / RUN).read_text())
    assert run_identity(folder, "none") == RunIdentity(**before)


def test_a_source_keeps_its_files_and_their_numbers(tmp_path: Path) -> None:
    files = read_files(golden_state("source", tmp_path))
    assert files == SourceFiles(
        marks={"ball/0.png": "69", "ball/1.png": "77", "star/0.png": "69", "star/1.png": "77"},
        numbers={"ball/0.png": 0, "ball/1.png": 1, "star/0.png": 2, "star/1.png": 3},
    )


@pytest.mark.parametrize("kind", ["robot", "live"])
def test_nothing_is_lost_from_an_outbox(tmp_path: Path, kind: str) -> None:
    path = golden_state(kind, tmp_path) / "outbox.db"
    queries = (
        "SELECT boot, sequence, payload FROM messages WHERE evaluation = 0 ORDER BY id",
        "SELECT * FROM classes ORDER BY name",
        "SELECT number, message, payload FROM edits ORDER BY number",
        "SELECT message, class, count FROM samples ORDER BY message, class",
    )
    file = sqlite3.connect(path)
    before = [file.execute(query).fetchall() for query in queries]
    file.close()
    assert before[0]
    outbox = Outbox(path, boot="f" * 16, limit=10**8)
    assert [outbox._database.execute(query).fetchall() for query in queries] == before
    assert outbox._database.execute("SELECT program FROM written_by").fetchall() == [(program_version(),)]
    sent = outbox.take(0.0, lambda size, *, backlog: True, ())
    assert [one.payload for one in sent] == [payload for _, _, payload in before[0]]
    outbox.close()


@pytest.mark.parametrize("name", [RUN, FILE])
def test_a_newer_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"schema": 2, "written_by": "reflexarc 9.0", "new": 1}))
    with pytest.raises(
        ConfigError, match=r"was written by reflexarc 9\.0\. This is reflexarc .*: update it, or choose"
    ):
        (run_identity(tmp_path, "none") if name == RUN else read_files(tmp_path))
