"""Samples of a session that wait for a step. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from broker.wire.quantize import Quantized
from cloud_trainer.session.sample_memory import SampleRef


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A sample that waits until there are enough for a step."""

    name: str
    ref: SampleRef
    activation: Quantized


@dataclass(frozen=True, kw_only=True, eq=False)
class WaitingState:
    """Where in the log the samples of each queue are, int64 (N, 5) with a packed SampleRef a row, and their classes."""

    fresh: Tensor
    fresh_classes: list[str]
    re_encoded: Tensor
    re_encoded_classes: list[str]


class WaitingSamples:
    """Two queues: samples that are new, and samples that the robot rehearsed and sent once more.

    fresh: each step takes so many, as soon as there are enough. re_encoded: they fill a step's rehearsed part.
    """

    def __init__(self) -> None:
        self.fresh: list[Waiting] = []
        self.re_encoded: list[Waiting] = []

    def __len__(self) -> int:
        return len(self.fresh) + len(self.re_encoded)

    @property
    def oldest_event(self) -> float:
        """The first event that a sample in here is of; infinite where there is no sample."""
        return min((one.ref.event for one in self.fresh + self.re_encoded), default=float("inf"))

    def go_back(self, version: int) -> None:
        """Let no sample count as encoded by a newer segment than that one."""
        for one in self.fresh + self.re_encoded:
            one.ref.version = min(one.ref.version, version)

    def rename(self, old: str, new: str, member: int = 0) -> None:
        """Give a robot's samples of a class another name."""

        def renamed(one: Waiting) -> Waiting:
            return replace(one, name=new) if (one.name, one.ref.member) == (old, member) else one

        for queue in (self.fresh, self.re_encoded):
            queue[:] = [renamed(one) for one in queue]

    def give_up(self, gone: Callable[[str, SampleRef], bool]) -> None:
        """Let go of the samples that are gone, by their class names and places."""
        for queue in (self.fresh, self.re_encoded):
            queue[:] = [one for one in queue if not gone(one.name, one.ref)]

    def state(self) -> WaitingState:
        """Return what a checkpoint must hold."""
        return WaitingState(
            fresh=_table(self.fresh),
            fresh_classes=[one.name for one in self.fresh],
            re_encoded=_table(self.re_encoded),
            re_encoded_classes=[one.name for one in self.re_encoded],
        )

    def restore(self, state: WaitingState, samples: Callable[[Sequence[SampleRef]], list[Quantized]]) -> None:
        """Go on from a state. samples: returns the activations at places in the log."""
        for queue, table, names in (
            (self.fresh, state.fresh, state.fresh_classes),
            (self.re_encoded, state.re_encoded, state.re_encoded_classes),
        ):
            refs = [SampleRef.unpack(*row) for row in table.tolist()]
            queue[:] = [
                Waiting(name=name, ref=ref, activation=activation)
                for name, ref, activation in zip(names, refs, samples(refs), strict=True)
            ]


def take(queue: list[Waiting], count: int) -> list[Waiting]:
    """Return the first so many samples of a queue, or all where there are fewer; they wait no longer."""
    taken = queue[: max(0, count)]
    del queue[: len(taken)]
    return taken


def _table(queue: list[Waiting]) -> Tensor:
    return torch.tensor([one.ref.pack() for one in queue], dtype=torch.int64).reshape(-1, 5)
