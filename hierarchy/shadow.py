"""A copy of a network in training, for another thread to predict with while the next step is taken."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

from hierarchy.head import GrowingHead

Network = TypeVar("Network", bound=nn.Module)


class Shadow(Generic[Network]):
    """Two copies in evaluation mode: one is predicted with, the other takes in what was learned, and they swap places.

    Neither thread ever waits for the other. One thread refreshes, another one predicts.
    """

    def __init__(self, network: Network) -> None:
        self._lock = threading.Lock()
        self._current, self._spare = _copied(network), _copied(network)
        self._in_use: Network | None = None

    def refresh(self, network: Network) -> bool:
        """Take over weights, running statistics and classes. Call it between steps, on the thread that takes them.

        False, and nothing done, where a prediction has taken so long that it still uses the copy before the last.
        """
        with self._lock:
            spare = self._spare
            if spare is self._in_use:
                return False
        # Not used by the other thread, which only ever begins with the current one.
        if _classes(spare) == _classes(network):
            with torch.no_grad():
                for old, new in zip(_tensors(spare), _tensors(network), strict=True):
                    old.copy_(new)
        else:
            spare = _copied(network)
        with self._lock:
            self._current, self._spare = spare, self._current
        return True

    @contextmanager
    def network(self) -> Iterator[Network]:
        """Lend the copy that was refreshed last, in inference mode."""
        with self._lock:
            self._in_use = self._current
        try:
            with torch.inference_mode():
                yield self._in_use
        finally:
            with self._lock:
                self._in_use = None


def _copied(network: Network) -> Network:
    twin = copy.deepcopy(network).eval()
    return twin.requires_grad_(False)


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _classes(network: nn.Module) -> list[tuple[str, ...]]:
    """Return what the network's heads tell apart: a head with more classes may have other tensors, too."""
    return [one.classes for one in network.modules() if isinstance(one, GrowingHead)]
