from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from broker.errors import ConfigError
from robot_edge.run import secret_seed
from robot_edge.run.config import RobotConfig
from robot_edge.run.secret_seed import DRAWN, FILE, FIRST_SECRET, derived_seed, drawn_seed, keep_seed, seed_of
from robot_edge.run.start import prepare
from tests.conftest import SEED


def settings(run: Path, **more: Any) -> RobotConfig:
    flags = {"source": "sim:", "image_size": 16, "cut": "layer1", "bottleneck": 4, "threads": 1, **more}
    return RobotConfig.from_flags(run_dir=str(run), **flags)


def first_weights(config: RobotConfig) -> torch.Tensor:
    return next(prepare(config).segment.front.parameters()).detach().clone()


def test_a_test_that_names_no_seed_has_the_same_each_time(tmp_path: Path) -> None:
    assert prepare(settings(tmp_path / "one")).config.seed == prepare(settings(tmp_path / "other")).config.seed == SEED


def test_who_names_no_seed_has_a_front_that_nobody_can_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_seed, "drawn_seed", drawn_seed)
    one, other = (prepare(settings(tmp_path / name)) for name in ("one", "other"))
    assert one.config.seed != other.config.seed
    assert min(one.config.seed, other.config.seed) >= FIRST_SECRET
    weights = [next(ready.segment.front.parameters()) for ready in (one, other)]
    assert not torch.equal(*weights)
    assert torch.equal(first_weights(settings(tmp_path / "x", seed=3)), first_weights(settings(tmp_path / "y", seed=3)))


def test_all_bits_of_a_seed_count(tmp_path: Path) -> None:
    """PyTorch itself takes 32 of them: these can all be tried."""
    low = settings(tmp_path, seed=FIRST_SECRET + 7)
    high = settings(tmp_path, seed=2 * FIRST_SECRET + 7)
    assert not torch.equal(first_weights(low), first_weights(high))


def test_a_run_goes_on_with_the_seed_it_was_given(tmp_path: Path) -> None:
    drawn = seed_of(tmp_path, DRAWN, None)
    keep_seed(tmp_path, drawn)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0, "for its owner's eyes only"
    assert seed_of(tmp_path, DRAWN, {"seed": DRAWN}) == drawn
    assert seed_of(tmp_path, DRAWN, None) == drawn, "killed before it had learned anything"
    assert seed_of(tmp_path, drawn, {"seed": DRAWN}) == drawn
    assert seed_of(tmp_path, DRAWN, {"seed": 0}) == 0, "of a version that drew none"
    with pytest.raises(ConfigError, match="another --seed"):
        seed_of(tmp_path, drawn - 1, {"seed": DRAWN})
    (tmp_path / FILE).write_text("12\n")
    with pytest.raises(ConfigError, match="no secret seed: put a copy"):
        seed_of(tmp_path, DRAWN, {"seed": DRAWN})
    (tmp_path / FILE).unlink()
    with pytest.raises(ConfigError, match="is gone"):
        seed_of(tmp_path, DRAWN, {"seed": DRAWN})


def test_a_secret_seed_is_in_no_settings_that_people_pass_on(tmp_path: Path) -> None:
    config = prepare(settings(tmp_path)).config
    assert str(config.seed) not in str(config.as_toml())
    assert config.as_toml()["seed"] == DRAWN
    assert config.open_seed not in {config.seed, config.seed % FIRST_SECRET}
    assert settings(tmp_path, seed=5).open_seed == settings(tmp_path, seed=5).as_toml()["seed"] == 5


def test_what_others_see_the_results_of_has_a_seed_of_its_own() -> None:
    secret = 3 * FIRST_SECRET + 1
    assert derived_seed(secret, "order") == derived_seed(secret, "order") < FIRST_SECRET
    assert derived_seed(secret, "order") != derived_seed(secret + 1, "order")
    assert derived_seed(7, "order") == 7
