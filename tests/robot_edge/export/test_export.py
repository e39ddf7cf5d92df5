"""A run's network in other runtimes: its answers are the run's, it stands alone, and what fails leaves nothing."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robot_edge.export.export
from broker.errors import ConfigError, NothingDone, StorageError
from hierarchy.cloud import CloudSegment
from hierarchy.learner import LearnerState
from hierarchy.rest_file import RestState, save_rest
from robot_edge.evaluation.saved_predictor import saved_predictor
from robot_edge.evaluation.saved_run import load_run, saved_settings
from robot_edge.export.config import ExportConfig
from robot_edge.export.export import export
from robot_edge.export.formats import exported, runner
from robot_edge.export.written import write_together
from robot_edge.learning.framed import framing_for
from tests.small_runs import CPU, NAMES, SIZE, learned, pictures, quick_start

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[3] / "docs" / "examples" / "name_a_picture.py"


@pytest.fixture(scope="module", autouse=True)
def _quick_start() -> Iterator[None]:
    with quick_start():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("run"), cut="layer1")


@pytest.fixture(scope="module")
def still_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network: dict[str, Any] = {
        "backbone": "timm:test_resnet",
        "cut": "layer2",
        "freeze": "all",
        "exit": "end",
        "pool": 2,
    }
    return learned(tmp_path_factory.mktemp("still"), **network)


def test_an_exit_says_in_onnx_runtime_what_the_run_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ExportConfig(run=str(run), out=str(tmp_path / "exit.onnx")))
    printed = capsys.readouterr().out
    assert "Compared on 70 frames (held out by the run): 0.00% of the answers differ from the run's." in printed
    assert printed.count(" MB ") == printed.count(" ms ") == 2
    about = json.loads((tmp_path / "exit.onnx.json").read_text())
    assert (sorted(about["classes"]), about["precision"], about["unknown_by"]) == (sorted(NAMES), "fp32", "confidence")
    assert 0 < about["least_confidence"] < 1


def test_name_a_picture(run: Path, tmp_path: Path) -> None:
    """The program of the manual, in a process without torch."""
    export(ExportConfig(run=str(run), out=str(tmp_path / "exit.onnx")))
    settings = saved_settings(run)
    predictor, framing = saved_predictor(load_run(settings, run), CPU), framing_for(settings.network)
    lines = [line for line in PROGRAM.read_text().splitlines() if line]
    assert len(lines) <= 15
    blocked = "import sys, runpy; sys.modules.update(torch=None, hierarchy=None, robot_edge=None, broker=None); "
    code = f"{blocked}runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    for name in NAMES:
        large = Image.fromarray(pictures(name, 1, seed=3)[0]).resize((64, 48), Image.Resampling.NEAREST)
        large.save(tmp_path / "picture.png")
        command = [sys.executable, "-c", code, str(tmp_path / "exit.onnx"), str(tmp_path / "picture.png")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        says = predictor.predict(framing.input(np.asarray(large)))
        assert done.stdout == f"{'unknown' if says.unknown else says.name} {says.confidence:.0%}\n", done.stderr


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_what_stands_still_tells_the_unknown_by_what_it_remembers(still_run: Path, kind: Any, tmp_path: Path) -> None:
    export(ExportConfig(run=str(still_run), format=kind, part="edge", out=str(tmp_path / "edge")))
    [model] = [one for one in tmp_path.iterdir() if one.suffix in {".onnx", ".pt"}]
    about = json.loads((tmp_path / f"{model.name}.json").read_text())
    assert about["unknown_by"] == "novelty"
    saved = load_run(saved_settings(still_run), still_run)
    predictor = saved_predictor(saved, CPU)
    strange = np.random.default_rng(5).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
    strange[:10, ::2] = 0  # stripes are none of the classes
    frames = np.concatenate([strange, *(pictures(name, 10, seed=4) for name in NAMES)])
    probabilities, confidence, unknown, activations = runner(kind, model.read_bytes(), 1)(frames)
    says = [predictor.predict(one) for one in frames]
    assert {one.unknown for one in says} == {True, False}
    assert unknown.tolist() == [one.unknown for one in says]
    np.testing.assert_allclose(confidence, [one.confidence for one in says], atol=0.01)  # features of two bytes
    assert [about["classes"][one] for one in probabilities.argmax(1)] == [one.name for one in says]
    assert activations.shape == (len(frames), *saved.split.shape)


def test_int8_is_smaller_and_is_judged_by_accuracy(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExportConfig(run=str(run), precision="int8", out=str(tmp_path / "small.onnx"), most_accuracy_lost=10)
    export(config)
    assert "onnx, int8" in capsys.readouterr().out
    whole = sum(one.nbytes for one in load_run(saved_settings(run), run).segment.state_dict().values())
    assert (tmp_path / "small.onnx").stat().st_size < 0.5 * whole
    monkeypatch.setattr(robot_edge.export.export, "int8", lambda *_: _guesses())
    with pytest.raises(SystemExit):
        export(replace(config, out=str(tmp_path / "guesses.onnx")))
    assert "points of accuracy, --most-accuracy-lost is 10" in capsys.readouterr().err
    assert not (tmp_path / "guesses.onnx").exists()


class _Guesses(nn.Module):
    """Answers one class for everything."""

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = frames.float().mean((1, 2, 3)) * 0
        return torch.stack([zero + 1, zero], 1), zero + 1, zero > 1


def _guesses() -> bytes:
    example = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    return exported(_Guesses(), "onnx", example, ("probabilities", "confidence", "unknown"), "{}")


def test_what_answers_otherwise_fails_and_the_former_file_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exit.onnx").write_text("former")
    monkeypatch.setattr(robot_edge.export.export, "exported", lambda *_: _guesses())
    with pytest.raises(SystemExit) as end:
        export(ExportConfig(run=str(run), out=str(tmp_path / "exit.onnx")))
    assert end.value.code == 1
    captured = capsys.readouterr()
    assert "of its answers are not the run's, 0.1% may differ" in captured.err
    assert "In " not in captured.out
    assert (tmp_path / "exit.onnx").read_text() == "former"


def test_without_frames_there_is_nothing_to_compare_on(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingDone, match=r"1 frames to compare on .*--source folder:PATH"):
        export(ExportConfig(run=str(run), images=1, out=str(tmp_path / "exit.onnx")))
    assert not list(tmp_path.iterdir())


def test_frames_of_a_source_of_their_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number, one in enumerate(pictures(name, 5, seed=6)):
            Image.fromarray(one).save(tmp_path / "frames" / name / f"{number}.png")
    export(ExportConfig(run=str(run), source=f"folder:{tmp_path / 'frames'}", out=str(tmp_path / "exit.onnx")))
    assert "Compared on 10 frames (folder:" in capsys.readouterr().out


def test_a_run_with_held_out_of_its_own_is_calibrated_and_compared_on_that(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    for name in NAMES:
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number, one in enumerate(pictures(name, 30, seed=6)):
            Image.fromarray(one).save(tmp_path / "frames" / name / f"{number}.png")
    settings = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(f'held_out = "folder:{tmp_path / "frames"}"\n{settings}')
    loaded = replace(load_run(saved_settings(folder), folder), held_out=[])
    monkeypatch.setattr(robot_edge.export.export, "load_run", lambda *_: loaded)
    export(ExportConfig(run=str(folder)))
    assert "Compared on 60 frames (held out by the run): 0.00%" in capsys.readouterr().out
    about = json.loads((folder / "export" / "exit.onnx.json").read_text())
    assert 0 < about["least_confidence"] < 1


def rest_behind(run: Path, folder: Path, **others: Any) -> Path:
    """Write a cloud's half behind a run's front, whose weights are random."""
    split = load_run(saved_settings(run), run).split
    cloud = CloudSegment(split, weights="none")
    cloud.head.grow(NAMES, None)
    learner = LearnerState(
        classes=list(NAMES), steps=1, largest_step=1, weights=cloud.state_dict(), momentum={}, random={}
    )
    save_rest(folder, RestState(split=replace(split, **others), stands_still=False, learner=learner))
    return folder


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_the_whole_network_is_the_robots_front_and_the_clouds_half(
    run: Path, kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = rest_behind(run, tmp_path / "rest")
    export(ExportConfig(run=str(run), format=kind, part="whole", rest=str(rest), out=str(tmp_path / "whole")))
    assert ": 0.00% of the answers differ from the run's" in capsys.readouterr().out
    [about] = [json.loads(one.read_text()) for one in tmp_path.glob("whole*.json")]
    assert (about["part"], about["classes"]) == ("whole", list(NAMES))
    assert about["temperature"] != 1, "it is calibrated on what the run held out"


def test_another_fronts_half_is_refused(run: Path, tmp_path: Path) -> None:
    rest = rest_behind(run, tmp_path / "rest", bits=8)
    with pytest.raises(ConfigError, match="belongs behind another front"):
        export(ExportConfig(run=str(run), part="whole", rest=str(rest), out=str(tmp_path / "whole")))
    with pytest.raises(ConfigError, match="name a folder that `cloud-trainer export` wrote"):
        export(ExportConfig(run=str(run), part="whole", rest=str(tmp_path / "no"), out=str(tmp_path / "whole")))


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_costs_nothing_that_was_there(tmp_path: Path) -> None:
    files = {tmp_path / "exit.onnx": b"x" * 100, tmp_path / "exit.onnx.json": b"{}"}
    write_together(files)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(1000), pytest.raises(StorageError, match="make room on the disk of"):
        write_together({tmp_path / "exit.onnx": b"y" * 900, tmp_path / "exit.onnx.json": b"z" * 2000})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class _Bicubic(nn.Module):
    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        maps = frames.float().permute(0, 3, 1, 2)
        small = nn.functional.interpolate(maps, (4, 4), mode="bicubic", antialias=True)
        return (small.mean((2, 3)),)


def test_an_operator_that_tracing_lacks_is_exported_all_the_same() -> None:
    example = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    model = exported(_Bicubic(), "onnx", example[:2], ("probabilities",), "{}")
    [found] = runner("onnx", model, 1)(example)
    np.testing.assert_allclose(found, _Bicubic()(torch.from_numpy(example))[0].numpy(), rtol=1e-4)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'reflexarc\[export\]'"):
        exported(_Guesses(), "onnx", np.zeros((2, SIZE, SIZE, 3), np.uint8), ("p", "c", "u"), "{}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"precision": "int8", "format": "torchscript"}, "int8 is there for --format onnx alone"),
        ({"part": "whole"}, "--part whole needs --rest FOLDER"),
        ({"rest": "rest"}, "--rest .*rest is for --part whole"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ExportConfig(run="runs/r1", **settings)
