"""`robot-edge teach-photos`: lessons of photos on the live path, and how much exit and cloud know behind them."""

from __future__ import annotations

import logging
import time
from contextlib import closing

from broker.errors import EXIT_INTERRUPTED
from broker.program.plain_text import counted
from broker.security.names_key import load_names
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.console import PlainConsole
from hierarchy.runtime.progress import RunProgress
from robot_edge.evaluation.evaluate import name_frames, settings_of_run
from robot_edge.evaluation.evaluation_report import FrameResult
from robot_edge.photos.album import Album, open_album
from robot_edge.photos.config import PhotosConfig
from robot_edge.photos.lessons import Lesson, give_lesson
from robot_edge.photos.table import print_lessons
from robot_edge.robot import Robot
from robot_edge.run.config import EvaluateConfig

# How long the cloud may take to learn and test what was taught.
CLOUD_SECONDS = 60.0
# How long it may take for a photo.
ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.2

log = logging.getLogger("robot-edge")


def teach_photos(config: PhotosConfig) -> None:
    """Teach class after class, test on what was kept back, and print a table. The run is kept in its folder.

    Raises ConfigError and SourceError, and SystemExit where Ctrl-C ended it.
    """
    album = open_album(config, load_names(config.uplink.names_key).check)
    with StopRequest() as stop:
        with Robot(config.robot, broker=config.uplink.broker, **config.of_robot) as robot:
            lessons = _teach(robot, album, config, stop)
            broker = config.uplink.broker if not stop.made and _cloud_has_learned(robot, stop) else ""
        tested = _test(robot.config.run_dir, album, config, broker, stop)
    print_lessons(PlainConsole(), lessons, tested)
    log.info("the run is in %s", robot.config.run_dir)
    if stop.made:
        raise SystemExit(EXIT_INTERRUPTED)


def _teach(robot: Robot, album: Album, config: PhotosConfig, stop: StopRequest) -> list[Lesson]:
    lessons: list[Lesson] = []
    with RunProgress(len(album.classes), "classes taught") as progress:
        for photos in album.classes:
            if stop.made:
                break
            progress.show(len(lessons), [f"{photos.name}: {counted(len(photos.taught), 'photo')}"])
            lessons.append(give_lesson(robot, photos, per_second=config.per_second))
        progress.show(len(lessons))
    while not stop.made and not robot.settle(POLL_SECONDS):
        pass
    return lessons


def _cloud_has_learned(robot: Robot, stop: StopRequest) -> bool:
    """Wait until the cloud has learned what was taught; False where no cloud is there."""
    give_up = time.monotonic() + CLOUD_SECONDS
    if not robot.cloud.online:
        log.warning("no cloud trainer is there: the exit alone is tested")
        return False
    log.info("waiting up to %.0f s for the cloud to learn and test", CLOUD_SECONDS)
    while not robot.cloud.is_through and time.monotonic() < give_up and not stop.made:
        time.sleep(POLL_SECONDS)
    return robot.cloud.images > 0


def _test(run_dir: str, album: Album, config: PhotosConfig, broker: str, stop: StopRequest) -> list[FrameResult]:
    if stop.made:
        return []
    evaluation = EvaluateConfig(
        source=f"folder:{album.folder}",
        checkpoint=run_dir,
        broker=broker,
        credentials=config.uplink.credentials,
        names_key=config.uplink.names_key,
        payload_key=config.uplink.payload_key,
        deadline=ANSWER_SECONDS,
    )
    with closing(album.judged()) as source:
        return name_frames(evaluation, settings_of_run(evaluation), source, stop).tested
