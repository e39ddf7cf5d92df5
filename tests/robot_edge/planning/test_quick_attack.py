"""What a plan's attack finds behind a cut: much of a map, little of an average, nothing of what is too large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from broker.errors import ConfigError
from hierarchy.attack.pairs import Pairs
from hierarchy.device import Compute
from robot_edge.planning import quick_attack
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.quick_attack import Crossing, QuickAttack, frames_to_attack
from robot_edge.sources.frames import Pixels

SIDE = 16
CPU = Compute(device=torch.device("cpu"))
MAP, AVERAGE = Crossing(0, 0, 2), Crossing(16, 1, 4)


def patches(count: int) -> Pixels:
    """Return pictures of a few smooth patches each."""
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (count, 3, 4, 4)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 255)
    return smooth.byte().permute(0, 2, 3, 1).contiguous().numpy()


def test_a_map_leaks_frames_and_an_average_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    attack = QuickAttack(PlanConfig.from_flags(source="sim:", image_size=SIDE), patches(400))
    seen, average = attack.leaks("layer1", [MAP, AVERAGE], CPU)
    assert seen is not None
    assert average is not None
    assert seen.ssim > attack.blind + 0.3
    assert seen.found > 0.9
    assert average.ssim < attack.blind + 0.1
    assert average.found < 0.3

    values = 64 * 8 * 8  # of a frame behind layer1
    monkeypatch.setattr(quick_attack, "MOST_BYTES", 4 * quick_attack.LEAST_FRAMES * values - 1)
    assert [leak is None for leak in attack.leaks("layer1", [MAP, AVERAGE], CPU)] == [True, False]


def test_encoding_ends_in_time_once_there_are_enough_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_attack, "ENCODE_SECONDS", 0.0)
    sizes = []

    def size(own: Pairs, attacked: Pairs) -> None:
        sizes.append((len(own), len(attacked)))

    attack = QuickAttack(PlanConfig.from_flags(source="sim:", image_size=SIDE), patches(400))
    monkeypatch.setattr(quick_attack, "quick_leak", size)
    assert list(attack.leaks("layer1", [AVERAGE], CPU)) == [None]
    assert sizes == [(256, 64)]


def test_too_few_frames_are_an_error_that_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "mug").mkdir()
    for number, picture in enumerate(patches(3)):
        Image.fromarray(picture).save(tmp_path / "mug" / f"{number}.png")
    config = PlanConfig.from_flags(source=f"folder:{tmp_path}", image_size=SIDE, most_leak=0.3)
    with pytest.raises(ConfigError, match=r"--most-leak .* 320 frames .* showed 3 within"):
        frames_to_attack(config.run)


def test_frames_of_a_source_are_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlanConfig.from_flags(source="sim:", image_size=SIDE)
    monkeypatch.setattr(quick_attack, "MOST_FRAME_BYTES", 330 * 3 * SIDE**2)
    assert frames_to_attack(config.run).shape == (330, SIDE, SIDE, 3)
