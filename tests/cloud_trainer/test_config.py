from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

import cloud_trainer.trainer
from broker.errors import ConfigError
from cloud_trainer.commands import app
from cloud_trainer.config import TrainerConfig
from hierarchy.runtime.command_line import with_config_file


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("trainer", value) for value in ("", "two words", "a" * 65)),
        *(("batch", value) for value in (1, 4097)),
        *(("learning_rate", value) for value in (0, 101, float("nan"))),
        *(("rehearse_from", value) for value in (-1, 10**8)),
        *(("store_gb", value) for value in (0, float("inf"))),
        *(("checkpoint_every", value) for value in (0, 10**7)),
        *(("most_robots", value) for value in (0, 10**5)),
        *(("networks_gb", value) for value in (0, float("nan"))),
        *(("most_classes", value) for value in (0, 65_536)),
        *(("threads", value) for value in (-1, 1025)),
        *(("seed", value) for value in (-1, 2**32)),
    ],
)
def test_what_lies_outside_its_bounds_names_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} "):
        TrainerConfig(**{name: value})


def test_a_broker_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="broker 'localhost'"):
        TrainerConfig(broker="localhost")


def test_the_settings_of_a_run_give_the_same_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[TrainerConfig] = []
    monkeypatch.setattr(cloud_trainer.trainer, "run", runs.append)
    config = TrainerConfig(trainer="t7", batch=32, device="cpu", run_dir="here", credentials="t7.toml")
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config.as_toml()))
    for flags in ([], ["--batch", "16"]):
        app.cli(prog="cloud-trainer", args=with_config_file(["run", "--config", f"{tmp_path}/config.toml", *flags]))
    assert runs == [config, TrainerConfig(trainer="t7", batch=16, device="cpu", run_dir="here", credentials="t7.toml")]
