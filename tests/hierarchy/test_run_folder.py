from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from broker.errors import ConfigError
from hierarchy.run_folder import RunFolder


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


def test_metrics_can_be_read_while_the_run_lasts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.add_metrics(images=64)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["images"] == 64
    folder.finish({})


def test_a_former_run_is_not_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"bits": 4}).finish({})
    with pytest.raises(ConfigError, match="holds a run already: choose another --run-dir"):
        RunFolder(tmp_path, {"bits": 8})
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {"bits": 4}


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
