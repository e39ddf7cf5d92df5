"""A robot that sees all the time, and learns from what it is taught while it is taught and for a while after."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from broker.program.plain_text import counted
from hierarchy.runtime.command_line import Notice
from hierarchy.runtime.progress import duration
from robot_edge.fleet.second_exit import MIN_CLASSES
from robot_edge.inference.cascade import Decision
from robot_edge.inference.predictor import Predictor
from robot_edge.inference.ros2_predictions import publishing
from robot_edge.inference.seeing_thread import SeeingThread, View
from robot_edge.run.replay import FRAMES_RE_ENCODED
from robot_edge.run.robot_run import RobotRun
from robot_edge.sources.frames import Frame
from robot_edge.teaching.commands import new_command
from robot_edge.teaching.terminal import listening

# When there is nothing to learn: how long to listen to the broker before looking for commands and lessons again.
IDLE_SECONDS = 0.05
# Held-out frames that are tested with when what was taught is learned: a percentage point is 3 of them.
TESTED_FRAMES = 300
# The id of the command that ends a lesson with the run.
END = "end"

log = logging.getLogger("robot-edge")


def live(run: RobotRun) -> None:
    """See, and learn what is taught, until the camera ends or a stop is asked for; then test.

    Nobody is waited for: what is taught meanwhile waits in the outbox. Raises NameTaken, and StorageError for a full
    disk.
    """
    if run.state.memory.inherited and not run.state.trainer.steps:
        run.testing.test_so_far(in_the_cloud=False)  # it may have a new network
    see_and_learn(run)
    run.saving.save()  # a test takes time, and whoever stopped the run may not wait for its end
    run.testing.test_all()


def see_and_learn(run: RobotRun) -> None:
    """Train on lessons and send them up; a thread of its own sees meanwhile, with a copy of the network."""
    config, state, uplink, talk = run.config, run.state, run.uplink, run.talk
    perception, lessons, teaching = run.perception, run.lessons, run.state.teaching
    assert perception
    assert lessons
    assert teaching
    predictor, sight = perception.predictor, perception.sight
    perception.take_over(state)
    camera = Notice(log)
    begin = time.monotonic() - state.metrics.seconds
    with (
        publishing(config.ros2_topic) as publish,
        listening(uplink.commands, run.stop),
        talk.progress(None, "taught frames") as progress,
    ):

        def tell(decision: Decision, frame: Frame) -> None:
            perception.tell(decision, frame)
            publish(decision, frame)
            if talk.tracking:
                talk.tracking.see(decision, frame)

        with closing(
            SeeingThread(run.source, sight, viewfinder=run.viewfinder, saw=perception.saw, tell=tell)
        ) as seeing:
            if run.page_model:
                run.page_model.next_view = seeing.wait
            while not run.stop.made and not (seeing.ended and not teaching.waiting):
                edits = state.memory.edits
                talk.obey()
                if state.memory.edits != edits:
                    perception.take_over_classes(state)
                    _ask_of_these_classes(run)
                perception.take_exit(state, busy=teaching.open is not None or lessons.busy)
                sight.reachable = not uplink.waits_for and not uplink.quarantine and state.may_send
                sight.cascade.asks_fleet = bool(uplink.cloud_metrics and uplink.cloud_metrics.fleet)
                learned = lessons.learn() or lessons.practise()
                talk.pump(0.0 if learned else IDLE_SECONDS)
                state.metrics.seconds = time.monotonic() - begin
                if learned:
                    predictor.refresh(state.trainer.segment)
                    talk.write_metrics()
                # A lesson may end long after the last step that it was worth.
                if state.trainer.steps not in (0, state.tested) and not lessons.busy:
                    _test_what_was_taught(run)
                    perception.take_over(state)
                    run.saving.save()
                if not lessons.busy:
                    for _ in run.learning.teach_a_new_cloud():
                        talk.pump()
                    for _ in _look_what_to_ask(run, predictor):
                        talk.pump()
                camera.say(run.source.status)
                missing = uplink.waits_for
                talk.notice.say(f"seeing and learning go on without {missing}" if missing else "")
                progress.show(state.batcher.frames_read, _line(run, seeing))
                run.saving.save_now_and_then()
            # What was shown by now cannot be shown again.
            if teaching.open:
                talk.give(new_command("stop", id_=END))
            while lessons.learn():
                talk.pump()


def _test_what_was_taught(run: RobotRun) -> None:
    """Send what was held back, if that may go up by now, and what is remembered as it is encoded now; and test."""
    for _ in run.learning.release():
        run.talk.pump()
    for _ in run.learning.re_encode_memory(FRAMES_RE_ENCODED):
        run.talk.pump()
    run.testing.test_so_far(TESTED_FRAMES)


def _look_what_to_ask(run: RobotRun, predictor: Predictor) -> Iterator[None]:
    """Ask people no more what was learned meanwhile, and look for taught frames that hurt."""
    if run.asking and run.doubting and run.state.trainer.classes:
        yield from run.asking.review(run.state, predictor)
        yield from run.doubting.look()


def _ask_of_these_classes(run: RobotRun) -> None:
    """Keep nothing for people to look at that a class edit has given up."""
    if run.asking and run.doubting:
        run.asking.questions.classes_changed(_classes(run))
        run.doubting.classes_changed()


def _line(run: RobotRun, seeing: SeeingThread) -> list[str]:
    assert run.state.teaching
    lesson, sees = run.state.teaching.open, said_of(seeing.view, _classes(run), time.monotonic())
    taught = [f"TEACHING {lesson.name}: {counted(lesson.frames, 'frame')}"] if lesson else []
    return [sees, *taught, *run.talk.shown()]


def _classes(run: RobotRun) -> tuple[str, ...]:
    """Return the classes that the robot can name: its own, and those of its fleet's exit."""
    second = run.perception.predictor.second if run.perception else None
    own = run.state.memory.classes
    return (*own, *(name for name in second.classes if name not in own)) if second else own


def said_of(view: View | None, classes: Sequence[str], now: float) -> str:
    """Return what a robot sees, for people. now: monotonic seconds."""
    if view is None:
        return "sees nothing yet"
    if view.stale:
        return f"SEES NOTHING: no frame for {duration(now - view.seen_at)}"
    if not classes:
        return "knows no class yet"
    if len(classes) < MIN_CLASSES and not view.decision.confidence:
        return f"cannot compare: {classes[0]} is its only class"
    name = view.decision.name or "nothing it knows"
    return f"sees {name} ({100 * view.decision.confidence:.0f} %, {view.decision.by})"
