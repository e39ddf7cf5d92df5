"""What is said of PyTorch, codecs, disk and clock."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

import hierarchy.device
from hierarchy.runtime.doctor import machine
from hierarchy.runtime.doctor.machine import clock_finding, codecs, computing, device_finding, disk

NOW = 1_767_225_600.0


def test_torch_and_device_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy.device, "has_bfloat16", lambda: True)
    found, device = computing("cpu")
    assert found.state == device.state == "ok"
    assert f"{torch.__version__}, torchvision " in found.text
    assert ", 1 thread, " in found.text
    assert device.text == "cpu: bfloat16 and float32"
    monkeypatch.setattr(hierarchy.device, "has_bfloat16", lambda: False)
    assert device_finding("cpu").text == "cpu: float32"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has it")
def test_a_device_that_is_asked_for_and_not_there_is_missing() -> None:
    assert device_finding("mps").state == "missing"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch uses the GPU")
def test_a_gpu_that_torch_does_not_use_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    found = device_finding("auto")
    assert found.state == "problem"
    assert "of torch does not use it" in found.text
    assert device_finding("cpu").state == "ok", "as was asked for"


def test_a_torch_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (found,) = computing("auto")
    assert (found.name, found.state) == ("torch", "problem")
    assert "install both again" in found.remedy


def test_codecs_are_told_with_and_without_video(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = codecs()
    assert found.state == "ok"
    assert found.text.startswith("lz4, JPEG, PNG, ")
    assert "video: h264" in found.text
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    (found,) = codecs()
    assert found.text.endswith("; no video")
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    (found,) = codecs()
    assert (found.state, found.remedy) == ("problem", "pip install --force-reinstall lz4 pillow")


def test_the_disk_of_a_folder_that_is_to_be_made_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE", 0)
    (found,) = disk(tmp_path / "runs" / "r1")
    assert found.state == "ok"
    assert f"GB free at {tmp_path}, written at " in found.text
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine, "LEAST_FREE", 10**18)
    (found,) = disk(tmp_path)
    assert (found.state, found.remedy) == ("problem", "make room, or choose another --run-dir")


def test_a_folder_that_takes_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (found,) = disk(tmp_path)
    assert (found.state, found.text) == ("problem", f"{tmp_path}: No space left on device")


def test_a_clock_that_cannot_be_right_is_a_problem() -> None:
    assert clock_finding(NOW, NOW - 10, {"t1": NOW + 1}).state == "ok"
    early = clock_finding(0.0, NOW, {})
    assert early.state == "problem"
    assert "before the program was installed" in early.text
    behind = clock_finding(NOW, NOW - 10, {"t1": NOW - 90, "t2": NOW + 90})
    assert behind.state == "problem"
    assert behind.text.endswith("trainer t2 began 90 s later")
