"""`robot-edge plan` as a user starts it, beside a trainer at a real broker, and a run of what it found."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.warm_start import run_warm

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALL = ["--image-size", "16", "--batch", "16", "--threads", "1", "--rehearse", "0"]


def plan(*flags: str, backbone: str = "timm:test_resnet") -> tuple[int, str]:
    return run_warm(["robot_edge", "plan", "--robot", "planner", "--backbone", backbone, *SMALL, *flags])


@pytest.fixture(scope="module", name="world")
def _world(mosquitto_url: str, launcher: Launcher) -> str:
    """A broker with a trainer."""
    trainer = launcher.trainer(mosquitto_url)
    trainer.until_it_says("waiting for robots")
    return mosquitto_url


def test_a_plan_is_found_written_and_kept(world: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    source = ["--source", f"folder:{pictures}/train", "--epochs", "20", "--verify-images", "1000"]
    status, printed = plan("--broker", world, *source, "--cuts", "layer1", "--out", str(out), "--verify")
    settings = tomllib.loads(out.read_text())
    assert settings["cut"] == "layer1"
    assert 2 <= settings["bits"] <= 8
    assert "verify" not in settings
    assert "Mbit/s" in printed
    verdict = re.search(r"predicted ([\d,]+) images/s, observed ([\d,]+) \(([+-]\d+)%\)", printed)
    assert verdict, printed
    predicted, observed = (float(one.replace(",", "")) for one in verdict.groups()[:2])
    assert int(verdict[3]) == pytest.approx(100 * (observed / predicted - 1), abs=1 + 100 / predicted)
    assert predicted > 10, "it is of images, not of steps"
    assert status == int("not as predicted" in printed), printed


def test_too_few_images_to_verify_with_are_said_before_anything_is_measured(
    world: str, pictures: Path, tmp_path: Path
) -> None:
    source = ["--source", f"folder:{pictures}/train", "--out", str(tmp_path / "plan.toml")]
    status, printed = plan("--broker", world, *source, "--verify")
    assert status == 2
    assert re.search(r"trains on 4,000 images, and --source folder:\S+ has [\d,]+: give more --epochs", printed)
    assert "measuring" not in printed


def test_what_no_memory_is_left_for_is_not_measured(world: str, tmp_path: Path) -> None:
    few = ["--broker", world, "--source", "sim:", "--mbit", "1", "--out", str(tmp_path / "plan.toml")]
    status, printed = plan(*few, "--cuts", "layer2,layer4", "--most-memory-mb", "40", backbone="resnet18")
    assert status == 0, printed
    assert "layer4 with all channels: left out, as training takes" in printed
    assert "│ layer2" in printed
    assert "│ layer4" not in printed
    status, printed = plan(*few, "--cuts", "layer4", "--most-memory-mb", "40", backbone="resnet18")
    assert status == 2
    assert "the lines above say why" in printed


def test_what_leaks_too_much_is_no_plan(world: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    few = ["--broker", world, "--source", "sim:", "--mbit", "1", "--out", str(out), "--cuts", "layer1"]
    status, printed = plan(*few, "--privacy", "medium", "--most-leak", "0.01")
    assert status == 2, printed
    assert re.search(r"leaks more than --most-leak 0.01: least do all channels at 2 bits .*--privacy high", printed)
    assert re.search(r"│ layer1 .* all, 1 x 1 .* 0.\d\d ! │", printed), "the figures are there all the same"
    assert not out.exists()
    status, printed = plan(*few, "--privacy", "medium", "--most-leak", "0.99")
    assert status == 0, printed
    settings = tomllib.loads(out.read_text())
    assert (settings["pool"], settings["bottleneck"], settings["privacy"]) == (1, 0, "medium")
    assert "most_leak" not in settings


def test_a_slow_link_is_planned_for(world: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    few = ["--broker", world, "--source", "sim:", "--cuts", "layer2", "--out", str(out)]
    status, printed = plan(*few, "--mbit", "0.01")
    assert status == 0, printed
    assert tomllib.loads(out.read_text())["bottleneck"] > 0
    assert "link 0.01 Mbit/s (--mbit)" in printed
    rows = [line for line in printed.splitlines() if line.startswith("│ layer2")]
    assert rows
    assert all("│ link " in row for row in rows), "1,250 bytes a second are the slowest stage whatever crosses"


def test_without_a_trainer_it_says_what_to_start(amqtt_url: str, tmp_path: Path) -> None:
    status, printed = plan("--broker", amqtt_url, "--source", "sim:", "--out", str(tmp_path / "plan.toml"))
    assert status == 4
    assert "no cloud trainer answers" in printed
    assert not (tmp_path / "plan.toml").exists()
