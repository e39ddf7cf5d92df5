"""Folders of photos through the live path, as `robot-edge teach-photos` shows them: noisy pictures of one colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import hierarchy.runtime.curves
import robot_edge.run.start
from hierarchy.device import Compute
from robot_edge.photos.config import PhotosConfig
from robot_edge.photos.teach_photos import teach_photos
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
    teach_photos(PhotosConfig.from_flags(**shown, **network, weights="none", broker="mqtt://127.0.0.1:1"))
    printed = capsys.readouterr().out
    rows = {
        row[0]: row[1:] for line in printed.splitlines() if len(row := re.findall(r"[\w.% ]*\w[\w.% ]*|-", line)) == 5
    }
    assert {"red", "green"} < {name.strip() for name in rows}, printed
    right, count = re.findall(r"(\d+) of (\d+)", " ".join(" ".join(row) for row in rows.values()))[0]
    assert "0" in next(line for line in printed.splitlines() if "damaged" in line), "the others are taught all the same"
    assert int(right) > int(count) / 2
