"""Trackers with their own packages: what they were told is read back by their own readers; and they hang and die.

tensorboard is always here. The others are tested where they are installed.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hierarchy.runtime.tracking import trackers as module
from hierarchy.runtime.tracking.options import TRACKERS, Tracker, TrackOptions
from hierarchy.runtime.tracking.trackers import WAITING, Trackers
from tests.event_files import of_tensorboard
from tests.ports import free_port

pytestmark = pytest.mark.slow  # each tracker is a program

BY_CLASS = {"köttur": 0.5, "a/b": 1.0}
CONFUSION = {"köttur": {"köttur": 1, "": 1}, "a/b": {"a/b": 3}}
DEADLINE_S = 60.0


def opened(name: str, run: Path, *, hides_names: bool = False) -> Trackers:
    run.mkdir(exist_ok=True)
    return Trackers(TrackOptions(track=name), run, name="r1", settings={"bits": 2}, hides_names=hides_names)


def tell_all(trackers: Trackers) -> None:
    """Tell two steps of a robot, one of another, and a test."""
    trackers.scalars(100, {"exit/loss": 2.0, "cloud/loss": 1.5})
    trackers.scalars(200, {"exit/loss": 1.0, "cloud/loss": 0.5})
    trackers.scalars(90, {"exit/loss": 3.0}, prefix="r2/")
    trackers.test(200, "exit", BY_CLASS, CONFUSION)


def until(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def test_tensorboard_reads_curves_accuracies_and_the_confusion_of_both_starts(tmp_path: Path) -> None:
    for _ in range(2):  # a run that goes on
        trackers = opened("tensorboard", tmp_path)
        tell_all(trackers)
        trackers.picture(b"", "a picture is not for it")
        trackers.close()
    told = of_tensorboard(tmp_path)
    assert told["exit/loss"] == 2 * [(100, 2.0), (200, 1.0)]
    assert told["r2/exit/loss"] == 2 * [(90, 3.0)]
    assert told["exit/accuracy_of/köttur"] == 2 * [(200, 0.5)]
    assert told["exit/accuracy_of/a_b"] == 2 * [(200, 1.0)]
    assert "| köttur | 0 | 1 | 1 |" in told["exit/confusion"][0][1].decode()
    assert "| bits | 2 |" in told["settings"][0][1].decode()


def test_a_tracker_that_hangs_takes_a_bounded_queue_and_is_killed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    trackers = opened("tensorboard", tmp_path)
    process = trackers.processes[0]
    os.kill(process.pid, signal.SIGSTOP)  # the pipe holds 64 kB, then writing to it waits for ever
    many = {f"figure/{number}": 1.0 for number in range(1000)}
    for step in range(2 * WAITING):
        trackers.scalars(step, many)
    assert process.dropped >= WAITING - 20
    trackers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert "is not through in time" in caplog.text
    assert f"{process.dropped} messages are missing" in caplog.text


def test_a_tracker_that_dies_is_said_once_and_told_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackers = opened("tensorboard", tmp_path)
    process = trackers.processes[0]
    os.kill(process.pid, signal.SIGKILL)

    def is_noticed() -> bool:
        trackers.scalars(1, {"exit/loss": 1.0})
        return "signal 9" in caplog.text

    until(is_noticed, caplog.text)
    for step in range(2 * WAITING):
        trackers.scalars(step, {"exit/loss": 1.0})
    trackers.close()
    assert caplog.text.count("the tracker tensorboard has failed") == 1
    assert not process.dropped


def test_a_tracker_that_raises_is_said_with_its_own_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "tensorboard").write_text("no folder")
    trackers = opened("tensorboard", tmp_path)
    tell_all(trackers)
    trackers.close()
    assert "the tracker tensorboard has failed, and the run goes on without: " in caplog.text
    assert "exist" in caplog.text  # the file does
    assert "Traceback" in (tmp_path / "tracking" / "tensorboard.log").read_text()


def test_a_run_that_is_killed_leaves_what_it_told_and_no_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.hierarchy.runtime.tracking.test_trackers import opened, tell_all\n"
        "trackers = opened('tensorboard', Path(sys.argv[1])); tell_all(trackers)\n"
        "print(trackers.processes[0].pid, flush=True); input(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    ) as run:
        assert run.stdout
        assert run.stdin
        pid = int(run.stdout.readline())
        until(lambda: list((tmp_path / "tracking").glob("tensorboard/*")), "the tracker does not begin")
        run.stdin.write("\n")
    until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), "stays")
    assert of_tensorboard(tmp_path)["exit/loss"] == [(100, 2.0), (200, 1.0)]


def test_names_that_are_hidden_are_told_to_no_tracker_that_may_send_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for may_send in (False, True):  # as if it could
        monkeypatch.setitem(dict_of_trackers(), "tensorboard", Tracker("tensorboard", may_send=may_send))
        trackers = opened("tensorboard", tmp_path / str(may_send), hides_names=True)
        tell_all(trackers)
        trackers.close()
        told = of_tensorboard(tmp_path / str(may_send))
        assert told["exit/loss"] == [(100, 2.0), (200, 1.0)]
        named = {tag for tag in told if "accuracy_of" in tag or "confusion" in tag or tag == "settings"}
        assert bool(named) is not may_send


def dict_of_trackers() -> dict[str, Tracker]:
    assert isinstance(TRACKERS, dict)
    return TRACKERS


def of_trackio(run: Path) -> list[tuple[int, dict[str, Any]]]:
    with sqlite3.connect(run / "tracking" / "trackio" / "reflexarc.db") as database:
        found = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(text)) for step, text in found]


def test_trackio_has_steps_and_the_confusion(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    trackers = opened("trackio", tmp_path)
    tell_all(trackers)
    trackers.close()
    rows = of_trackio(tmp_path)
    assert (90, {"r2/exit/loss": 3.0}) in rows
    assert (200, {"exit/accuracy_of/a_b": 1.0, "exit/accuracy_of/köttur": 0.5}) in rows
    assert "| köttur | 0 | 1 | 1 |" in rows[-1][1]["exit/confusion"]["_value"]


def test_mlflow_finds_the_run_again(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    for _ in range(2):
        trackers = opened("mlflow", tmp_path)
        tell_all(trackers)
        trackers.close()
    program = (
        "import json, sys; from mlflow import MlflowClient; client = MlflowClient(sys.argv[1])\n"
        "experiment = client.get_experiment_by_name('reflexarc').experiment_id\n"
        "runs = client.search_runs([experiment]); run = runs[0].info.run_id\n"
        "history = client.get_metric_history(run, 'exit/loss')\n"
        "confusion = json.load(open(client.download_artifacts(run, 'exit/confusion.json')))\n"
        "print(json.dumps([len(runs), runs[0].data.params, runs[0].data.metrics, runs[0].info.status,\n"
        "                  [(one.step, one.value) for one in history], confusion]))"
    )
    uri = f"sqlite:///{tmp_path}/tracking/mlflow.db"
    done = subprocess.run([sys.executable, "-c", program, uri], capture_output=True, text=True, check=True)
    runs, params, metrics, status, history, confusion = json.loads(done.stdout.splitlines()[-1])
    assert (runs, params, status) == (1, {"bits": "2"}, "FINISHED")
    assert metrics["exit/accuracy_of/köttur"] == 0.5
    assert metrics["r2/exit/loss"] == 3.0
    assert sorted(history) == sorted(2 * [[100, 2.0], [200, 1.0]])
    assert confusion["true"][0] == "a/b"
    assert confusion["frames"] == [3, 1, 1]


def test_wandb_writes_what_its_own_viewer_reads_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    trackers = opened("wandb", tmp_path)
    tell_all(trackers)
    trackers.close()
    (folder,) = (tmp_path / "tracking" / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", str(file)]
    records = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for told in ("exit/loss", "r2/exit/loss", "exit/accuracy_of/köttur", "confusion_matrix"):
        assert told in records
    (table,) = folder.glob("files/media/table/exit/*.json")
    assert ["köttur", "köttur", 1] in json.loads(table.read_text())["data"]


def test_rerun_reads_curves_and_pictures(tmp_path: Path) -> None:
    reader = pytest.importorskip("rerun.chunk").RrdReader

    picture = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(picture, "JPEG")
    trackers = opened("rerun", tmp_path)
    assert trackers.wants_pictures
    tell_all(trackers)
    trackers.picture(picture.getvalue(), "mug, 90 %, exit")
    trackers.close()
    (file,) = (tmp_path / "tracking" / "rerun").glob("*.rrd")
    found: dict[str, Any] = {}
    for chunk in reader(str(file)).stream().collect().stream():
        found.setdefault(chunk.entity_path.replace("\\", ""), []).append(chunk.to_record_batch())
    steps = [row for one in found["/exit/loss"] for row in one.column("images").to_pylist()]
    values = [row for one in found["/exit/loss"] for row in one.column("Scalars:scalars").to_pylist()]
    assert sorted(zip(steps, values, strict=True)) == [(100, [2.0]), (200, [1.0])]
    assert found["/exit/accuracy_of/köttur"]
    (blob,) = [row for one in found["/camera"] for row in one.column("EncodedImage:blob").to_pylist()]
    assert bytes(blob[0]) == picture.getvalue()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_without_network_ends_with_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(name)
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setenv("WANDB_BASE_URL", nobody)
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setattr(module, "START_SECONDS", 15.0)
    caplog.set_level(logging.INFO)
    trackers = opened(name, tmp_path)
    tell_all(trackers)
    trackers.close()
    assert "is not through in time" in caplog.text or "has failed" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(trackers.processes[0].pid, 0)
