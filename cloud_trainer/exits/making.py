"""An exit for a fleet, of the samples that a session has. It changes nothing of the session. No I/O of its own.

An exit at the end is the session's own head: that is fitted to what the rest of the network makes of the same codes
that a robot has. An exit at the cut has a head of its own, on statistics of what crosses.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from broker.wire.messages import ExitOn
from broker.wire.quantize import Quantized, dequantize
from cloud_trainer.session.network import Network
from cloud_trainer.session.sample_memory import SampleRef
from cloud_trainer.session.session import Session
from hierarchy.calibration import Calibration, calibrate
from hierarchy.exit_rows import ExitRows, crossing_features, rows_of
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from hierarchy.random_state import TorchRandom

# Samples that a head on what crosses is fitted to, in equal shares of their classes: each is read from the store.
MOST_FITTED = 2000
FITS = 5
# Of these samples, so many are read in one part of the work.
READ_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeExit:
    """Rows as they would be sent. accuracy, calibration: of these, on so many held-out samples; None where none are.

    former: accuracy of the exit that was sent last, on the same samples; None where that is not known.
    """

    rows: ExitRows
    calibration: Calibration
    accuracy: float | None
    held_out: int
    former: float | None


class Making:
    """Makes an exit of a session, in parts. found: once ``work`` has ended."""

    def __init__(self, session: Session, on: ExitOn, former: ExitRows | None = None) -> None:
        """former: what was sent last, to be compared with."""
        self.found: MadeExit | None = None
        self._session = session
        self._on = on
        self._former = former

    def work(self) -> Iterator[None]:
        """Do it, a part at a time."""
        rows = rows_of(self._session.trainer.segment.head) if self._on == "end" else (yield from self._fitted())
        network = self._session.network
        shown = network.memory.counts()
        rows = rows.of([name for name in rows.classes if name in shown])
        logits, labels = [np.zeros((0, len(rows.classes)), np.float32)], list[int]()
        places, before = {name: place for place, name in enumerate(rows.classes)}, list[str]()
        for member in self._session.members.values():
            for event in list(member.rounds.events):
                batch = network.stored.batch(event)
                names = member.edits.names_now(batch.message, event)
                kept = [row for row, name in enumerate(names) if name in places]
                if kept:
                    features = self._features(network, event, batch.quantized)[kept]
                    logits.append(rows.logits(features))
                    before += self._former.named(features) if self._former else []
                    labels += [places[names[row] or ""] for row in kept]
                yield
        found = np.concatenate(logits)
        self.found = MadeExit(
            rows=rows,
            calibration=calibrate(found, np.array(labels, np.int64)),
            accuracy=float((found.argmax(1) == labels).mean()) if labels else None,
            held_out=len(labels),
            former=np.mean([rows.classes[label] == one for label, one in zip(labels, before, strict=True)]).item()
            if before
            else None,
        )

    def _features(self, network: Network, event: int, quantized: Quantized) -> NDArray[np.float16]:
        if self._on == "cut":
            return crossing_features(dequantize(quantized))
        assert network.still
        return network.still.features(event, quantized)

    def _fitted(self) -> Generator[None, None, ExitRows]:
        network = self._session.network
        known = thinned(network.memory.all(), MOST_FITTED)
        names, features = [name for name, _ in known], list[NDArray[np.float16]]()
        for start in range(0, len(known), READ_AT_ONCE):
            samples = network.stored.at([ref for _, ref in known[start : start + READ_AT_ONCE]])
            features += [crossing_features(dequantize(one)) for one in samples]
            yield
        head = GrowingHead(features[0].shape[1])
        with TorchRandom(0, torch.device("cpu")):
            head.grow(names, None)
        stacked, labels = torch.from_numpy(np.concatenate(features)).float(), torch.tensor(head.indices(names))
        for _ in range(FITS):
            fit_rows(head, stacked, labels)
            yield
        return rows_of(head)


def thinned(known: list[tuple[str, SampleRef]], most: int) -> list[tuple[str, SampleRef]]:
    """Return so many samples at most, classes with equal shares, in the order of the log, which reads them fastest."""
    of_class: dict[str, list[tuple[str, SampleRef]]] = {}
    for one in known:
        of_class.setdefault(one[0], []).append(one)
    share = max(1, most // max(1, len(of_class)))
    kept = [one for some in of_class.values() for one in some[:: -(-len(some) // share)]]
    return sorted(kept, key=lambda one: (one[1].event, one[1].row))
