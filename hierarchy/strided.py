"""1 x 1 convolutions of a larger stride, without the library's own: on some processors that one corrupts the heap.

docs/upstream.md has which, and how to see it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class StridedViewConv2d(nn.Conv2d):
    """A 1 x 1 convolution of a larger stride, as one of stride 1 over the pixels that it looks at."""

    def forward(self, maps: Tensor) -> Tensor:
        down, right = self.stride
        return F.conv2d(maps[:, :, ::down, ::right], self.weight, self.bias, groups=self.groups)


def convolution_class(layer: nn.Conv2d) -> type[nn.Conv2d]:
    """Return what computes a convolution safely: PyTorch's own class, or StridedViewConv2d."""
    strided = layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.padding in {(0, 0), "valid"}
    return StridedViewConv2d if strided else nn.Conv2d


def view_strided(module: nn.Module) -> None:
    """Compute all 1 x 1 convolutions of a larger stride below a module as StridedViewConv2d does.

    Only their class changes: parameters, hooks and names stay what they are, so checkpoints do not know of it.
    """
    for one in module.modules():
        if type(one) is nn.Conv2d:
            one.__class__ = convolution_class(one)
