"""The cloud's half: back from the bottleneck, rest of the backbone, growing head."""

from __future__ import annotations

from torch import Tensor, nn

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from hierarchy.backbone import build_backbone
from hierarchy.cut import divide
from hierarchy.head import GrowingHead
from hierarchy.layers import expansion


class CloudSegment(nn.Module):
    """Predicts classes from the activations that crossed."""

    def __init__(self, split: SplitSpec, *, pretrained: bool) -> None:
        """Build the half that a split leaves to the cloud. Raises ConfigError where the split is impossible."""
        super().__init__()
        backbone = build_backbone(
            split.backbone, image_size=split.image_size, weights="default" if pretrained else "none"
        )
        divided = divide(backbone, split.cut)
        crossing = (split.bottleneck or divided.shape[0], *divided.shape[1:])
        if crossing != split.shape:
            raise ConfigError(f"the split says that {split.shape} crosses, {split.cut} gives {crossing}")
        self.expansion = expansion(divided.shape, split.bottleneck)
        self.rest = divided.rest
        self.head = GrowingHead(backbone.features)

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits (N, classes) for activations (N, C, ...)."""
        logits: Tensor = self.head(self.rest(self.expansion(activations)))
        return logits
