"""Folders of photos through the live path, as `robot-edge teach-photos` shows them: noisy pictures of one colour."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import hierarchy.runtime.curves
import robot_edge.photos.teach_photos
import robot_edge.run.start
from hierarchy.device import Compute
from robot_edge.photos.config import PhotosConfig
from robot_edge.photos.teach_photos import _test, teach_photos
from robot_edge.run.config import EvaluateConfig
from tests.robot_edge.test_robot import pictures

pytestmark = pytest.mark.slow


def test_classes_are_taught_one_after_the_other_and_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = Compute(device=torch.device("cpu"))
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: cpu)
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
    for name in ("red", "green"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, image in enumerate(pictures(name, 8)):
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "damaged").mkdir()
    for number in range(3):
        (tmp_path / "photos" / "damaged" / f"{number}.jpg").write_bytes(b"no picture")
    network = {"backbone": "shufflenet_v2_x0_5", "image_size": 32, "freeze": "all", "exit": "end", "cut": "stage2"}
    shown = {"photos": str(tmp_path / "photos"), "per_second": 50, "run_dir": str(tmp_path / "run"), "page": 0}
    # Not every drawn network tells these colours apart, and this one never learns.
    drawn = {**network, "weights": "none", "seed": 0}
    teach_photos(PhotosConfig.from_flags(**shown, **drawn, broker="mqtt://127.0.0.1:1"))
    printed = capsys.readouterr().out
    rows = {
        row[0]: row[1:] for line in printed.splitlines() if len(row := re.findall(r"[\w.% ]*\w[\w.% ]*|-", line)) == 5
    }
    assert {"red", "green"} < {name.strip() for name in rows}, printed
    right, count = re.findall(r"(\d+) of (\d+)", " ".join(" ".join(row) for row in rows.values()))[0]
    assert "0" in next(line for line in printed.splitlines() if "damaged" in line), "the others are taught all the same"
    assert int(right) > int(count) / 2


def test_the_cloud_is_asked_as_it_was_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks that are not sealed would show the broker's operator what the lessons hid."""
    asked: list[EvaluateConfig] = []
    monkeypatch.setattr(robot_edge.photos.teach_photos, "settings_of_run", lambda _config: None)

    def name_frames(one: EvaluateConfig, *_: object) -> SimpleNamespace:
        asked.append(one)
        return SimpleNamespace(tested=[])

    monkeypatch.setattr(robot_edge.photos.teach_photos, "name_frames", name_frames)
    keys = {"credentials": "r1/credentials.toml", "names_key": "fleet.key", "payload_key": "r1/payload.key"}
    album: Any = SimpleNamespace(folder="photos", judged=lambda: SimpleNamespace(close=lambda: None))
    stop: Any = SimpleNamespace(made=False)
    _test("runs/r1", album, PhotosConfig.from_flags(photos="photos", **keys), "mqtts://their.broker", stop)
    (one,) = asked
    assert {name: getattr(one, name) for name in keys} == keys


def test_a_seed_that_nobody_gave_is_secret() -> None:
    assert PhotosConfig.from_flags(photos="photos").of_robot["seed"] == -1
    assert PhotosConfig.from_flags(photos="photos", seed=0).of_robot["seed"] == 0
