"""The white-box attacker: looks for the picture that the known front encodes to what crossed.

Mahendran and Vedaldi, "Understanding deep image representations by inverting them", 2015, with their total variation.
Who knows the front: whoever has the robot, the public weights that stand still in it, or the seed it began with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierarchy.attack.decoder import OnStep
from hierarchy.attack.pairs import Reconstructions, Scale, Values

# Pictures (N, 3, h, w) from 0 to 1 to what crosses (N, C, ...), with a gradient. Each picture must be encoded by
# itself, as in evaluation mode.
Front = Callable[[Tensor], Tensor]

# Of Adam, on shares of the pixels' range, falling to a tenth.
RATE = 0.03
# What a mean step between neighbouring pixels costs, beside the mean squared error in deviations of a channel.
VARIATION = 1.0


def invert(
    front: Front,
    values: Values,
    start: Reconstructions,
    *,
    scale: Scale,
    image_size: int,
    steps: int,
    on_step: OnStep = lambda _: False,
) -> Reconstructions:
    """Return pictures, float32 (N, h, w, 3), whose encoding comes close to values float32 (N, C, ...).

    start: what is painted over, (N, h, w, 3): the mean picture, or what another attacker saw. scale: of channels, as
    the attacker knows them. image_size: pixels a side of the front's input; smaller pictures are enlarged for it.
    """
    target = torch.from_numpy(values)
    deviation = torch.from_numpy(scale.deviation)
    painted = torch.from_numpy(start.transpose(0, 3, 1, 2).copy()).requires_grad_()
    optimizer = torch.optim.Adam([painted], lr=RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - 0.9 * step / steps)
        pictures = _enlarged(painted, image_size)
        errors = ((front(pictures) - target) / deviation).square().flatten(1).mean(1)
        # Summed, as Adam looks at each pixel by itself: how many pictures there are changes nothing.
        loss = (errors + VARIATION * _variation(painted)).sum()
        (painted.grad,) = torch.autograd.grad(loss, painted)
        optimizer.step()
        with torch.no_grad():
            painted.clamp_(0, 1)
        if on_step(step + 1):
            break
    found: Reconstructions = np.ascontiguousarray(painted.detach().numpy().transpose(0, 2, 3, 1))
    return found


def _enlarged(pictures: Tensor, side: int) -> Tensor:
    return pictures if pictures.shape[2] == side else F.interpolate(pictures, (side, side), mode="bilinear")


def _variation(pictures: Tensor) -> Tensor:
    """Return the mean absolute step between neighbours of each picture, (N,)."""
    down, across = pictures.diff(dim=2).abs(), pictures.diff(dim=3).abs()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)
