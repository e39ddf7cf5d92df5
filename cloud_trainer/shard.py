"""Which robots belong to which of a trainer's workers, and where a run has the workers' folders.

The worker follows from the robot's name alone, so that nobody has to be asked, and a run that is gone on with finds
each robot's network where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import digits
from zlib import crc32

from broker.errors import MalformedMessage
from broker.wire import topics


def worker_of(robot: str, workers: int) -> int:
    """Return the number of the worker that a robot belongs to.

    Fleets number their robots, and r1, r2, r3 are to go to one worker after the other: a hash of the whole name may
    well put all three of them on the same. What stands in front of the number is hashed.
    """
    stem = robot.rstrip(digits)
    return (crc32(stem.encode()) + int(robot[len(stem) :] or 0)) % workers


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one of a trainer's workers listens to."""

    trainer: str
    number: int
    workers: int

    def wants(self, topic: str) -> bool:
        """Whether the worker takes what came in on a topic: from its robots, and from trainers but its siblings."""
        try:
            role, name, _ = topics.parse(topic)
        except MalformedMessage:
            return self.number == 0  # it is nobody's, and to be complained of once
        if role == "robot":
            return worker_of(name, self.workers) == self.number
        siblings = {topics.worker_name(self.trainer, number) for number in range(self.workers)} - {self.name}
        return name not in siblings

    @property
    def name(self) -> str:
        """The name under which the worker speaks."""
        return topics.worker_name(self.trainer, self.number)


def worker_folder(run: Path, number: int) -> Path:
    """Return the run folder of a worker, in that of its trainer."""
    return run / f"worker-{number}"


def worker_folders(run: Path) -> list[Path]:
    """Return the run folders of all workers that a run has had; none where it was a single process."""
    return sorted(one for one in run.glob("worker-*") if one.name.removeprefix("worker-").isdecimal())
