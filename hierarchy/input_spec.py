"""What a network wants its input to look like. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]

Triple = tuple[float, float, float]

# Of ImageNet, in RGB: what torchvision's pretrained weights expect, and as good as any for others.
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Triple = (0.229, 0.224, 0.225)
# Of most pretrained weights.
USUAL_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How a picture becomes a network's input.

    size: pixels a side that the weights were trained for. mean, deviation: of each colour of RGB, as shares of 255.
    interpolation: how pictures are scaled. crop: the share of a picture's shorter side that the weights' authors test
    with.
    """

    size: int = USUAL_SIZE
    mean: Triple = IMAGENET_MEAN
    deviation: Triple = IMAGENET_DEVIATION
    interpolation: Interpolation = "bilinear"
    crop: float = 1.0
