"""Settings of the network's front, and of how it learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.errors import ConfigError
from broker.program.paths import typed_path
from broker.wire.quantize import MAX_BITS, MIN_BITS
from hierarchy.runtime.command_line import check_range
from hierarchy.runtime.settings import is_weights_file
from robot_edge.learning.framing import WHOLE_TEXT, Fit, Region, parse_region

# How little what crosses may tell of a frame. auto is none of these levels once the settings are resolved.
Privacy = Literal["auto", "off", "low", "medium", "high"]

# What leaves a setting open, by its name.
AUTOMATIC = {
    "backbone": "auto",
    "cut": "auto",
    "bits": 0,
    "bottleneck": -1,
    "pool": -1,
    "image_size": 0,
    "weights": "auto",
    "freeze": "auto",
    "exit": "auto",
    "privacy": "auto",
    "hide": "auto",
}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network is trained, where it is cut, and what crosses the cut."""

    backbone: str = "auto"
    """Any classifier of torchvision, or of timm as timm:NAME. Images of up to 64 pixels get a smaller first
    convolution. auto: resnet18, but timm:tf_efficientnet_lite0 with its pretrained weights for a camera of whose
    network nothing is said."""
    cut: str = "auto"
    """The layer behind which the network is cut, by its name; list prints all. auto: layer2, but of a network that
    stands still the last one that leaves the cloud a layer."""
    bits: int = 0
    """Bits of each value sent, 1 to 8; 0: 4, or what fits a network that stands still."""
    least_bits: int = 2
    """Bits of each value at least. Where the link is too slow for --bits, the robot sends fewer, one by one, down to
    these; later more again. As many as --bits: always --bits."""
    bottleneck: int = -1
    """Channels sent, made from the cut's by a learned 1x1 convolution. 0 sends all, and so does -1."""
    pool: int = -1
    """Places a side sent, each an average of the map at the cut; 0 sends the map as it is. Behind a cut deep in a
    pretrained network 2 lose next to nothing. -1: 0, or what fits a network that stands still."""
    image_size: int = 0
    """Side of the square that frames are scaled to, in pixels. 0: 32, but with pretrained weights what they were
    trained for."""
    privacy: Privacy = "auto"
    """How little what crosses tells of a frame (docs/how-to/tell-less.md). It says what --pool, --bottleneck and --bits
    come to where they are left open: low 2 x 2 averages of 16 channels at four bits, medium one average of 64 channels
    at two bits, high of 48 at one bit; of a network that stands still, fewer bits. And nothing is sent before an
    attack on the robot's own frames has found the front to hold that line: they are held back, and encoded anew. auto:
    off, but with --weights of a former run as it was there."""
    hide: str = "auto"
    """An attribute that the cloud must not learn, such as who or where: a folder with a sub-folder of frames for each
    of its values, or a CSV file with the columns file and value. The front learns to tell none of it, and the frames
    stay here. It takes --bits 1, which --bits 0 then comes to. none hides nothing. auto: nothing, but with --weights of
    a former run what that run hid."""
    look: str = WHOLE_TEXT
    """Where in each frame to look: left, top, width and height, as in 160,48,320,384 (pixels) or 25%,10%,50%,80%.
    Where else to look can be said while a live robot runs."""
    fit: Fit = "crop"
    """How what is looked at becomes a square: crop takes the largest centred one, letterbox puts grey bars beside it,
    squash makes its sides equal."""
    weights: str = "auto"
    """Where to start from: none (random), default (the library's pretrained ones, in both halves), a state dict of
    torchvision or timm (.pth or .safetensors; the trainer needs the same file), or the run folder of a former run on
    this robot, whose frames to rehearse come along. auto: none, but for a camera of whose network nothing is said."""
    freeze: str = "auto"
    """Layers to leave as they are, separated by commas: none; stem for the first convolution, others by name, as in
    stem,layer1; all for the whole of them, and the bottleneck. Then the exit's head alone learns, from features that
    are kept beside each remembered frame. auto: all with pretrained weights and more than 64 pixels, else none."""
    exit: Literal["auto", "cut", "end"] = "auto"
    """Where the exit is: cut, or end for an exit behind the whole backbone, which the robot then computes, too. auto:
    end of a network that stands still, else cut."""

    def __post_init__(self) -> None:
        if self.bits:
            check_range("bits", self.bits, MIN_BITS, MAX_BITS)
        check_range("least-bits", self.least_bits, MIN_BITS, MAX_BITS)
        check_range("bottleneck", self.bottleneck, -1, 8192)
        check_range("pool", self.pool, -1, 1024)
        if self.image_size:
            check_range("image-size", self.image_size, 8, 1024)
        region_of(self.look)

    @property
    def stands_still(self) -> bool:
        """Whether nothing learns but the exit's head."""
        return "all" in self.frozen_layers

    @property
    def hidden_path(self) -> Path | None:
        """The path that --hide names; None where nothing is to be hidden."""
        return typed_path(self.hide) if self.hide not in {"", "auto", "none"} else None

    @property
    def frozen_layers(self) -> tuple[str, ...]:
        """The names in --freeze."""
        names = (name.strip() for name in self.freeze.split(","))
        return tuple(name for name in names if name not in {"", "none"})

    @property
    def former_run(self) -> Path | None:
        """The run folder that --weights names; None where they come from elsewhere."""
        return None if self.weights in {"auto", "none", "default"} or self.weights_file else typed_path(self.weights)

    @property
    def weights_file(self) -> Path | None:
        """The state dict that --weights names; None where they come from elsewhere."""
        return typed_path(self.weights) if is_weights_file(self.weights) else None


def region_of(look: str) -> Region:
    """Return the region that --look names. Raises ConfigError, which names the flag."""
    try:
        return parse_region(look)
    except ConfigError as error:
        raise ConfigError(f"--look: {error}") from None


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """How the robot's half learns, and what it rehearses."""

    batch: int = 64
    """Frames in a training step, fresh and rehearsed together."""
    learning_rate: float = 0.05
    """Peak learning rate of SGD, one-cycle where the length of the source is known."""
    rehearse: float = -1.0
    """Rehearsed frames for each fresh one, at both ends. Default: 1, but 0 for a shuffled folder without phases and
    without --weights of a former run."""
    rehearsal_mb: float = 16.0
    """Memory for frames to rehearse, in megabytes; they never leave the robot. They lie in it as JPEG, some 3,900 of 32
    pixels in each megabyte."""
    encode_anew: bool = True
    """Also send what is rehearsed, as the network encodes it by now; the cloud then rehearses that in place of what it
    was sent before. About twice the bytes where each fresh frame has a rehearsed one; not while the link is behind."""
    practice: float = 0.5
    """Training steps on remembered frames alone that each frame is worth: of a live robot, when nothing new comes; at
    most, at the end of a replay that ended on some of its classes."""
    checkpoint_every: int = 200
    """Training steps between two checkpoints. What a killed replay learned since the last one it learns again; a live
    robot also writes one at the beginning and end of each lesson."""

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 2, 1024)
        check_range("learning-rate", self.learning_rate, 1e-7, 100)
        if self.rehearse != -1:
            check_range("rehearse", self.rehearse, 0, 16)
        check_range("rehearsal-mb", self.rehearsal_mb, 0, 10**6)
        check_range("practice", self.practice, 0, 1000)
        check_range("checkpoint-every", self.checkpoint_every, 1, 10**9)
