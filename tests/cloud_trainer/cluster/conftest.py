from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.local.server import start_local_broker
from tests.cloud_trainer.cluster.scene import ClusterScene


@pytest.fixture
def start_cluster(database_url: str, tmp_path: Path, tiny: None) -> Iterator[Callable[..., ClusterScene]]:
    """Return a function that starts a cluster of tiny networks, at a broker of its own: robots' states stay there."""
    with start_local_broker() as broker:
        scenes: list[ClusterScene] = []

        def start(**settings: Any) -> ClusterScene:
            scenes.append(ClusterScene(database_url, broker.url, tmp_path, **settings))
            return scenes[-1]

        yield start
        for scene in scenes:
            scene.end()
