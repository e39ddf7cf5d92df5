"""What a cloud step costs with 10,000 and with a million samples stored, and what the trainer's memory grows by.

    python benchmarks/stored_samples.py

A store is filled with messages of 32 samples of 20 classes, as a robot whose front stands still would send them: so all
of them are rehearsed from. Steps are timed in turns at either size, each half fresh and half read from the disk.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from recording import Table, record

from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, RobotState, SplitSpec
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.session.sample_memory import SampleRef
from cloud_trainer.session.session import Session
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.cloud import CloudSegment, CloudTrainer, fastest_compute
from hierarchy.device import set_threads

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=32, bits=2, bottleneck=16, shape=(16, 8, 8))
STATE = RobotState(
    boot="0" * 16,
    run="0" * 16,
    former="",
    edits=0,
    started=0,
    online=True,
    split=SPLIT,
    weights="none",
    rehearse=1.0,
)
CLASSES = tuple(f"class {number}" for number in range(20))
PER_MESSAGE = 32


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Cost of a step over the samples stored."""

    few: int = 10_000
    many: int = 1_000_000
    rounds: int = 7
    """Turns that each size gets."""
    steps: int = 10
    """Steps in a turn."""


def main(settings: Settings) -> None:
    set_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        small, large = Stored(path / "few.db", settings.few), Stored(path / "many.db", settings.many)
        rates = [(small.rate(settings.steps), large.rate(settings.steps)) for _ in range(settings.rounds)]
    ratio = statistics.median(many / few for few, many in rates)
    few, many = (statistics.median(one) for one in zip(*rates, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    table = Table(
        "Many stored samples against few",
        *("few", "many", "with few, samples/s", "with many, samples/s", "many / few, median of turns"),
        "resident memory at most, MB",
    )
    table.row(settings.few, settings.many, round(few), round(many), round(ratio, 3), round(peak))
    record(table)


class Stored:
    """A session, and the store that it trains from."""

    def __init__(self, path: Path, count: int) -> None:
        """Fill them with so many samples."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.store = SqliteStore(path, {})
        self.store.append("bench", "start")
        self.rng = np.random.default_rng(0)
        self.messages = 0
        segment = CloudSegment(SPLIT, weights="none")
        compute = fastest_compute(segment, SPLIT.shape, 64, torch.device("cpu"))
        trainer = CloudTrainer(segment, compute=compute, peak_learning_rate=0.02)
        self.session = Session("bench", STATE, trainer, batch=64, memory=2 * count, seed=0, read=self.store.batches)
        begin = time.monotonic()
        template = message(self.rng)
        while self.messages * PER_MESSAGE < count:
            batch = self.append(template)
            for row, (name, sample) in enumerate(zip(batch.names, batch.samples.tolist(), strict=True)):
                ref = SampleRef(event=self.messages + 1, row=row, sample=sample, session=0, version=0)
                self.session.network.memory.add(name, ref)
        self.store.commit()
        self.session.cursor = self.store.last_event("bench")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
        print(
            f"{count:,} samples, {self.store.bytes_used / 1e6:,.0f} MB on disk, filled in "
            f"{time.monotonic() - begin:.0f} s; {grown:,.0f} MB of memory more"
        )

    def append(self, template: ActivationBatch) -> ActivationBatch:
        """Append a batch like that, of samples with numbers of their own."""
        samples = np.arange(PER_MESSAGE, dtype=np.uint32) + self.messages * PER_MESSAGE + 1
        batch = dataclasses.replace(template, sequence=self.messages, samples=samples)
        self.store.append_message("bench", batch.boot, batch.sequence, pack(batch))
        self.messages += 1
        return batch

    def rate(self, steps: int) -> float:
        """Return the fresh samples trained on in a second."""
        for _ in range(steps + 1):
            self.append(message(self.rng))
        self.store.commit()
        self.train()
        begin = time.perf_counter()
        for _ in range(steps):
            self.train()
        return steps * PER_MESSAGE / (time.perf_counter() - begin)

    def train(self) -> None:
        """Do what the next event says: one step."""
        event = self.store.next_event("bench", self.session.cursor)
        assert event is not None
        self.session.apply(event)


def message(rng: np.random.Generator) -> ActivationBatch:
    values = rng.standard_normal((PER_MESSAGE, *SPLIT.shape)).astype(np.float32)
    return ActivationBatch(
        boot="0" * 16,
        sequence=0,
        split=SPLIT.fingerprint,
        evaluation=0,
        progress=None,
        edge_version=0,
        edits=0,
        session=0,
        classes=CLASSES,
        labels=(np.arange(PER_MESSAGE) % len(CLASSES)).astype(np.uint16),
        samples=np.zeros(PER_MESSAGE, np.uint32),
        again=False,
        activations=pack_activations(quantize(values, SPLIT.bits)),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
