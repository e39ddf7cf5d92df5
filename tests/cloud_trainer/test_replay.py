from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import ConfigError, NothingDone
from cloud_trainer.commands import app
from cloud_trainer.replay import replay
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.store.opening import STORE
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint, tensors_of
from tests.cloud_trainer.world import STATE, Cloud, batches, forget, is_finite, make_batch

REHEARSING = replace(STATE, rehearse=1.0)


@pytest.fixture
def run(start: Callable[..., Cloud]) -> Path:
    """Return the folder of a run of two robots, one of which came back, with a checkpoint behind each."""
    cloud = start()
    cloud.say("r1", REHEARSING, *batches(5, size=3))
    cloud.say("r2", STATE, *batches(3, size=5))
    cloud.work(60)  # silence: what waits is trained on
    back = replace(REHEARSING, boot="c" * 16, weights="checkpoint")
    cloud.say(
        "r1", back, *batches(6, size=3, boot=back.boot), make_batch(["cat"], boot=back.boot, sequence=7, evaluation=1)
    )
    assert is_finite(cloud.session())
    cloud.finish()
    return cloud.path


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("robot ")]
    return {line.split(":")[0]: line for line in lines}


def test_a_replay_ends_at_the_same_bits(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(run / STORE, tmp_path / "again", "cpu")
    lines = said(capsys)
    assert lines["robot r1"].endswith("equal to the checkpoint at event 24, bit for bit")
    assert "11 messages, 33 images" in lines["robot r1"]
    assert "bit for bit" in lines["robot r2"]
    for robot in ("r1", "r2"):
        saved = load_checkpoint(run / "checkpoint" / robot, LAYOUT)
        its = load_checkpoint(tmp_path / "again" / "checkpoint" / robot, LAYOUT)
        assert LAYOUT.pack(its, lambda _: "") == LAYOUT.pack(replace(saved, start=""), lambda _: "")
        tensors = tensors_of(its)
        assert all((tensors[name] == value).all() for name, value in tensors_of(saved).items())


def test_it_changes_nothing(run: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert replay(run / STORE, None, "cpu")
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_a_checkpoint_from_before_the_end_is_compared_where_it_was_made(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(run / STORE)
    store.append("r1", "flush")
    batch = batches(1, first=50)[0]
    store.append_message("r1", batch.boot, batch.sequence, next(store.batches_after("r1", 0)).payload)
    store.commit()
    store.close()
    assert replay(run / STORE, None, "cpu")
    assert "at event 24, bit for bit" in said(capsys)["robot r1"]


@pytest.mark.parametrize("part", ["learner/weights", "learner/momentum", "learner/random", "memory"])
def test_another_byte_in_the_checkpoint_differs(run: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "checkpoint" / "r1"
    saved = load_checkpoint(folder, LAYOUT)
    its = next(value for name, value in sorted(tensors_of(saved).items()) if name.startswith(part) and value.numel())
    flat = its.reshape(-1)
    flat[-1] = flat[-1] + (1 if not flat.is_floating_point() else 2**-20 + abs(flat[-1]) / 1000)
    save_checkpoint(folder, LAYOUT, saved)
    assert not replay(run / STORE, None, "cpu")
    assert "differs from the checkpoint at event 24" in said(capsys)["robot r1"]


def test_another_figure_in_the_checkpoint_differs(run: Path) -> None:
    saved = load_checkpoint(run / "checkpoint" / "r1", LAYOUT)
    save_checkpoint(
        run / "checkpoint" / "r1", LAYOUT, replace(saved, members=[replace(saved.members[0], messages_trained=99)])
    )
    assert not replay(run / STORE, None, "cpu")


TWICE = """
UPDATE events SET id = -(id + 1) WHERE id > 14;
UPDATE events SET id = -id WHERE id < 0;
INSERT INTO events (id, robot, kind, boot, sequence, payload)
SELECT 15, robot, kind, boot, 999, payload FROM events WHERE id = 14;
"""


@pytest.mark.parametrize(
    ("change", "robot"),
    [
        ("DELETE FROM events WHERE id = 3", "robot r1"),
        ("DELETE FROM events WHERE id = 20", "robot r1"),
        ("DELETE FROM events WHERE id = 12 AND kind = 'flush'", "robot r2"),
        (TWICE, "robot r1"),
        ("UPDATE events SET payload = (SELECT payload FROM events WHERE id = 3) WHERE id = 4", "robot r1"),
    ],
    ids=["dropped", "last dropped", "flush dropped", "twice", "another payload"],
)
def test_another_log_differs(run: Path, change: str, robot: str, capsys: pytest.CaptureFixture[str]) -> None:
    database = sqlite3.connect(run / STORE)
    database.executescript(change)
    assert database.total_changes
    database.close()
    assert not replay(run / STORE, None, "cpu")
    assert "differs" in said(capsys)[robot]


def test_a_log_that_was_partly_given_up_cannot_be_replayed(run: Path) -> None:
    store = SqliteStore(run / STORE)
    forget(store, "r1", 3)
    store.close()
    with pytest.raises(ConfigError, match=r"oldest samples of robot r1 were given up \(--store-gb\): no replay"):
        replay(run / STORE, None, "cpu")


def test_without_a_checkpoint_there_is_nothing_to_compare(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint" / "r1" / CHECKPOINT).unlink()
    assert replay(run / STORE, None, "cpu")
    assert said(capsys)["robot r1"].endswith("no checkpoint beside it")


def test_a_store_that_is_damaged_inside_is_named_with_a_way_out(run: Path) -> None:
    content = bytearray((run / STORE).read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[2 * page :] = b"\xa5" * (len(content) - 2 * page)  # the header and the settings are whole
    (run / STORE).write_bytes(content)
    with pytest.raises(ConfigError, match=r"is damaged, or cannot be read: .*choose another --run-dir"):
        app.cli(prog="cloud-trainer", args=["replay", "--store", str(run / STORE)])


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store at"):
        app.cli(prog="cloud-trainer", args=["replay", "--store", f"{tmp_path}/none.db"])


def test_a_run_of_a_real_network_is_replayed_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hierarchy.runtime.curves.draw_curves", lambda *_arguments: None)
    cloud = Cloud(tmp_path / "run", monkeypatch, threads=1)
    cloud.say("r1", REHEARSING, *batches(4, size=5))
    cloud.finish()
    command = ["replay", "--store", str(cloud.path / STORE), "--device", "cpu"]
    app.cli(prog="cloud-trainer", args=command)
    assert "bit for bit" in said(capsys)["robot r1"]
    database = sqlite3.connect(cloud.path / STORE, isolation_level=None)
    assert database.execute("DELETE FROM events WHERE sequence = 2").rowcount == 1
    database.close()
    with pytest.raises(SystemExit) as ended:
        app.cli(prog="cloud-trainer", args=command)
    assert ended.value.code == 1
    assert "differs from the checkpoint" in capsys.readouterr().out


def test_it_says_how_far_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(run / STORE, None, "cpu")
    printed = capsys.readouterr()
    assert "events of robot r1 | 0 images, 0 steps" in printed.err
    assert "events of" not in printed.out, "what came of it is for who reads the output"


def test_a_store_without_robots_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierarchy.runtime.curves.draw_curves", lambda *_arguments: None)
    cloud = Cloud(tmp_path / "run", monkeypatch, threads=1)
    cloud.finish()
    with pytest.raises(NothingDone, match=r"NOTHING WAS TRAINED: .*store.db holds nothing of any robot"):
        replay(cloud.path / STORE, None, "cpu")
