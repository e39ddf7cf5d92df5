"""`robot-edge plan`: measures robot, link and trainer, and finds the fastest way to divide the network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from broker.errors import ConfigError
from broker.link import MqttLink, credentials_for
from broker.messages import ProbeResult
from hierarchy.device import Compute, set_threads
from robot_edge.batches import resize
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.costs import costs
from robot_edge.planning.edge_timing import EdgeTiming, Way, candidates
from robot_edge.planning.probing import Prober
from robot_edge.planning.runtime_model import Cost, choose, options
from robot_edge.planning.table import print_table
from robot_edge.planning.verification import verify
from robot_edge.progress import RunProgress
from robot_edge.sources import open_source

# Frames for the measurement are waited for so long, from a camera.
FRAME_SECONDS = 15.0
# A trainer builds a network first, and may be in a step of another robot's.
TIMING_SECONDS = 120.0

log = logging.getLogger("robot-edge")


def plan(config: PlanConfig) -> None:
    """Measure, print the table, and write the settings of the fastest way. Raises ConfigError and CutError."""
    if not Path(config.out).absolute().parent.is_dir():
        raise ConfigError(f"--out {config.out}: there is no such folder")
    set_threads(config.threads)
    ways = candidates(config, config.chosen_cuts)
    images, names = _frames(config)
    link = MqttLink(
        config.broker, f"{config.robot}-plan", credentials=credentials_for(config.broker, config.credentials)
    )
    with closing(link):
        prober = Prober(link, config.robot)
        prober.reach()
        log.info("measuring the link")
        rate = prober.link_rate(config.mbit * 1e6 / 8)
        measured: list[Cost] = []
        compute: Compute | None = None  # the same for all cuts of a network, and seconds to find
        with RunProgress(len(ways), "ways to divide measured") as progress:
            for done, way in enumerate(ways):
                progress.show(done, f"{way.cut}, {'a' if way.bottleneck else 'no'} bottleneck")
                timing = EdgeTiming(config.run_with(way.cut, config.bits, way.bottleneck), compute)
                measured += _measure(config, way, timing, images, names, prober)
                compute = timing.compute
            progress.show(len(ways))
    if not measured:
        raise ConfigError("the trainer could time none of these networks: see its log, and --networks-gb there")
    found = options(measured, rate.goodput)
    best = choose(found, **config.bounds)
    print_table(config, rate, found, best)
    _write(config, config.run_with(best.cut, best.bits, best.bottleneck).as_toml())
    if config.verify:
        verify(config, Path(config.out), best.pipelined)


def _frames(config: PlanConfig) -> tuple[NDArray[np.uint8], list[str]]:
    """Return a batch of frames to measure with; of a source that shows fewer, the same ones again."""
    images: list[NDArray[np.uint8]] = []
    source = open_source(config.source, config, image_size=config.image_size, seed=config.seed, live=config.is_live)
    with closing(source):
        while len(images) < config.batch and (frame := source.next(FRAME_SECONDS)) is not None:
            images.append(resize(frame.image, config.image_size))
    if not images:
        raise ConfigError(f"--source {config.source} showed no frame within {FRAME_SECONDS:.0f} s")
    rows = np.resize(np.arange(len(images)), config.batch)
    return np.stack(images)[rows], [str(row % 10) for row in range(config.batch)]


def _measure(
    config: PlanConfig, way: Way, timing: EdgeTiming, images: NDArray[np.uint8], names: list[str], prober: Prober
) -> list[Cost]:
    """Measure one way to divide at both ends at the same time; nothing comes of it where the trainer cannot."""
    results: list[ProbeResult] = []

    def begin() -> Callable[[], bool]:
        number, give_up = prober.ask(timing.split), time.monotonic() + TIMING_SECONDS

        def answered() -> bool:
            if not results and (result := prober.result(number)) is not None:
                results.append(result)
            return bool(results) or time.monotonic() > give_up

        return answered

    edge = timing.measure(images, names, begin)
    if not results:
        raise ConfigError("the trainer stopped answering: is it still running, and the link up?")
    if results[0].trouble or not results[0].samples:
        trouble = results[0].trouble or "the trainer timed nothing"
        log.warning("%s with %s channels: %s", way.cut, way.bottleneck or "all", trouble)
        return []
    return costs(config, way, timing.split, edge, results[0])


def _write(config: PlanConfig, settings: dict[str, object]) -> None:
    try:
        Path(config.out).write_text(tomli_w.dumps(settings))
    except OSError as error:
        raise ConfigError(f"--out {config.out}: {error}") from error
    print(f"The plan is in {config.out}: robot-edge run --config {config.out}", flush=True)
