"""What a trainer's loop tells its page: values. No frame is among them, and no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.wire.messages import FleetExit, TrainerMetrics
from cloud_trainer.logs import AT
from cloud_trainer.robots.robot import Rejection
from hierarchy.runtime.page.history import Point

if TYPE_CHECKING:
    from cloud_trainer.checkpoints import CheckpointFile


@dataclass(frozen=True, kw_only=True)
class SharedHalf:
    """A half that robots of a fleet share.

    front: what tells it from others of the fleet. accuracy: on all held-out frames of theirs; None where not known.
    exit_version, exit_accuracy: of the newest exit that its robots are sent, 0 for none.
    """

    fleet: str
    front: str
    robots: int
    images: int
    classes: int
    accuracy: float | None
    exit_version: int = 0
    exit_accuracy: float | None = None

    @property
    def log(self) -> tuple[str, str]:
        """What no other half has."""
        return self.fleet, self.front


def shared_half(
    log: str, figures: TrainerMetrics | None, newest_exit: Callable[[str, str], FleetExit | None]
) -> SharedHalf | None:
    """Return the half that a robot shares, of what it is told of its training; None for one of its own.

    log: that it belongs to. newest_exit: of a fleet and front.
    """
    if figures is None or not figures.fleet:
        return None
    front = log.partition(AT)[2]
    newest = newest_exit(figures.fleet, front)
    return SharedHalf(
        fleet=figures.fleet,
        front=front,
        robots=figures.fleet_robots,
        images=figures.fleet_images,
        classes=figures.fleet_classes,
        accuracy=figures.fleet_accuracy,
        exit_version=newest.version if newest else 0,
        exit_accuracy=newest.accuracy if newest else None,
    )


@dataclass(frozen=True, kw_only=True)
class RobotRow:
    """What a page shows of one robot at one moment. Shares are of 1; None where not known.

    online: whether it is there now. network: backbone and cut. by_class,
    confusion: of held-out frames, as HeldOut's. problem: why its messages are not taken, empty where they are.
    doubt: why they seem to teach nothing, empty where they do. shared: the half that it shares with its fleet; None
    where that is its own. apart: why it shares nothing with all of its fleet, or a part, empty where it does.
    history: Unix times with exit loss, cloud loss, exit and cloud prequential accuracy.
    """

    name: str
    online: bool
    network: str = ""
    classes: tuple[str, ...] = ()
    images: int = 0
    exit_loss: float | None = None
    cloud_loss: float | None = None
    exit_prequential: float | None = None
    cloud_recent: float | None = None
    exit_accuracy: float | None = None
    cloud_accuracy: float | None = None
    bytes_per_image: float | None = None
    jpeg_bytes_per_image: float | None = None
    images_per_second: float | None = None
    queued: int | None = None
    dropped: int | None = None
    messages_trained: int = 0
    messages_waiting: int = 0
    messages_rejected: int | None = 0
    messages_dropped: int | None = 0
    problem: str = ""
    doubt: str = ""
    by_class: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None
    shared: SharedHalf | None = None
    apart: str = ""
    rejections: tuple[Rejection, ...] = ()
    history: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """What a page shows of a trainer. store_limit: bytes. link, problem: what is wrong, empty where nothing is.

    strangers: what was rejected of robots that this trainer does not know; strangers_rejected: how much in all.
    """

    robots: tuple[RobotRow, ...] = ()
    store_bytes: int = 0
    store_limit: float = 0.0
    link: str = ""
    problem: str = ""
    strangers: tuple[Rejection, ...] = ()
    strangers_rejected: int = 0
    strangers_dropped: int = 0

    @property
    def shared(self) -> list[SharedHalf]:
        """The halves that robots share, each once, by fleet and front."""
        halves = {one.log: one for row in self.robots if (one := row.shared)}
        return [halves[name] for name in sorted(halves)]


@dataclass
class PageModel:
    """Where the trainer's loop pins up what is so; replaced as a whole, so any thread may read it."""

    trainer: str
    state: FleetState = field(default_factory=FleetState)


def ago(when: float, now: float | None = None) -> str:
    """Return how long ago a Unix time was, as people say it."""
    seconds = max(0.0, (time.time() if now is None else now) - when)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
