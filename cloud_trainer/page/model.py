"""What a trainer's loop tells its page: values, and how to make them of a robot. No frame is among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.wire.messages import AWAY_SECONDS, FleetExit, TrainerMetrics
from cloud_trainer.checkpoints import CHECKPOINTS, CheckpointFile, CheckpointFolder
from cloud_trainer.logs import AT
from cloud_trainer.robots.robot import Rejection, Robot
from hierarchy.runtime.page.history import History, Point


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


@dataclass(frozen=True, kw_only=True)
class RobotRow:
    """What a page shows of one robot at one moment. Shares are of 1; None where not known.

    online: whether it is there now. heard: seconds since its last message. network: backbone and cut. by_class,
    confusion: of held-out frames, as HeldOut's. problem: why its messages are not taken, empty where they are.
    doubt: why they seem to teach nothing, empty where they do. shared: the half that it shares with its fleet; None
    where that is its own. apart: why it shares nothing with all of its fleet, or a part, empty where it does.
    history: Unix times with exit loss, cloud loss, exit and cloud prequential accuracy.
    """

    name: str
    online: bool
    heard: float
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
    messages_rejected: int = 0
    messages_dropped: int = 0
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


class Rows:
    """Makes rows of robots, and keeps what they are made of over time: curves, and which checkpoint was looked at."""

    def __init__(
        self, run: Path, newest_exit: Callable[[str, str], FleetExit | None] = lambda _fleet, _front: None
    ) -> None:
        """newest_exit: of a fleet and front."""
        self._newest_exit = newest_exit
        self._checkpoints = CheckpointFolder(run)
        self._histories: dict[str, History] = {}
        self._saved: dict[str, tuple[int, CheckpointFile | None]] = {}

    def row(self, robot: Robot, now: float, wall: float) -> RobotRow:
        """Return a robot's row. now: monotonic seconds; wall: Unix time."""
        figures, said, standing = robot.trainer_metrics(now), robot.metrics, robot.standing
        loss, recent = (figures.cloud_loss, figures.cloud_recent) if figures else (None, None)
        exit_loss, exit_prequential = (said.exit_loss, said.exit_prequential) if said else (None, None)
        silence = now - robot.heard
        online = robot.online and silence <= AWAY_SECONDS
        history = self._histories.setdefault(robot.name, History())
        if online:  # what a robot said before it went away is no figure of now
            history.add(wall, exit_loss, loss, exit_prequential, recent)
        split = standing.split if standing else robot.state.split if robot.state else None
        return RobotRow(
            name=robot.name,
            online=online,
            heard=silence,
            network=f"{split.backbone}, cut after {split.cut}" if split else "",
            classes=standing.classes if standing else (),
            images=figures.images if figures else 0,
            exit_loss=exit_loss,
            cloud_loss=loss,
            exit_prequential=exit_prequential,
            cloud_recent=recent,
            exit_accuracy=said.exit_accuracy if said else None,
            cloud_accuracy=figures.cloud_accuracy if figures else None,
            bytes_per_image=said.bytes_per_image if said else None,
            jpeg_bytes_per_image=said.jpeg_bytes_per_image if said else None,
            images_per_second=said.images_per_second if said else None,
            queued=said.queued if said else None,
            dropped=said.dropped if said else None,
            messages_trained=figures.messages_trained if figures else 0,
            messages_waiting=robot.messages_waiting,
            messages_rejected=robot.quarantine.rejected,
            messages_dropped=robot.dropped,
            problem=robot.problem(now),
            doubt=robot.doubt,
            by_class=standing.by_class if standing else {},
            confusion=standing.confusion if standing else {},
            shared=self._shared(robot.training.log, figures),
            apart=robot.apart,
            checkpoint=self._checkpoint(robot.training.log, robot.training.saved_at),
            rejections=tuple(robot.rejections),
            history=history.points(),
        )

    def _shared(self, log: str, figures: TrainerMetrics | None) -> SharedHalf | None:
        if figures is None or not figures.fleet:
            return None
        front = log.partition(AT)[2]
        newest = self._newest_exit(figures.fleet, front)
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

    def _checkpoint(self, log: str, cursor: int) -> CheckpointFile | None:
        """Return a network's checkpoint in the run's folder, having looked again where there is another one."""
        before = self._saved.get(log)
        if before is None or before[0] != cursor:
            try:
                found = self._checkpoints.look(f"{CHECKPOINTS}/{log}")
            except OSError:
                found = None
            self._saved[log] = cursor, found
        return self._saved[log][1]


def ago(when: float, now: float | None = None) -> str:
    """Return how long ago a Unix time was, as people say it."""
    seconds = max(0.0, (time.time() if now is None else now) - when)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
