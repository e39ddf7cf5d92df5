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

    classes: the names, in the order of the logits; names are only ever appended.
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
        """(N, features) -> logits (N, len(classes))."""
        return F.linear(x, self.weight, self.bias)[:, : len(self._index)]

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
        rows = max(math.ceil(end / ROWS), 1) * ROWS
        if rows > len(self.weight):
            self.weight = _with_rows(self.weight, rows, optimizer)
            self.bias = _with_rows(self.bias, rows, optimizer)
        bound = 1 / math.sqrt(self.weight.shape[1])
        with torch.no_grad():
            self.weight[start:end].uniform_(-bound, bound)
            self.bias[start:end].uniform_(-bound, bound)


def _with_rows(old: nn.Parameter, rows: int, optimizer: Optimizer | None) -> nn.Parameter:
    new = nn.Parameter(_padded(old.detach(), rows), requires_grad=old.requires_grad)
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
            key: _padded(value, len(new)) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in optimizer.state.pop(old).items()
        }


def _padded(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])
