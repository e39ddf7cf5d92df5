"""The robot's half: front of the backbone, bottleneck, early exit."""

from __future__ import annotations

from torch import Tensor, nn

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec, Weights
from hierarchy.backbone import build_backbone
from hierarchy.cut import Divided, divide
from hierarchy.layers import EarlyExit, bottleneck
from hierarchy.learner import restore_weights
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.run.config import RobotConfig

# Stands for the first convolution and the normalisation behind it, whatever a backbone calls them.
STEM = "stem"


class EdgeSegment(nn.Module):
    """Encodes images to the activations that cross, and predicts from them with an early exit."""

    def __init__(self, divided: Divided, bottleneck_channels: int, freeze: tuple[str, ...] = ()) -> None:
        """Put the halves' front to work. freeze: layers to leave as they are, by name or STEM.

        Raises CutError for an impossible bottleneck and ConfigError for a layer that the front does not have.
        """
        super().__init__()
        self.front = divided.front
        self.bottleneck = bottleneck(divided.shape, bottleneck_channels)
        self.shape = (bottleneck_channels or divided.shape[0], *divided.shape[1:])
        self.exit = EarlyExit(self.shape)
        self._frozen = _layers(self.front, freeze)
        for layer in self._frozen:
            layer.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """Return activations (N, C, ...) for normalised images (N, 3, H, W)."""
        activations: Tensor = self.bottleneck(self.front(images))
        return activations

    def train(self, mode: bool = True) -> EdgeSegment:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()  # its running statistics stay as they are, too
        return self


def build_edge(config: RobotConfig) -> tuple[EdgeSegment, SplitSpec, Weights]:
    """Return the segment that a robot's settings ask for, what the cloud needs to know of it, and where it starts.

    Raises ConfigError, and CutError where the network cannot be cut there.
    """
    pretrained = config.weights == "default"
    backbone = build_backbone(
        config.backbone, image_size=config.image_size, weights="default" if pretrained else "none"
    )
    divided = divide(backbone, config.cut)
    segment = EdgeSegment(divided, config.bottleneck, config.frozen_layers)
    split = SplitSpec(
        backbone=config.backbone,
        cut=divided.cut,
        image_size=config.image_size,
        bits=config.bits,
        bottleneck=config.bottleneck,
        shape=segment.shape,
    )
    if config.former_run is None:
        return segment, split, "default" if pretrained else "none"
    parts, about = load_checkpoint(
        config.former_run / "checkpoint", "--weights takes none, default, or the run folder of a former run"
    )
    try:
        restore_weights(segment, segment.exit.head, parts, about)
    except RuntimeError as error:
        raise ConfigError(f"--weights {config.weights} is of another network, {about.get('split')}: {error}") from error
    return segment, split, "checkpoint"


def _layers(front: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the layers of those names."""
    # A layer is named as in torchvision: layer1, features.3, ... A name stands for all that is below it.
    # The tracer leaves a module out of the front where only its children are called, hence the prefixes.
    leaves = {name: module for name, module in front.named_modules() if not list(module.children())}
    found: list[nn.Module] = []
    for name in names:
        if name == STEM:
            first = [module for module in leaves.values() if list(module.parameters(recurse=False))]
            normalised = len(first) > 1 and isinstance(first[1], nn.modules.batchnorm._NormBase)
            found += first[: 2 if normalised else 1]
            continue
        below = [module for leaf, module in leaves.items() if leaf == name or leaf.startswith(name + ".")]
        if not below:
            known = ", ".join(dict.fromkeys([STEM, *(leaf.split(".")[0] for leaf in leaves), *leaves]))
            raise ConfigError(f"--freeze {name}: the edge segment has no such layer; it has {known}")
        found += below
    return found
