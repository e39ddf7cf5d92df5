"""Samples of a session that wait for a step. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from broker.wire.quantize import Quantized
from cloud_trainer.sample_memory import SampleRef


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A sample that waits until there are enough for a step."""

    name: str
    ref: SampleRef
    activation: Quantized


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

    def rename(self, old: str, new: str) -> None:
        """Give a class another name."""
        for queue in (self.fresh, self.re_encoded):
            queue[:] = [replace(one, name=new) if one.name == old else one for one in queue]

    def give_up(self, gone: Callable[[str, SampleRef], bool]) -> None:
        """Let go of the samples that are gone, by their class names and places."""
        for queue in (self.fresh, self.re_encoded):
            queue[:] = [one for one in queue if not gone(one.name, one.ref)]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must hold: the places of each queue, int64 (N, 5), and the classes as JSON."""
        return (
            {"waiting": _table(self.fresh), "anew": _table(self.re_encoded)},
            {
                "waiting_classes": [one.name for one in self.fresh],
                "anew_classes": [one.name for one in self.re_encoded],
            },
        )

    def restore(
        self,
        tensors: dict[str, Tensor],
        about: dict[str, Any],
        samples: Callable[[Sequence[SampleRef]], list[Quantized]],
    ) -> None:
        """Go on from a state. samples: returns the activations at places in the log."""
        for queue, key in ((self.fresh, "waiting"), (self.re_encoded, "anew")):
            refs = [SampleRef(*row) for row in tensors[key].tolist()]
            queue[:] = [
                Waiting(name=name, ref=ref, activation=activation)
                for name, ref, activation in zip(about[f"{key}_classes"], refs, samples(refs), strict=True)
            ]


def take(queue: list[Waiting], count: int) -> list[Waiting]:
    """Return the first so many samples of a queue, or all where there are fewer; they wait no longer."""
    taken = queue[: max(0, count)]
    del queue[: len(taken)]
    return taken


def _table(queue: list[Waiting]) -> Tensor:
    return torch.tensor([astuple(one.ref) for one in queue], dtype=torch.int64).reshape(-1, 5)
