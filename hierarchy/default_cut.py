"""Where a pretrained network is cut where nobody says where, and what crosses there."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.backbone import Backbone
from hierarchy.cut import CutPoint, deepest_cut

# Pixels of the picture for each bit that crosses: 784 bytes of 224 pixels, where a JPEG has 10,600.
PIXELS_PER_BIT = 8
# Bits of a value of a pooled map. With fewer, fewer places at more bits keep more; more change nothing any more.
MIN_MAP_BITS, MAX_MAP_BITS = 3, 4
# Bits of a value of tokens, which cannot be pooled.
TOKEN_BITS = 2


@dataclass(frozen=True, kw_only=True)
class DefaultCut:
    """Settings of a cut, by the names that they have as flags.

    pool: places a side that cross, 0 for all. bottleneck: channels that cross, 0 for all.
    """

    cut: str
    pool: int
    bottleneck: int
    bits: int


def default_cut(backbone: Backbone) -> DefaultCut:
    """Return where to cut a pretrained network whose exit sits at its end, and what should cross.

    A robot runs such a network as a whole, so a deep cut costs it nothing. Deep maps hold what a picture shows, and
    where it shows it matters little by then: they are averaged over few places. The last layer is left to the cloud:
    without it the cloud would have no features to learn.

    Raises CutError for a network that cannot be cut so.
    """
    return cross_at(deepest_cut(backbone), image_size=backbone.image_size)


def cross_at(point: CutPoint, *, image_size: int) -> DefaultCut:
    """Return what should cross at a cut. image_size: pixels a side."""
    budget, (channels, *places) = image_size**2 // PIXELS_PER_BIT, point.shape
    name = point.module or point.name
    if len(places) == 1:
        fitting = max(1, budget // (places[0] * TOKEN_BITS))
        return DefaultCut(cut=name, pool=0, bottleneck=fitting if fitting < channels else 0, bits=TOKEN_BITS)
    side = min([*places, max(1, int((budget / (channels * MIN_MAP_BITS)) ** 0.5))])
    pool = side if places and side < max(places) else 0
    values = channels * side ** len(places)
    return DefaultCut(cut=name, pool=pool, bottleneck=0, bits=max(1, min(MAX_MAP_BITS, budget // values)))
