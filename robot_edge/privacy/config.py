"""Settings of `robot-edge privacy`."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.program.paths import typed_path
from hierarchy.runtime.command_line import check_range
from robot_edge.learning.settings import region_of
from robot_edge.sources.settings import SourceOptions

# With fewer of its own a linear attacker learns little, and an audit would call safe what it is not; of fewer that are
# attacked the shares would jump by 2 % and more.
LEAST_OWN, LEAST_ATTACKED = 200, 50


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard is attacked.

    frames, attacked: read in all, and of them attacked; the rest is the attacker's own. decoder_steps: of 64 pairs.
    other_steps: the same, of an attacker with frames of another kind. inverted, inversion_steps: frames that are looked
    for through the front, and how long. side: of pictures that are painted, in pixels at most.
    """

    frames: int
    attacked: int
    decoder_steps: int
    other_steps: int
    inverted: int
    inversion_steps: int
    side: int


THOROUGH = Effort(
    frames=9_000,
    attacked=1_000,
    decoder_steps=3_000,
    other_steps=1_500,
    inverted=50,
    inversion_steps=300,
    side=64,
)
# A decoder of half the side takes a quarter of the time.
QUICK = Effort(frames=2_500, attacked=500, decoder_steps=500, other_steps=150, inverted=8, inversion_steps=80, side=32)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Settings of `robot-edge privacy`."""

    checkpoint: str
    """Run folder of the robot whose activations are attacked."""
    source: str = field(repr=False)  # its URL may have a password
    """Frames such as the robot sees, as for `robot-edge run`. Most are the attacker's own, the others are attacked."""
    attacker_source: str = field(default="", repr=False)
    """Frames of another kind, for an attacker who has no such frames as the robot sees. Default: frames of half of the
    classes, where --source has labels; the other half is attacked."""
    payloads: str = ""
    """A trainer's store.db with what the robot sent. Then this is attacked, and --source is the attacker's own. Sent
    frames are told by the run's memory of frames."""
    attribute: str = ""
    """Folder with one sub-folder of pictures for each value of something that the cloud should not learn, such as who
    or where. How often it is named right is measured."""
    most_ssim: float = 0.35
    """The line: structural similarity of frames and the strongest attacker's pictures at most, 0 to 1. At about 0.5 a
    person recognises what is shown."""
    most_found: float = 0.1
    """The line: share of frames at most that the strongest attacker finds among 1,000."""
    most_attribute: float = 1.0
    """The line: share of --attribute named right at most, 0 to 1."""
    quick: bool = False
    """Fewer frames and shorter attacks: two minutes on two cores. Attackers are weaker then."""
    frames: int = 0
    """Frames to read at most; 0: 9,000, with --quick 2,500."""
    look: str = ""
    """Where in each frame to look, as for `robot-edge run`. Default: where the run looks."""
    out: str = ""
    """Folder for privacy.json and privacy.png. Default: the checkpoint's run folder."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice."""
    seed: int = 0
    """Seed of which frames are attacked, and of the attackers."""
    options: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        for name in ("checkpoint", "payloads", "attribute", "out"):
            if text := getattr(self, name):
                object.__setattr__(self, name, str(typed_path(text)))
        if self.look:
            region_of(self.look)
        for name in ("most_ssim", "most_found", "most_attribute"):
            check_range(name.replace("_", "-"), getattr(self, name), 0, 1)
        if self.frames:
            check_range("frames", self.frames, LEAST_OWN + LEAST_ATTACKED, 10**6)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)

    @property
    def effort(self) -> Effort:
        """How hard is attacked."""
        return QUICK if self.quick else THOROUGH
