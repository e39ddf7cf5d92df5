"""--track: what may stand there, and what is said of a package that is missing."""

from __future__ import annotations

import importlib.util

import pytest

from broker.errors import ConfigError
from cloud_trainer.cluster.config import ClusterConfig
from hierarchy.runtime.tracking.options import TrackOptions


def test_commas_separate_and_each_comes_once() -> None:
    assert TrackOptions(track="wandb, rerun,wandb,").trackers == ("wandb", "rerun")
    assert TrackOptions().trackers == ()


def test_an_unknown_one_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="--track tensorbord: use tensorboard, mlflow"):
        TrackOptions(track="tensorbord")


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'reflexarc\[mlflow\]'"):
        TrackOptions(track="mlflow").check_installed()


def test_a_cluster_has_none() -> None:
    with pytest.raises(ConfigError, match="Prometheus"):
        ClusterConfig(store="postgresql://u@h/d", track=TrackOptions(track="tensorboard"))
