"""A network that grows by class name while it is trained, with all that its training needs to be taken up again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hierarchy.device import Compute
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from hierarchy.optimizer import has_statistics, set_learning_rate, sgd
from hierarchy.random_state import TorchRandom
from hierarchy.schedule import WARM_UP_STEPS


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnerState:
    """All that training needs to go on.

    weights, momentum: by the names that the module has for them; no momentum before the first step. random: of
    PyTorch's generators, by kind of device.
    """

    classes: list[str]
    steps: int
    largest_step: int
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    random: dict[str, Tensor]


class Learner:
    """Optimizer, schedule and random numbers of one network. Both ends train theirs with it.

    A step is begin_step, a forward pass of the caller's, and descend, all within ``with learner.random``.
    """

    def __init__(
        self,
        module: nn.Module,
        head: GrowingHead,
        *,
        compute: Compute,
        peak_learning_rate: float,
        seed: int,
        warm_up: int = WARM_UP_STEPS,
        slow: nn.Module | None = None,
    ) -> None:
        """warm_up, slow: as of `learning_rate` and `sgd`."""
        self.module = module
        self.head = head
        self.compute = compute
        self.peak_learning_rate = peak_learning_rate
        self.steps = 0
        self.gradient_norm = 0.0  # of the last step
        self.random = TorchRandom(seed, compute.device)
        compute.place(module)
        self._warm_up, self._slow = warm_up, slow
        self.optimizer = sgd(module, compute, slow)
        self._largest_step = 0
        # And as they were before the step: a forward pass moves BatchNorm's statistics.
        self._buffers = list(module.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]

    def begin_step(self, names: Sequence[str], *, progress: float | None) -> Tensor:
        """Get ready to learn from samples of those classes, and return their labels, int64 (N,).

        A class met for the first time grows the head.
        progress: of the run, 0 to 1, or None where it has no end.
        """
        self.head.grow(names, self.optimizer)
        self._largest_step = max(self._largest_step, len(names))
        _copy(self._buffers, self._before)
        self.module.train(has_statistics(len(names), self._largest_step))
        set_learning_rate(
            self.optimizer, self.peak_learning_rate, steps=self.steps, progress=progress, warm_up=self._warm_up
        )
        return torch.tensor(self.head.indices(names), device=self.compute.device)

    def descend(self, loss: Tensor) -> bool:
        """Take a step down the loss. False, and nothing moved, where loss or gradient are not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        learning = (one for group in self.optimizer.param_groups for one in group["params"])
        self.gradient_norm = float(nn.utils.get_total_norm([one.grad for one in learning if one.grad is not None]))
        if not (math.isfinite(loss.item()) and math.isfinite(self.gradient_norm)):
            _copy(self._before, self._buffers)
            return False
        self.optimizer.step()
        self.steps += 1
        return True

    def fit(self, features: NDArray[np.float16], names: Sequence[str]) -> float:
        """Fit the head to features (N, F) of those classes, N > 0, and return the mean loss. Counts as a step.

        For a network of which nothing else learns. A class met for the first time grows the head.
        """
        with self.random:
            self.head.grow(names, self.optimizer)
        labels = torch.tensor(self.head.indices(names), device=self.compute.device)
        loss = fit_rows(self.head, torch.from_numpy(features).to(self.compute.device).float(), labels)
        self.steps += 1
        return loss

    def rename(self, old: str, new: str) -> None:
        """Give a class another name; where there is one of that name, the old one is given up for it."""
        if old in self.head.classes and new in self.head.classes:
            self.head.remove(old, self.optimizer)
        elif old in self.head.classes:
            self.head.rename(old, new)

    def remove(self, name: str) -> None:
        """Give up a class, if there is one of that name."""
        if name in self.head.classes:
            self.head.remove(name, self.optimizer)

    def state(self) -> LearnerState:
        """Return what a checkpoint must hold. Its tensors go on changing with the next step."""
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.module.named_parameters()
            if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        return LearnerState(
            classes=list(self.head.classes),
            steps=self.steps,
            largest_step=self._largest_step,
            weights=self.module.state_dict(),
            momentum=momentum,
            random=self.random.state,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on from a state. Raises RuntimeError where it is another network's."""
        if not 0 <= min(state.steps, state.largest_step) <= max(state.steps, state.largest_step) < 2**53:
            raise RuntimeError(f"{state.steps} steps, the largest of {state.largest_step} samples, were never taken")
        restore_weights(self.module, self.head, state)
        # Growing may have put other parameters into the head.
        self.optimizer = sgd(self.module, self.compute, self._slow)
        for name, parameter in self.module.named_parameters():
            if name in state.momentum:
                # Each in its own memory format, as the optimizer itself keeps them.
                buffer = torch.empty_like(parameter).copy_(state.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.random.state = state.random
        self.steps, self._largest_step = state.steps, state.largest_step


def restore_weights(module: nn.Module, head: GrowingHead, state: LearnerState) -> None:
    """Give a network the classes and weights of a state. Raises RuntimeError where it is another network's."""
    head.grow(state.classes, None)
    module.load_state_dict(state.weights)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
