"""Batches that can be trained on: parsed, and with their activations inflated. No I/O of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch
from broker.wire.quantize import Quantized, unpack_activations

if TYPE_CHECKING:
    from cloud_trainer.session.sample_memory import SampleRef

# Of inflated batches that wait to be trained on, of all robots together. What does not fit is inflated once more.
KEPT_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class InflatedBatch:
    """A batch as it came in, and its activations as codes."""

    message: ActivationBatch
    quantized: Quantized

    @property
    def size(self) -> int:
        """What it takes of the memory, in bytes."""
        return self.quantized.codes.nbytes + len(self.message.activations.data)

    @classmethod
    def of(cls, message: ActivationBatch) -> InflatedBatch:
        """Inflate a batch. Raises MalformedMessage where its data is not what its header declares."""
        return cls(message=message, quantized=unpack_activations(message.activations))

    @classmethod
    def read(cls, payload: bytes) -> InflatedBatch:
        """Parse and inflate a batch. Raises MalformedMessage."""
        return cls.of(unpack_as(ActivationBatch, payload))


class KeptBatches:
    """Hands batches from the thread that checked them to the one that trains, so that each is inflated once.

    The store has them all the same: what is not in here is read from there. A robot's batches come, and are trained on,
    in the order of their events.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, deque[tuple[int, InflatedBatch]]] = {}
        self._bytes = 0

    def keep(self, robot: str, event: int, batch: InflatedBatch) -> None:
        """Keep a batch that is in the store as an event, if there is room."""
        with self._lock:
            if self._bytes + batch.size <= KEPT_BYTES:
                self._bytes += batch.size
                self._kept.setdefault(robot, deque()).append((event, batch))

    def take(self, robot: str, event: int) -> InflatedBatch | None:
        """Return the batch that is an event, if it is here, and keep it no longer, nor those before it."""
        found = None
        with self._lock:
            kept = self._kept.get(robot, deque())
            while kept and kept[0][0] <= event:
                number, batch = kept.popleft()
                self._bytes -= batch.size
                found = batch if number == event else None
        return found

    def drop(self, robot: str) -> None:
        """Keep nothing of a robot that is not trained for any more."""
        with self._lock:
            self._bytes -= sum(batch.size for _, batch in self._kept.pop(robot, ()))


# Yields the batches that are the events with those ids, as bytes: `Store.batches`.
Reader = Callable[[Sequence[int]], Iterable[bytes]]


class StoredSamples:
    """Reads samples out of the log."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def batch(self, event: int) -> InflatedBatch:
        """Return the batch that is an event. Raises ConfigError where the store lacks it."""
        (payload,) = self._read([event])
        return InflatedBatch.read(payload)

    def check(self, event: int) -> None:
        """Raise ConfigError where the store lacks an event."""
        list(self._read([event]))

    def at(self, refs: Sequence[SampleRef]) -> list[Quantized]:
        """Return stored samples. Each batch is read once, and inflated by itself: they may be large."""
        rows: dict[int, set[int]] = {}
        for ref in refs:
            rows.setdefault(ref.event, set()).add(ref.row)
        found: dict[tuple[int, int], Quantized] = {}
        for event, payload in zip(rows, self._read(list(rows)), strict=True):
            quantized = InflatedBatch.read(payload).quantized
            found |= {(event, row): one_sample(quantized, row) for row in rows[event]}
        return [found[ref.event, ref.row] for ref in refs]


def one_sample(quantized: Quantized, row: int) -> Quantized:
    """Return one sample with memory of its own, so that keeping it does not keep its whole batch."""
    codes = quantized.codes[row : row + 1].copy()
    return Quantized(codes=codes, low=quantized.low, step=quantized.step, bits=quantized.bits)
