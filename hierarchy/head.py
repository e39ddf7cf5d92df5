"""A classifier that grows by class name while it is being trained."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

# Rows are allocated in blocks of so many. A single row would be multiplied by another BLAS routine than
# several and round differently; from 2 on, measured, each logit is the same bit for bit whatever the others.
# Blocks also make it rare that a new class reallocates the weights.
ROWS = 16


class GrowingHead(nn.Module):
    """nn.Linear whose outputs have names, and which takes new ones in.

    classes: the names, in the order of the logits. New names are appended; one that goes leaves no gap.
    weight: (rows, features), bias: (rows,), rows being a multiple of ROWS. Rows without a class yet are zero.

    To restore one: make it, `grow` the same classes in the same order, then `load_state_dict`.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ROWS, features))
        self.bias = nn.Parameter(torch.zeros(ROWS))
        self._index: dict[str, int] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._index)

    def indices(self, names: Iterable[str]) -> list[int]:
        """Each name's place among the logits. Raises KeyError for one that was never grown."""
        return [self._index[name] for name in names]

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> logits float32 (N, len(classes)), whatever the dtype of x, and of autocast.

        A bfloat16 multiplication of a processor with AMX rounds differently from some number of rows on, and what it
        would save of a layer this small is nothing.
        """
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)[:, : len(self._index)]

    def grow(self, names: Iterable[str], optimizer: Optimizer | None) -> None:
        """Append the names that are new, in their order; the logits of the old ones do not change by a bit.

        New rows are drawn as nn.Linear draws them: weight and bias uniform within 1 / sqrt(features).

        optimizer: the one that trains this head, None if there is none yet. Where the parameters are
        reallocated it gets the new ones, and its state of the old rows (momentum, Adam's moments) with them.
        Call this between steps: gradients not yet stepped on are dropped then.

        Raises ValueError if the optimizer does not train this head.
        """
        start = len(self._index)
        for name in names:
            self._index.setdefault(name, len(self._index))
        end = len(self._index)
        self._allocate(optimizer)
        bound = 1 / math.sqrt(self.weight.shape[1])
        with torch.no_grad():
            self.weight[start:end].uniform_(-bound, bound)
            self.bias[start:end].uniform_(-bound, bound)

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, which no other class has. Raises KeyError where there is no such class."""
        if new in self._index:
            raise ValueError(f"there is a class {new!r}")
        if old not in self._index:
            raise KeyError(old)
        self._index = {new if name == old else name: index for name, index in self._index.items()}

    def remove(self, name: str, optimizer: Optimizer | None) -> None:
        """Take a class out; the logits of the others do not change by a bit. Raises KeyError where there is none."""
        gone = self._index.pop(name)
        self._index = {one: index - (index > gone) for one, index in self._index.items()}
        for parameter in (self.weight, self.bias):
            state = optimizer.state.get(parameter, {}) if optimizer else {}
            rows = [one for one in state.values() if isinstance(one, Tensor) and one.shape == parameter.shape]
            with torch.no_grad():
                for tensor in (parameter, *rows):
                    tensor[gone:-1] = tensor[gone + 1 :].clone()
                    tensor[-1] = 0
        self._allocate(optimizer)

    def _allocate(self, optimizer: Optimizer | None) -> None:
        """Have as many rows as the classes need: whoever restores a head knows no more than their number."""
        rows = max(math.ceil(len(self._index) / ROWS), 1) * ROWS
        if rows != len(self.weight):
            self.weight = _with_rows(self.weight, rows, optimizer)
            self.bias = _with_rows(self.bias, rows, optimizer)


def _with_rows(old: nn.Parameter, rows: int, optimizer: Optimizer | None) -> nn.Parameter:
    new = nn.Parameter(_resized(old.detach(), rows), requires_grad=old.requires_grad)
    if optimizer is not None:
        _hand_over(optimizer, old, new)
    return new


def _hand_over(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    """Let the optimizer go on with `new` where it was with `old`."""
    group = next((g for g in optimizer.param_groups if any(p is old for p in g["params"])), None)
    if group is None:
        raise ValueError("the optimizer does not train this head")
    group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        # What has the parameter's shape goes row by row; the rest (Adam's step) is about the whole of it.
        optimizer.state[new] = {
            key: _resized(value, len(new)) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in optimizer.state.pop(old).items()
        }


def _resized(tensor: Tensor, rows: int) -> Tensor:
    kept = tensor[:rows]
    return torch.cat([kept, kept.new_zeros(rows - len(kept), *kept.shape[1:])])
