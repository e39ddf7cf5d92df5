"""The edge segment that a robot's settings ask for."""

from __future__ import annotations

from broker.errors import ConfigError, CrossingError
from broker.wire.messages import SplitSpec, Weights
from hierarchy.backbone import Weights as Initial
from hierarchy.edge import EdgeSegment, build_edge_segment
from hierarchy.learner import restore_weights
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.learning.automatic import resolved
from robot_edge.learning.former_versions import NETWORK
from robot_edge.learning.settings import NetworkSettings


def build_edge(network: NetworkSettings) -> tuple[EdgeSegment, SplitSpec, Weights]:
    """Return the segment that these settings ask for, what the cloud needs to know of it, and where it starts.

    Raises ConfigError, and CutError where the network cannot be cut there.
    """
    network = resolved(network)
    assert network.exit != "auto"
    start, weights = _start_of(network)
    try:
        segment, split = build_edge_segment(
            network.backbone,
            network.cut,
            image_size=network.image_size,
            bits=network.bits,
            bottleneck_channels=network.bottleneck,
            weights=weights,
            freeze=network.frozen_layers,
            exit_at=network.exit,
            pool=network.pool,
        )
    except CrossingError as error:
        if network.privacy == "off":
            raise
        raise CrossingError(
            f"{error}. --privacy {network.privacy} comes to --pool {network.pool} and --bottleneck "
            f"{network.bottleneck} where nobody says: name the one that does not fit"
        ) from error
    if network.former_run is None:
        return segment, split, start
    advice = "--weights takes none, default, a state dict (.pth, .safetensors), or the run folder of a former run"
    saved = load_checkpoint(network.former_run / "checkpoint", NETWORK, advice)
    try:
        restore_weights(segment, segment.exit.head, saved.trainer.learner)
    except RuntimeError as error:
        raise ConfigError(f"--weights {network.weights} is of another network, {saved.split}: {error}") from error
    return segment, split, "checkpoint"


def _start_of(network: NetworkSettings) -> tuple[Weights, Initial]:
    if network.weights_file:
        return "file", network.weights_file
    return ("default", "default") if network.weights == "default" else ("none", "none")
