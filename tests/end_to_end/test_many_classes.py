"""Two hundred classes, forty at a time, and a robot that is started anew half way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher

CLASSES = [f"thing {number:03}" for number in range(200)]
OF_EACH, AT_A_TIME = 3, 40


@pytest.fixture(name="things")
def _things(tmp_path: Path) -> Path:
    """Folder of 200 classes: for each two colours and a slant of its own, in some noise."""
    rng = np.random.default_rng(0)
    down, right = np.indices((16, 16)) / 16 - 0.5
    for name in CLASSES:
        (tmp_path / name).mkdir()
        colours, slant = rng.integers(0, 256, (2, 3)), rng.uniform(0, np.pi)
        side = (down * np.sin(slant) + right * np.cos(slant) > 0).astype(int)
        for number in range(OF_EACH):
            picture = colours[side] + rng.normal(0, 10, (16, 16, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_two_hundred_classes_are_known_on_both_sides(mosquitto_url: str, launcher: Launcher, things: Path) -> None:
    phases = "|".join(",".join(CLASSES[start : start + AT_A_TIME]) for start in range(0, len(CLASSES), AT_A_TIME))
    flags = ["--phases", phases, "--held-out", f"folder:{things}"]
    trainer = launcher.trainer(mosquitto_url, "--practice", "0.2")
    robot = launcher.robot(mosquitto_url, "many", f"folder:{things}", *flags)
    robot.until(lambda: robot.images() > len(CLASSES) * OF_EACH / 2, "half of the pictures")
    robot.interrupt()
    resumed = launcher.robot(mosquitto_url, "many", f"folder:{things}", *flags, "--run-dir", str(robot.run_dir))
    assert resumed.wait() == 0, resumed.printed
    trainer.until_it_says("rehearsed while idle")
    assert trainer.interrupt() == 0
    for end, summary in (("exit", robot.summary), ("cloud", trainer.summary["robots"]["many"])):
        for start in range(0, len(CLASSES), AT_A_TIME):
            assert sorted(summary["classes"][start : start + AT_A_TIME]) == CLASSES[start : start + AT_A_TIME]
        assert summary["images"] == len(CLASSES) * OF_EACH
        assert summary["messages_rejected"] == summary["dropped"] == 0
        known = [sum(value is not None for value in one) for one in summary[f"{end}_accuracy_matrix"]["rounds"]]
        assert known[-1] == len(CLASSES)
        assert known == sorted(known)
        assert summary[f"{end}_final_average_accuracy"] > 5 / len(CLASSES)  # five times what chance gives
