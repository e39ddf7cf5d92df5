"""How long the cloud takes to answer an ask while it trains, beside how long it takes when it does not.

    python benchmarks/answering.py

The real CloudTrainer of a ResNet-18 on the main thread in steps of 64, as the trainer's loop has it, with the real
Answerer on its thread, over a link in memory: no network, no broker. Turns with and without training alternate.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from recording import Table, record

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Ask, RobotState, SplitSpec
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.answering.answers import Answerer
from cloud_trainer.session.session import Session
from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.device import Compute

BOOT = "b" * 16
SPLIT = SplitSpec(backbone="resnet18", cut="layer2.1.relu_1", image_size=32, bits=4, bottleneck=16, shape=(16, 8, 8))
STATE = RobotState(
    boot=BOOT, run="c" * 16, former="", edits=0, started=1.0, online=True, split=SPLIT, weights="none", rehearse=0.0
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Answering while training."""

    turns: int = 4
    seconds: float = 10.0
    rate: float = 5.0
    """Asks a second."""
    batch: int = 64
    threads: int = 2


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    broker = MemoryBroker()
    cloud, robot = MemoryLink(broker), MemoryLink(broker)
    answers = robot.mailbox(topics.topic("robot", "r1", "answer"))
    segment = CloudSegment(SPLIT, weights="none")
    trainer = CloudTrainer(segment, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.01)
    session = Session("r1", STATE, trainer, batch=64, memory=0, seed=0, read=lambda _events: [])
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((settings.batch, *SPLIT.shape), np.float32)
    names = [str(index % 8) for index in range(settings.batch)]
    trainer.step(activations, names, fresh=settings.batch, progress=None)
    answerer = Answerer(cloud)
    answerer.start()
    packed = pack_activations(quantize(activations[:1], SPLIT.bits))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    training, over = threading.Event(), threading.Event()
    unanswered = 0

    def ask() -> None:
        nonlocal unanswered
        number = 0
        while not over.is_set():
            time.sleep(1 / settings.rate)
            busy, number = training.is_set(), number + 1
            message = Ask(boot=BOOT, number=number, split=SPLIT.fingerprint, deadline=2.0, activations=packed)
            begin = time.perf_counter()
            robot.publish(topics.topic("robot", "r1", "ask"), pack(message))
            if answers.take(2.0):
                seconds[busy].append(time.perf_counter() - begin)
            else:
                unanswered += 1

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    steps = 0
    for turn in range(2 * settings.turns):
        training.set() if turn % 2 else training.clear()
        end = time.monotonic() + settings.seconds
        while time.monotonic() < end:
            if turn % 2:
                trainer.step(activations, names, fresh=settings.batch, progress=None)
                steps += 1
            else:
                time.sleep(0.05)
            answerer.update(lambda _robot: (session, frozenset({BOOT})))
    over.set()
    asking.join()
    answerer.close()
    table = Table(
        "Answering while training",
        *("", "step, ms", "without training p50, ms", "p99, ms", "with training p50, ms", "with training p99, ms"),
    )
    times = [1e3 * float(np.percentile(seconds[busy][2:], share)) for busy in (False, True) for share in (50, 99)]
    step = 1e3 * settings.turns * settings.seconds / steps
    counted = f"{len(seconds[False])} and {len(seconds[True])} asks, {unanswered} unanswered"
    table.row(counted, *(round(one, 1) for one in (step, *times)))
    record(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
