"""A robot's run put together: what learns, what tests, what saves, what talks, and the state that they share."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from broker.errors import ConfigError
from broker.link.base import Link
from broker.wire.messages import Change, ClassEdit
from hierarchy.edge import EdgeTrainer
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.run_folder import RunFolder
from hierarchy.runtime.tracking.trackers import Trackers
from robot_edge.fleet.exits import FleetExits
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.class_edits import ClassMemory
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.framed import Framed, Viewfinder
from robot_edge.learning.framing import WHOLE
from robot_edge.learning.held_back import HeldBack
from robot_edge.learning.held_out import HeldOutFrames, OpenSource, held_out_memory
from robot_edge.learning.practice import LivePractice
from robot_edge.page.page_model import PageModel
from robot_edge.run.asking import Asking
from robot_edge.run.checkpoint import RobotCheckpoint, RunState, edits_after, take_up
from robot_edge.run.config import RobotConfig
from robot_edge.run.doubting import Doubting
from robot_edge.run.edge_learning import EdgeLearning, Learning
from robot_edge.run.kept_look import framing_of, keep_look
from robot_edge.run.lesson_learning import LessonLearning, Lessons
from robot_edge.run.page_publisher import PagePublisher
from robot_edge.run.perception import Perception, fleet_exits, perceive
from robot_edge.run.run_metrics import RunMetrics
from robot_edge.run.saving import Saving
from robot_edge.run.sending import Sending
from robot_edge.run.still_learning import StillLearning
from robot_edge.run.still_lessons import StillLessons
from robot_edge.run.talk import Talk
from robot_edge.run.testing import Testing
from robot_edge.run.tracked import RunTracking
from robot_edge.sources.frames import PacedSource
from robot_edge.teaching.choices import Choices
from robot_edge.teaching.commands import Commands, Edit
from robot_edge.teaching.lessons import TaughtFrames, Teaching
from robot_edge.teaching.questions import Questions
from robot_edge.uplink.home_assistant import HomeAssistant
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.rate_control import RateControl
from robot_edge.uplink.uplink import Uplink

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class RobotRun:
    """The parts of a run. `replay` and `live` are functions of them.

    source: what the robot looks at; a live one learns those of its frames that were taught. viewfinder: what of them
    the network sees. edit: carries out a class
    edit. goes_on: whether a process before this one began the run. perception, lessons: of a live robot. asking,
    doubting: of one with a page.
    """

    config: RobotConfig
    folder: RunFolder
    stop: StopRequest
    source: PacedSource
    viewfinder: Viewfinder
    uplink: Uplink
    outbox: Outbox
    state: RunState
    learning: Learning
    testing: Testing
    saving: Saving
    talk: Talk
    edit: Edit
    goes_on: bool
    page_model: PageModel | None
    perception: Perception | None
    asking: Asking | None
    doubting: Doubting | None
    lessons: Lessons | None


def assemble(
    config: RobotConfig,
    *,
    link: Link,
    trainer: EdgeTrainer,
    uplink: Uplink,
    outbox: Outbox,
    source: PacedSource,
    folder: RunFolder,
    stop: StopRequest,
    held_out: OpenSource | None = None,
    saved: RobotCheckpoint | None = None,
    page_model: PageModel | None = None,
    trackers: Trackers | None = None,
    console: Console | None = None,
) -> RobotRun:
    """Put a run together, from its checkpoint where there is one.

    link: what the uplink speaks through. held_out: opens the source of frames to test on, each time anew; None where
    they are set apart. page_model: of its page. trackers: that are told its figures. console: where progress is shown;
    the terminal's for None.
    Raises ConfigError where the run cannot go on from its checkpoint, or is over.
    """
    framing = framing_of(folder.path, config.network)
    if framing.region != WHOLE:
        log.info("looks at %s of each frame", framing.region)
    viewfinder = Viewfinder(framing, partial(keep_look, folder, config.network))
    seen = Framed(source, framing.input)
    fleet = fleet_exits(link, folder, config, trainer, uplink.state)
    if fleet:
        for one in edits_after(outbox, 0):  # it may be here for the first time
            fleet.apply(one)
    state = _new_state(config, trainer, uplink, outbox, seen, fleet, set_apart=held_out is None)
    take_up(state, saved, outbox, folder.path)
    _refuse_finished(config, folder, state)
    saving = Saving(config, state, outbox, folder, stop)
    edit = partial(_edit, uplink, state, saving)
    publisher = asking = doubting = choices = None
    if page_model and state.teaching:
        page_model.questions = Questions(time.monotonic)
        asking = Asking(
            questions=page_model.questions,
            teaching=state.teaching,
            viewfinder=viewfinder,
            threshold=config.live.threshold,
        )
        doubting = Doubting(state=state, saving=saving, page_model=page_model)
        choices = Choices(
            teaching=state.teaching,
            questions=page_model.questions,
            classes=lambda: state.memory.classes,
            remove=doubting.remove,
            keep=doubting.keep,
        )
    if page_model:
        publisher = PagePublisher(
            page_model=page_model,
            metrics=state.metrics,
            uplink=uplink,
            outbox=outbox,
            memory=state.memory,
            source=source,
            teaching=state.teaching,
            viewfinder=viewfinder,
            fleet=fleet,
        )
    commands = Commands(
        teaching=state.teaching,
        source=source,
        classes=lambda: state.memory.classes,
        has_other=state.memory.has_other,
        edit=edit,
        edits=lambda: outbox.edits,
        look=viewfinder.look if state.teaching else None,
        use=fleet.use if fleet else None,
        fleet_classes=partial(_fleet_classes, uplink, fleet),
        check_name=uplink.names.check,
    )
    talk = Talk(
        stop=stop,
        folder=folder,
        metrics=state.metrics,
        uplink=uplink,
        outbox=outbox,
        commands=commands,
        page_model=page_model,
        publisher=publisher,
        choices=choices,
        tracking=RunTracking(trackers=trackers, metrics=state.metrics, uplink=uplink) if trackers else None,
        home_assistant=_home_assistant(config, link),
        fleet=fleet,
        console=console,
    )
    learning, lessons = _learners(config, state, Sending(config, state, uplink, outbox), saving)
    tested = HeldOutFrames(
        state.memory, lambda: edits_after(outbox, 0), held_out, lambda image: viewfinder.framing.input(image)
    )
    goes_on = saved is not None or outbox.position > 0
    folder.drop_summary()
    if goes_on:
        log.info("going on with the run in %s, at %d images", folder.path, state.metrics.images)
    return RobotRun(
        config=config,
        folder=folder,
        stop=stop,
        source=source,
        viewfinder=viewfinder,
        uplink=uplink,
        outbox=outbox,
        state=state,
        learning=learning,
        testing=Testing(config, state, learning, tested, uplink, talk, stop),
        saving=saving,
        talk=talk,
        edit=edit,
        goes_on=goes_on,
        page_model=page_model,
        perception=perceive(link, config, trainer, uplink, state.teaching, fleet, asking) if state.teaching else None,
        asking=asking,
        doubting=doubting,
        lessons=lessons,
    )


def _home_assistant(config: RobotConfig, link: Link) -> HomeAssistant | None:
    prefix = config.uplink.home_assistant
    return HomeAssistant(link=link, robot=config.robot, prefix=prefix, is_live=config.is_live) if prefix else None


def _fleet_classes(uplink: Uplink, fleet: FleetExits | None) -> tuple[str, ...] | None:
    """Return the classes of the fleet's exit that is here; None where the robot shares nothing, as far as it knows."""
    state, said = uplink.state, uplink.cloud_metrics
    if not state.front or state.share != "yes" or (said and said.apart and not said.fleet):
        return None
    return fleet.classes if fleet else ()


