"""Which normalisation learns online: BatchNorm or GroupNorm, with and without rehearsal, on a correlated stream.

    python benchmarks/normalization.py

The simulated camera shows one toy for several frames in a row, six toys first, two more from half way on. Robot and
cloud train in this process, without a broker, on one thread. Tested on scenes of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro
from continual_methods import Stream
from in_process import InProcess
from recording import Table, percent, record

from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.run.config import RobotConfig
from robot_edge.sources.opening import open_source

PHASES = "ball,block,car,cone,fish,house|ball,block,car,cone,fish,house,key,mug"
# Channels in a group of GroupNorm, where the layer has as many (Wu and He, 2018, use 16 channels or 32 groups).
GROUP_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """BatchNorm against GroupNorm online."""

    images: int = 5000
    seeds: int = 1


def main(settings: Settings) -> None:
    table = Table("Normalisation online", "normalisation", "rehearsed for each fresh", "exit, %", "cloud, %")
    for norm, channels in (("BatchNorm", 0), ("GroupNorm", GROUP_CHANNELS)):
        for rehearse in (0.0, 0.5, 1.0):
            results = [train(channels, rehearse, settings.images, seed) for seed in range(settings.seeds)]
            exit_accuracy, cloud_accuracy = np.mean(results, axis=0)
            table.row(norm, rehearse, percent(exit_accuracy), percent(cloud_accuracy))
    record(table)


def train(group_norm_channels: int, rehearse: float, images: int, seed: int) -> tuple[float, float]:
    """Return the accuracies of exit and cloud on other scenes."""
    config = RobotConfig.from_flags(
        source="sim:", bottleneck=16, phases=PHASES, rehearse=rehearse, images=images, seed=seed
    )
    both = InProcess(config, group_norm_channels=group_norm_channels)
    source = open_source("sim:", image_size=32, phases=config.source.phase_classes, images=images, seed=seed)
    batcher = Batcher(
        source=source, size=config.fresh_per_batch, image_size=32, held_out_every=0, held_out=FrameMemory(0, 32, 0)
    )
    while (batch := batcher.next()) is not None:
        both.learn(batch.images, batch.names, progress=batcher.progress)
    both.flush()
    unseen = Stream.read("sim:", phases=config.source.phase_classes[1:], images=1600, seed=seed + 1000)
    at_exit, in_cloud = both.test(unseen.images, unseen.names)
    assert at_exit.accuracy is not None
    assert in_cloud.accuracy is not None
    return at_exit.accuracy, in_cloud.accuracy


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
