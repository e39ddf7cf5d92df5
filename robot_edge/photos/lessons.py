"""Lessons of photos, shown as a camera would; then the robot is asked about photos that it never saw."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from broker.wire.bounds import MAX_TEACH_SECONDS
from robot_edge.photos.album import ClassPhotos, readable
from robot_edge.robot import Robot
from robot_edge.sources.frames import Pixels

log = logging.getLogger("robot-edge")

# How long the robot may take to look at a photo, and to name photos right that it never saw.
LOOKED_SECONDS, RIGHT_SECONDS = 5.0, 20.0
# The first class has no other beside it. A network that learns cannot tell it from anything; one that stands still can.
FIRST_SECONDS = 3.0
# How often it is looked whether it has.
POLL_SECONDS = 0.01
# Photos that it is asked about in the meantime: each takes the time of a frame.
ASKED = 8


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a lesson came to. shown: photos. seconds: from "teach" until most photos that it never saw were named right.

    seconds is None where they were not within RIGHT_SECONDS, of the first class within FIRST_SECONDS.
    """

    name: str
    shown: int
    seconds: float | None


def give_lesson(robot: Robot, photos: ClassPhotos, *, per_second: float) -> Lesson:
    """Show a class's photos within a lesson, and wait until others of it are known."""
    taught, asked = readable(photos.taught), readable(photos.judged[:ASKED])
    if not taught:
        log.warning("%s is not taught: none of its %d photos can be read", photos.name, len(photos.taught))
        return Lesson(name=photos.name, shown=0, seconds=None)
    patience = RIGHT_SECONDS if robot.classes else FIRST_SECONDS
    begin = time.monotonic()
    robot.teach(photos.name, seconds=min(MAX_TEACH_SECONDS, len(taught) * (1 / per_second + LOOKED_SECONDS)))
    for number, photo in enumerate(taught):
        _wait_until(begin + number / per_second)
        _show(robot, photo)
    robot.stop_teaching()
    give_up = time.monotonic() + patience
    while asked and time.monotonic() < give_up:
        if 2 * sum(robot.predict(photo).name == photos.name for photo in asked) > len(asked):
            return Lesson(name=photos.name, shown=len(taught), seconds=time.monotonic() - begin)
    return Lesson(name=photos.name, shown=len(taught), seconds=None)


def _show(robot: Robot, photo: Pixels) -> None:
    """Show a photo, and wait until the robot has looked at it."""
    before, give_up = robot.seen, time.monotonic() + LOOKED_SECONDS
    robot.observe(photo)
    while robot.seen is before and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
