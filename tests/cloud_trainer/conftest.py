"""What the cloud's tests share beside `world.py`: what has to be cleaned up behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_trainer.world import Cloud, use_tiny_networks


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks be tiny."""
    use_tiny_networks(monkeypatch)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> Iterator[Callable[..., Cloud]]:
    """Return a function that starts a trainer of tiny networks with a run folder of that name."""
    clouds: list[Cloud] = []

    def start_one(name: str = "cloud", **settings: Any) -> Cloud:
        clouds.append(Cloud(tmp_path / name, monkeypatch, **settings))
        return clouds[-1]

    yield start_one
    for one in clouds:
        one.kill()


@pytest.fixture
def cloud(start: Callable[..., Cloud]) -> Cloud:
    return start()