def _learners(
    config: RobotConfig, state: RunState, sending: Sending, saving: Saving
) -> tuple[Learning, Lessons | None]:
    """Return what a run learns with, and what a live one learns lessons with."""
    if state.trainer.segment.stands_still:
        still = StillLearning(state, sending)
        return still, StillLessons(state, still, saving) if state.teaching else None
    learning = EdgeLearning(config, state, sending)
    return learning, LessonLearning(config, state, learning, saving) if state.teaching else None


def _new_state(
    config: RobotConfig,
    trainer: EdgeTrainer,
    uplink: Uplink,
    outbox: Outbox,
    seen: Framed,
    fleet: FleetExits | None,
    *,
    set_apart: bool,
) -> RunState:
    """Return the state of a run that begins.

    seen: the source as the network sees it. fleet: exits of the robot's fleet. set_apart: whether frames of the source
    itself are held out.
    """
    practice, teaching = None, None
    if config.is_live:
        practice = LivePractice(config.learning.practice)
        # With --live a recording plays a camera, whose pictures have no labels.
        teaching = Teaching(
            time.monotonic,
            trusts_source=not config.live.live,
            over=practice.lesson_over,
            check_name=uplink.names.check,
        )
    size, layout = config.network.image_size, trainer.segment.encoding
    batcher = Batcher(
        source=TaughtFrames(teaching) if teaching else seen,
        size=config.fresh_per_batch,
        image_size=size,
        held_out_every=config.source.held_out_every if set_apart else 0,
        held_out=held_out_memory(size, config.open_seed, layout),
        encode=trainer.encode if layout else None,
        check_name=uplink.names.check,
    )
    kept = replace(layout, crossing=()) if layout else None  # what crosses of a frame to rehearse went up already
    frames = FrameMemory.limit_of(config.learning.rehearsal_mb, size, kept)
    if layout and not frames:
        raise ConfigError(
            f"--rehearsal-mb {config.learning.rehearsal_mb:g} keeps no frame, and with --freeze all the exit learns "
            "from remembered frames alone: use 16"
        )
    remembered = FrameMemory(frames, size, config.open_seed, encoding=kept)
    held, level = None, config.network.privacy
    if level != "off":
        held = HeldBack(size, level, seed=config.open_seed, remembered=remembered if layout else None)
    return RunState(
        trainer=trainer,
        memory=ClassMemory(trainer, remembered, batcher.held_out),
        batcher=batcher,
        metrics=RunMetrics(trainer, uplink, outbox, batcher, held, fleet),
        rate_control=RateControl(most=trainer.bits, least=min(config.network.least_bits, trainer.bits)),
        split=uplink.state.split,
        teaching=teaching,
        practice=practice,
        held=held,
        fleet=fleet,
    )


def _edit(
    uplink: Uplink,
    state: RunState,
    saving: Saving,
    change: Change,
    name: str,
    to: str,
    session: int,
    *,
    everywhere: bool = False,
) -> ClassEdit:
    """Make a class edit known to the cloud and to all parts of the run, and save what comes of it."""
    edit = uplink.send_edit(change, name, to=to, session=session, everywhere=everywhere)
    state.apply(edit)
    saving.save()
    return edit


def _refuse_finished(config: RobotConfig, folder: RunFolder, state: RunState) -> None:
    """Raise ConfigError where a process before this one came to the run's end."""
    summary, source = folder.last_summary(), state.batcher.source
    if summary and not summary["interrupted"] and source.length is not None and source.position >= source.length:
        more = "" if config.source.phases else ", or show it more with larger --epochs or --images"
        raise ConfigError(
            f"the run in {folder.path} is over: choose another --run-dir, with --weights {folder.path} to go on from "
            f"what it learned{more}"
        )
