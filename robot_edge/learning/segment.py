"""The edge segment that a robot's settings ask for."""

from __future__ import annotations

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec, Weights
from hierarchy.backbone import build_backbone
from hierarchy.cut import divide
from hierarchy.edge import EdgeSegment as EdgeSegment
from hierarchy.learner import restore_weights
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.run.config import RobotConfig


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
