"""Random numbers of PyTorch that belong to one network."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import torch
from torch import Tensor

# PyTorch's generator for the processor takes 32 bits of a seed. Who knows a front's shape could try that many.
SEED_BITS = 32
# In its state: eight bytes of the seed, sixteen of its place in the block, then a block of 624 words of 32 bits, in 64.
WORDS = slice(24, 24 + 8 * 624)


def seed_torch(seed: int) -> None:
    """Seed PyTorch's global random numbers with all bits of a seed."""
    torch.manual_seed(seed)
    if seed < 2**SEED_BITS:
        return
    state = torch.get_rng_state()
    words = np.random.SeedSequence(seed).generate_state(624, np.uint32)
    state[:8] = 0  # or a checkpoint would tell it
    state[WORDS] = torch.from_numpy(words.astype(np.uint64).view(np.uint8))
    torch.set_rng_state(state)


class TorchRandom:
    """PyTorch's global random numbers, lent to one network while it is built or trained; use it as a context manager.

    Dropout and new weights draw from global generators. With a stream of its own a network's training depends on its
    seed and its data alone, however many others the process trains in between.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._others = _state(self._cuda)
        seed_torch(seed)
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
