"""How long a prediction takes while the robot learns, beside how long it takes when it does not.

    python benchmarks/seeing.py

The real EdgeTrainer on the main thread, with a refresh of the predictor after each step, and the real Predictor on a
thread of its own that gets a frame every 100 ms, as in the live loop. Turns with and without training alternate, as a
machine's speed changes by the minute. Target: p99 with training under twice p99 without.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from recording import Table, record

from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seeing while learning."""

    sizes: tuple[int, ...] = (32, 96)
    """Sides of the frames in pixels."""
    turns: int = 6
    """Turns with training, and as many without."""
    seconds: float = 10.0
    """Length of a turn."""
    rate: float = 10.0
    """Frames a second."""
    batch: int = 64
    threads: int = 2
    """Cores that training may use."""
    nice: int = 0
    """Niceness of the thread that trains (Linux)."""
    switch_interval: float = 0.005
    """Seconds after which a Python thread is asked to let another one go on."""
    channels_last: bool = False


def main(settings: Settings) -> None:
    sys.setswitchinterval(settings.switch_interval)
    torch.set_num_threads(settings.threads)
    if settings.nice:  # before PyTorch starts its own threads, which inherit it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), settings.nice)
    table = Table(
        "Seeing while learning",
        *("pixels", "step, ms", "without training p50, ms", "p99, ms", "with training p50, ms"),
        *("with training p99, ms", "p50 ratio", "p99 ratio"),
    )
    for size in settings.sizes:
        table.row(size, *measure(settings, size))
    record(table)


def measure(settings: Settings, size: int) -> list[float]:
    """Return the milliseconds of a step, of a prediction's median and p99 without training and with it, and ratios."""
    config = RobotConfig.from_flags(source="sim:", bits=4, bottleneck=16, image_size=size, batch=settings.batch)
    segment, _, _ = build_edge(config.network)
    compute = Compute(device=torch.device("cpu"), channels_last=settings.channels_last)
    trainer = EdgeTrainer(segment, bits=4, compute=compute, peak_learning_rate=0.01)
    images = np.random.default_rng(0).integers(0, 256, (settings.batch, size, size, 3), np.uint8)
    names = [str(index % 8) for index in range(settings.batch)]
    for _ in range(2):
        trainer.step(images, names, fresh=settings.batch, progress=None)
    predictor = Predictor(segment, bits=4, compute=compute)
    eye = Eye(predictor, images, settings)
    eye.start()
    steps = 0
    for turn in range(2 * settings.turns):
        eye.training = turn % 2 == 1
        end = time.monotonic() + settings.seconds
        while time.monotonic() < end:
            if eye.training:
                trainer.step(images, names, fresh=settings.batch, progress=None)
                predictor.refresh(segment)
                steps += 1
            else:
                time.sleep(0.05)
    eye.over = True
    eye.join()
    still, busy = (np.array(seconds[2:]) * 1e3 for seconds in (eye.seconds[False], eye.seconds[True]))
    step = 1e3 * settings.turns * settings.seconds / steps
    times = [float(np.percentile(values, share)) for values in (still, busy) for share in (50, 99)]
    return [round(one, 2) for one in (step, *times, times[2] / times[0], times[3] / times[1])]


class Eye(threading.Thread):
    """Predicts a frame at each tick, and notes how long it took from the tick on."""

    def __init__(self, predictor: Predictor, images: Pixels, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.training = self.over = False
        self.seconds: dict[bool, list[float]] = {False: [], True: []}
        self._predictor, self._images, self._settings = predictor, images, settings

    def run(self) -> None:
        Predictor.claim_thread()
        if self._settings.nice:  # a new thread has that of the one that made it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 0)
        tick = time.perf_counter()
        while not self.over:
            tick = max(tick + 1 / self._settings.rate, time.perf_counter())
            time.sleep(max(0.0, tick - time.perf_counter()))
            training = self.training
            self._predictor.predict(self._images[0])
            self.seconds[training].append(time.perf_counter() - tick)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
