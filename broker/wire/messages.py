"""What the ends say to each other, as frozen values. How they look on the wire is for codec.py and activations.py.

Who speaks is in the topic, never in the message: the broker's access list guards topics.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from broker.wire.bounds import (
    MAX_CHANNELS,
    MAX_COUNT,
    MAX_DEADLINE_SECONDS,
    MAX_EDITS,
    MAX_FEATURES,
    MAX_IMAGE_SIZE,
    MAX_SAMPLES,
    MAX_TEACH_SECONDS,
    Amount,
    Bits,
    Count,
    Digest,
    Digests,
    EditCount,
    Fraction,
    Identifier,
    IdentifierOrNone,
    NameOrNone,
    Number,
    Piece,
    PieceNumber,
    SampleShape,
    Text,
    within,
)
from broker.wire.quantize import PackedActivations

# Where a robot's weights come from: random, the library's pretrained ones, a file, or a checkpoint of a former run.
Weights = Literal["none", "default", "file", "checkpoint"]

# What people may ask a robot to do.
Action = Literal[
    "teach",
    "stop",
    "undo",
    "rename",
    "merge",
    "forget",
    "forget-everywhere",
    "pause",
    "resume",
    "step",
    "look",
    "use-own",
    "use-fleet",
]

# What changes about classes after samples of them were sent: a class gets another name, which may be that of another
# one; a class is forgotten; what was taught in a session is taken back.
Change = Literal["rename", "forget", "undo"]

# Which end named a frame: the robot's early exit, or the cloud's segment.
AnsweredBy = Literal["exit", "cloud"]

# What becomes of a fleet's robot's samples: the fleet's half learns from them; a half of the robot's own does, and the
# robot is sent its fleet's exits all the same; and those that were shared before are taken out, too.
Share = Literal["yes", "no", "withdraw"]

# What an exit of a fleet looks at: what crosses the cut, or what the rest of the backbone makes of that.
ExitOn = Literal["cut", "end"]

# What became of a batch: trained (or evaluated), seen before, or refused with a reason.
Outcome = Literal["accepted", "duplicate", "rejected"]

# Each end publishes its state again this often: a retained state without one is left from a process that is gone.
HEARTBEAT_SECONDS = 5.0
# A peer, or a link, without a sign of life for so long counts as away: three heartbeats may be lost on a weak uplink.
AWAY_SECONDS = 4 * HEARTBEAT_SECONDS
# A robot asks at most so often; a camera's rate, nearly. A trainer leaves unanswered what comes much more often.
ASKS_PER_SECOND = 25.0


# Marks a field that peers of before it do not know: at its default it is left out of the message.
LATER = {"later": True}
# Mark a field that holds class names, and one whose words for people may mention some: names.py makes tokens of those.
NAMES_CLASSES = {"holds": "names"}
MENTIONS_CLASSES = {"holds": "words"}


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """Where and how one network is divided: all the cloud needs to build its segment.

    backbone: a torchvision classifier's name, or timm:NAME. cut: the node whose output crosses.
    image_size: pixels, square. bits: of a quantized value. bottleneck: channels that cross, 0 for all of them.
    shape: one sample as it crosses, channels first, after the bottleneck. A map
    with fewer rows than the cut has, and as many columns, is one of averages.
    """

    backbone: Text
    cut: Text
    image_size: Annotated[int, within(1, MAX_IMAGE_SIZE)]
    bits: Bits
    bottleneck: Annotated[int, within(0, MAX_CHANNELS)]
    shape: SampleShape

    @property
    def values(self) -> int:
        """Return how many numbers of one sample cross."""
        return math.prod(self.shape)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that tell this split from others."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class RobotState:
    """A robot's presence (retained; its last will says online=False).

    boot: 16 hexadecimal digits, new at each start. run: 16 more, the same at every start on one run folder. former: the
    run whose weights this one began with, empty for none. edits: class edits that a trainer was told of by now, so
    that one that comes later waits for none of them; states that differ in nothing else are equal. started: Unix time
    in seconds. rehearse: the rehearsed samples that the stream wants for each fresh one, at both ends (0 for a shuffled
    replay, 1 for a live camera). weights_digest: 16 hexadecimal digits of the pretrained weights that the robot's copy
    of the cloud's half began with, so that the trainer sees whether it began alike; empty for random ones. still:
    whether nothing that decides what crosses learns, so that a sample is never encoded otherwise. rest_weights: where
    weights are a checkpoint whose front still is as it began, what it began with, and a new cloud's half should. fleet:
    that the robot belongs to, empty for none. front: 16 hexadecimal digits of all that decides what crosses, where that
    stands still: of robots of one fleet whose front is the same one half in the cloud learns from all. exit: what an
    exit that its fleet makes for it is to look at. share: what becomes of its samples.
    """

    boot: Identifier
    run: Identifier
    former: IdentifierOrNone
    edits: EditCount = field(compare=False)
    started: Amount
    online: bool
    split: SplitSpec
    weights: Weights
    rehearse: Annotated[float, within(0, 16)]
    weights_digest: IdentifierOrNone = field(default="", metadata=LATER)
    still: bool = field(default=False, metadata=LATER)
    rest_weights: Weights = field(default="none", metadata=LATER)
    fleet: NameOrNone = field(default="", metadata=LATER)
    front: IdentifierOrNone = field(default="", metadata=LATER)
    exit: ExitOn = field(default="cut", metadata=LATER)
    share: Share = field(default="yes", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """A cloud trainer's presence (retained; its last will says online=False).

    trouble: why it takes no activations for now, as a full disk; empty while it does. metrics_by_robot: whether it
    tells each robot its metrics on a topic of that robot's, and not only on one of its own that all robots read.
    """

    boot: Identifier
    started: Amount
    online: bool
    trouble: Text = field(metadata=MENTIONS_CLASSES)
    metrics_by_robot: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class ActivationBatch:
    """Labelled activations at the cut, for training or, with evaluation > 0, only to be predicted.

    boot, sequence: name the message; sequence counts from 0 at each start. split: the SplitSpec's fingerprint.
    evaluation: 0 to train on, else the number of the evaluation round. progress: of the robot's run, 0 to 1, or None
    where the stream has no end. edge_version: optimizer steps behind these activations. edits: class edits made before
    it, so that those made later still apply to it. session: of teaching, counted from 1; 0 for none.
    classes: the names that occur here. labels: uint16 (N,), indices into classes.
    samples: uint32 (N,), the robot's number of each sample, 0 for none. again: they came before, and are encoded anew;
    of two activations with one number the one with the higher edge_version counts.
    """

    boot: Identifier
    sequence: Count
    split: Identifier
    evaluation: Count
    progress: Fraction | None = None
    edge_version: Count
    edits: EditCount
    session: Count
    classes: tuple[str, ...] = field(metadata=NAMES_CLASSES)
    labels: NDArray[np.uint16]
    samples: NDArray[np.uint32]
    again: bool
    activations: PackedActivations

    @property
    def names(self) -> list[str]:
        """The class name of each sample."""
        return [self.classes[index] for index in self.labels]


@dataclass(frozen=True, kw_only=True)
class ClassEdit:
    """A change of what samples are called, those included that were sent before and arrive later.

    boot, sequence: name the message, as an ActivationBatch's. number: of the edit in its run, from 1. name: the class;
    of an undo the one that began with the session, empty where it was known before. to: its new name, for a rename.
    session: the one taken back, for an undo; else 0. everywhere: whether a class is forgotten for all robots that share
    the half that the robot's samples train, and not for this robot alone.
    """

    boot: Identifier
    sequence: Count
    number: Annotated[int, within(1, MAX_EDITS)]
    change: Change
    name: Text = field(metadata=NAMES_CLASSES)
    to: Text = field(metadata=NAMES_CLASSES)
    session: Count
    everywhere: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a person asks a robot to do, from any MQTT client.

    id: chosen by who asks, so that the results can be told from others'. name: the class it is about. to: its new
    name. seconds: how long to teach. region: where in each frame to look, as --look has it.
    """

    id: Text = ""
    action: Action
    name: Text = field(default="", metadata=NAMES_CLASSES)
    to: Text = field(default="", metadata=NAMES_CLASSES)
    seconds: Annotated[float, within(0, MAX_TEACH_SECONDS)] = 0.0
    region: Text = field(default="", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """What came of a command. done: nothing more will be said of it; a teaching session says twice."""

    id: Text
    ok: bool
    done: bool
    text: Text = field(metadata=MENTIONS_CLASSES)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The cloud's word that one message is dealt with, so the robot may let go of it.

    held: seconds from when the message came in until this was sent, which tell nothing of the link.
    """

    boot: Identifier
    sequence: Count
    outcome: Outcome
    reason: Text = field(metadata=MENTIONS_CLASSES)
    held: Amount


@dataclass(frozen=True, kw_only=True)
class RobotMetrics:
    """How a robot is doing, for whoever listens. Accuracies are shares of 1; None where not known yet.

    images: trained on so far. queued: messages without a receipt; dropped: training samples that were never sent and
    never will be, as the robot's disk had no room. exit_version: of the newest exit of its fleet that it has, 0 for
    none. exit_refused: why that does not answer beside its own; empty where it does.
    """

    boot: Identifier
    images: Count
    classes: Count
    exit_loss: Number | None = None
    exit_prequential: Number | None = None
    exit_accuracy: Number | None = None
    images_per_second: Number
    bytes_per_image: Number | None = None
    raw_bytes_per_image: Number
    jpeg_bytes_per_image: Number | None = None
    messages_sent: Count
    messages_rejected: Count
    queued: Count
    dropped: Count
    exit_version: Count = field(default=0, metadata=LATER)
    exit_refused: Text = field(default="", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class TrainerMetrics:
    """How the cloud segment of one robot is doing.

    cloud_prequential: since the start; cloud_recent: over the last thousand images. evaluation: the latest round of
    held-out frames; evaluated: how many of it are predicted so far; cloud_accuracy: of those. messages_waiting: stored,
    but not trained on yet. quarantine: why this robot's messages are not taken for now; empty while they are.
    began_alike: whether the segment began with the pretrained weights that the robot told of; None where it told of
    none. fleet: whose robots the segment learns from, empty where it is this robot's alone; fleet_robots: how many they
    are; fleet_classes, fleet_images, fleet_accuracy: classes, images and accuracy as above, of all of them. apart: why
    a robot of a fleet shares its segment with none of it, or not with all. forgotten: classes that this robot taught
    and another one had forgotten everywhere, unless it taught them again; MAX_TOLD of them at most.
    """

    robot: Text
    boot: Identifier
    images: Count
    classes: Count
    cloud_loss: Number | None = None
    cloud_prequential: Number | None = None
    cloud_recent: Number | None = None
    cloud_accuracy: Number | None = None
    evaluation: Count
    evaluated: Count
    messages_trained: Count
    messages_waiting: Count
    messages_rejected: Count
    quarantine: Text = field(metadata=MENTIONS_CLASSES)
    began_alike: bool | None = field(default=None, metadata=LATER)
    fleet: NameOrNone = field(default="", metadata=LATER)
    fleet_robots: Count = field(default=0, metadata=LATER)
    fleet_classes: Count = field(default=0, metadata=LATER)
    fleet_images: Count = field(default=0, metadata=LATER)
    fleet_accuracy: Number | None = field(default=None, metadata=LATER)
    apart: Text = field(default="", metadata=LATER)
    forgotten: tuple[str, ...] = field(default=(), metadata=LATER | NAMES_CLASSES)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One frame's activations that the robot's exit is not sure of, for the cloud to name.

    boot, number: name the ask; number counts from 0 at each start. split: the SplitSpec's fingerprint. deadline:
    seconds that the robot waits from when it asks; a later answer is of no use. activations: of shape (1, C, ...).
    """

    boot: Identifier
    number: Count
    split: Identifier
    deadline: Annotated[float, within(0, MAX_DEADLINE_SECONDS)]
    activations: PackedActivations


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the cloud takes the frame of an ask for.

    boot, number: of the ask. classes: the most probable ones, in falling order. probabilities: of each, 0 to 1; what is
    missing to 1 is the other classes'. images: that the segment had learned from.
    """

    boot: Identifier
    number: Count
    classes: tuple[str, ...] = field(metadata=NAMES_CLASSES)
    probabilities: tuple[Fraction, ...]
    images: Count


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A robot's request to be answered, so that it knows the link, or to be told how long training here takes.

    boot: of who asks. number: of the probe, from 0. split: whose cloud half to time; None for the link alone. rest:
    bytes that mean nothing, to fill the link.
    """

    boot: Identifier
    number: Count
    split: SplitSpec | None = None
    rest: bytes


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe found.

    boot, number: as in the probe. seconds: of a training step of so many samples, at the trainer's batch; 0 samples
    where nothing was timed. trouble: why not, though it was asked for, for people.
    """

    boot: Identifier
    number: Count
    seconds: Annotated[float, within(0, 1e9)]
    samples: Annotated[int, within(0, MAX_SAMPLES)]
    trouble: Text = field(metadata=MENTIONS_CLASSES)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a robot takes a frame for, for whoever acts on it.

    time: Unix time in seconds at which the frame came. name: of the class; empty where none that is known fits.
    confidence: 0 to 1, calibrated: of the answers with 0.8 some 80 % should be right. by: who knew. latency: seconds
    from the frame to this prediction.
    """

    boot: Identifier
    time: Amount
    name: Text = field(metadata=NAMES_CLASSES)
    confidence: Fraction
    by: AnsweredBy
    latency: Amount


@dataclass(frozen=True, kw_only=True)
class FleetExit:
    """An exit for all robots of a fleet that have one front, and the pieces that it comes in (retained).

    boot: of the trainer that made it. version: from 1; a later one counts more, whoever made it. made: Unix time in
    seconds. front: digest of the front it belongs behind, as of RobotState. split: the SplitSpec's fingerprint. on,
    features: what its head takes of a frame, and how many numbers. accuracy: of it, as it is sent, on held_out samples
    of the fleet's robots; None for none. temperature, least_confidence: its calibration on those. first: the number of
    its first piece. size, digest: of all pieces in a row, SHA-256. pieces: the digest of each.
    """

    boot: Identifier
    version: Annotated[int, within(1, MAX_COUNT)]
    made: Amount
    front: Identifier
    split: Identifier
    on: ExitOn
    features: Annotated[int, within(1, MAX_FEATURES)]
    classes: tuple[str, ...] = field(metadata=NAMES_CLASSES)
    accuracy: Fraction | None = None
    held_out: Count
    temperature: Annotated[float, within(0.01, 100)]
    least_confidence: Fraction
    first: PieceNumber
    size: Count
    digest: Digest
    pieces: Digests


@dataclass(frozen=True, kw_only=True)
class ExitPiece:
    """A part of a fleet's exit (retained). Whose it is says its digest."""

    data: Piece


def exit_place(front: str, split: str, on: ExitOn) -> str:
    """Return 16 hexadecimal digits: the exits of a fleet that lie together replace one another."""
    return hashlib.sha256(f"{front} {split} {on}".encode()).hexdigest()[:16]


Message = (
    RobotState
    | TrainerState
    | ActivationBatch
    | ClassEdit
    | Receipt
    | Ask
    | Answer
    | Command
    | CommandResult
    | RobotMetrics
    | TrainerMetrics
    | Prediction
    | Probe
    | ProbeResult
    | FleetExit
    | ExitPiece
)
