from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from broker.errors import ConfigError
from hierarchy.runtime.run_folder import RunFolder, former_settings


def test_a_run_leaves_settings_figures_and_a_picture(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "r1", {"bits": 4, "source": "sim:"})
    folder.add_metrics(images=64, exit_loss=2.3)
    folder.add_metrics(images=128, exit_loss=None)
    folder.finish({"images": 128})
    assert tomllib.loads((folder.path / "config.toml").read_text()) == {"bits": 4, "source": "sim:"}
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["images"], line["exit_loss"]) for line in lines] == [(64, 2.3), (128, None)]
    assert lines[0]["time"] <= lines[1]["time"]
    assert json.loads((folder.path / "summary.json").read_text()) == {"images": 128}
    with Image.open(folder.path / "curves.png") as picture:
        assert picture.format == "PNG"


def test_without_matplotlib_the_pictures_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [*sys.modules]:
        if module.split(".")[0] == "matplotlib" or module == "hierarchy.runtime.curves":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    caplog.set_level("INFO")
    folder = RunFolder(tmp_path, {})
    folder.add_metrics(images=64, exit_loss=2.3)
    folder.finish({"images": 64})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"images": 64}
    assert not [*tmp_path.glob("*.png")]
    assert caplog.messages == ["no curves.png, as matplotlib is not installed: pip install 'reflexarc[plot]'"]


def test_metrics_can_be_read_while_the_run_lasts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.add_metrics(images=64)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["images"] == 64
    folder.finish({})


def test_a_former_run_goes_on(tmp_path: Path) -> None:
    assert former_settings(tmp_path) is None
    former = RunFolder(tmp_path, {"bits": 4})
    assert former_settings(tmp_path) is None, "it has learned nothing"
    former.add_metrics(images=64)
    former.add_metrics(images=128)
    assert former.last_metrics == {}
    former.finish({"images": 128})
    assert former_settings(tmp_path) == {"bits": 4}
    folder = RunFolder(tmp_path, {"bits": 4, "threads": 1})
    assert folder.last_summary() == {"images": 128}
    assert folder.last_metrics["images"] == 128
    folder.add_metrics(images=192)
    folder.drop_summary()
    assert folder.last_summary() is None
    folder.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [64, 128, 192]
    assert former_settings(tmp_path) == {"bits": 4, "threads": 1}


def test_a_line_that_was_half_written_is_cut_off(tmp_path: Path) -> None:
    former = RunFolder(tmp_path, {})
    former.add_metrics(images=64)
    former.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "ima')
    folder = RunFolder(tmp_path, {})
    assert folder.last_metrics["images"] == 64
    folder.add_metrics(images=128)
    folder.close()
    assert len([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]) == 2


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    with pytest.raises(ConfigError, match=f"another process is using {tmp_path}"):
        RunFolder(tmp_path, {})
    folder.close()
    RunFolder(tmp_path, {}).close()


@pytest.mark.parametrize(("first", "second"), [({"trainer": "t"}, {"robot": "r"}), ({"robot": "r"}, {"trainer": "t"})])
def test_a_folder_of_the_other_program_is_left_alone(
    tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    RunFolder(tmp_path, first).close()
    before = (tmp_path / "config.toml").read_text()
    with pytest.raises(ConfigError, match="holds a run of another program: choose another --run-dir"):
        RunFolder(tmp_path, second)
    assert (tmp_path / "config.toml").read_text() == before
    RunFolder(tmp_path, first).close()


def test_a_run_whose_settings_are_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"holds a run already, whose settings cannot be read .*choose another"):
        former_settings(tmp_path)


def test_a_full_disk_costs_lines_and_never_half_of_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.add_metrics(images=64)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))  # a bound that hits in the middle of a line
    try:
        folder.add_metrics(images=128)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert folder.lines_lost == 1
    assert (tmp_path / "metrics.jsonl").stat().st_size == size
    folder.add_metrics(images=192)
    folder.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [64, 192]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"--run-dir {tmp_path / path}: "):
        RunFolder(tmp_path / path, {})


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(ConfigError, match=r"--run-dir .*: not yours"):
        RunFolder(tmp_path / "run", {})
