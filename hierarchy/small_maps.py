"""Convolutions of small maps as matrix products: the same values, on a CPU in half of the time or less.

Where a map has a few pixels and hundreds of channels, as at the end of a network for small pictures, libraries for
convolutions spend their time on laying out weights, above all for the weights' gradient.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierarchy.strided import StridedViewConv2d, convolution_class

# Pixels of a convolution's output up to which a product is faster, in float32 and in bfloat16:
# docs/results/computing.md.
MAX_PIXELS, MAX_PIXELS_HALF = 4, 16


class SmallMapConv2d(nn.Conv2d):
    """A convolution that multiplies matrices where its output is small."""

    def forward(self, maps: Tensor) -> Tensor:
        (height, width), (down, right) = self.kernel_size, self.stride
        above, left = (int(one) for one in self.padding)
        rows = (maps.shape[2] + 2 * above - height) // down + 1
        columns = (maps.shape[3] + 2 * left - width) // right + 1
        half = torch.is_autocast_enabled(maps.device.type)
        if rows * columns > (MAX_PIXELS_HALF if half else MAX_PIXELS):
            return convolution_class(self).forward(self, maps)
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, left, left, above, above))
        # For each pixel of the output all that it sees, (N, rows, columns, height * width * channels).
        seen = [
            padded[:, y : y + down * (rows - 1) + 1 : down, x : x + right * (columns - 1) + 1 : right]
            for y in range(height)
            for x in range(width)
        ]
        weights = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(seen, dim=-1), weights, self.bias).permute(0, 3, 1, 2)


def multiply_small_maps(module: nn.Module, *, yes: bool) -> None:
    """Let all plain convolutions below a module multiply matrices where their output is small, or no more.

    Only their class changes: parameters, hooks and names stay what they are, so checkpoints do not know of it.
    """
    for one in module.modules():
        if type(one) in {nn.Conv2d, StridedViewConv2d, SmallMapConv2d} and _is_plain(one):
            one.__class__ = SmallMapConv2d if yes else convolution_class(one)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
