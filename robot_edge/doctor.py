"""`robot-edge doctor`: what is here of what a robot needs, and what mends the rest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from broker.wire.topics import check_name
from hierarchy.runtime.doctor.examination import Examination
from hierarchy.runtime.doctor.finding import Finding
from robot_edge.sources.camera import device_trouble, list_cameras
from robot_edge.sources.gstreamer import LAUNCH


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Examination):
    """What to look at."""

    robot: str = "robot"
    """The robot's name, under which the broker lets it in."""

    def __post_init__(self) -> None:
        check_name(self.robot, "--robot")


def examine(config: DoctorConfig) -> int:
    """Print what is found, and return the exit status."""
    return config.examine("robot", config.robot, cameras, ["cameras"])


def cameras() -> Iterator[Finding]:
    """Look at this machine's cameras."""
    found = list_cameras()
    pipelines = f"{LAUNCH} for gst:" if shutil.which(LAUNCH) else f"no {LAUNCH} for gst:"
    if not found:
        yield Finding(name="cameras", state="missing", text=f"no /dev/video*; {pipelines}")
        return
    usable = [path for path, _ in found if not device_trouble(path)]
    text = "; ".join([*(f"camera:{path} {about}".rstrip() for path, about in found), pipelines])
    yield Finding(name="cameras", state="ok" if usable else "problem", text=text)
