"""How a trainer's loop makes its page's rows of robots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from broker.wire.messages import AWAY_SECONDS, FleetExit
from cloud_trainer.checkpoints import CHECKPOINTS, CheckpointFile, CheckpointFolder
from cloud_trainer.page.model import RobotRow, shared_half
from cloud_trainer.robots.robot import Robot
from hierarchy.runtime.page.history import History


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
            shared=shared_half(robot.training.log, figures, self._newest_exit),
            apart=robot.apart,
            checkpoint=self._checkpoint(robot.training.log, robot.training.saved_at),
            rejections=tuple(robot.rejections),
            history=history.points(),
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
