"""Random numbers of PyTorch that belong to one network."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor


class TorchRandom:
    """PyTorch's global random numbers, lent to one network while it is built or trained; use it as a context manager.

    Dropout and new weights draw from global generators. With a stream of its own a network's training depends on its
    seed and its data alone, however many others the process trains in between.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._others = _state(self._cuda)
        torch.manual_seed(seed)
        self.state = _state(self._cuda)
        _set_state(self._others)

    def __enter__(self) -> None:
        self._others = _state(self._cuda)
        _set_state(self.state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = _state(self._cuda)
        _set_state(self._others)


def _state(cuda: bool) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if cuda:
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
