"""A robot that learns a recording: a replay from its first frame to its last test."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hierarchy.edge import EdgeStep
from hierarchy.runtime.command_line import Notice
from hierarchy.schedule import settling
from robot_edge.run.outcome import FRAMES_WITHOUT_LABEL, HOW_TO_LABEL
from robot_edge.run.perception import try_out_for_nobody
from robot_edge.run.robot_run import RobotRun

# Remembered frames that go up once more when what was learned has settled: so many, or behind a replay this share of
# all that it showed, if that is more.
FRAMES_RE_ENCODED, SHARE_RE_ENCODED = 1000, 0.2
# How long to wait for a batch's frames before the uplink gets its turn.
SOURCE_SECONDS = 0.2

log = logging.getLogger("robot-edge")


def replay(run: RobotRun) -> None:
    """Learn all that the source shows, practise, and test. Raises NameTaken, and StorageError for a full disk."""
    wait_for_trainer(run)
    if run.state.memory.inherited and not run.state.trainer.steps:
        run.testing.test_so_far(in_the_cloud=False)  # it may have a new network
    train(run)
    _release(run)
    settle(run)
    run.saving.save()  # a test takes time, and whoever stopped the run may not wait for its end
    run.testing.test_all()
    if not run.stop.made:
        try_out_for_nobody(run.state)


def wait_for_trainer(run: RobotRun) -> None:
    """Wait until activations can go out, unless the run began before. Raises NameTaken."""
    uplink = run.uplink
    if not run.goes_on:
        run.talk.wait_until(
            lambda: not uplink.waits_for, lambda: uplink.waits_for and f"waiting for {uplink.waits_for}"
        )


def train(run: RobotRun, heard: Callable[[EdgeStep], object] = lambda _step: None) -> None:
    """Learn from the source until it ends or a stop is asked for. heard: is told of each step."""
    config, state, batcher, talk = run.config, run.state, run.state.batcher, run.talk
    camera = Notice(log)
    begin = time.monotonic() - state.metrics.seconds
    warned = False
    with talk.progress(batcher.source.length) as progress:
        while not run.stop.made and not batcher.ended:
            batch = batcher.next(SOURCE_SECONDS)
            if batch is not None:
                run.testing.phase_begins(batch.phase)
                rehearsed = round(len(batch.names) * config.rehearsed_per_fresh)
                heard(run.learning.learn(batch, rehearsed=rehearsed))
                talk.wait_for_room()
            talk.pump()
            talk.obey()
            state.metrics.seconds = time.monotonic() - begin
            if batch is not None:
                talk.write_metrics()
            camera.say(run.source.status)
            warned = warned or _warn_of_labels(batcher.frames_read, batcher.unlabelled)
            progress.show(batcher.frames_read, talk.shown())
            missing = run.uplink.waits_for
            talk.notice.say(f"training goes on without {missing}" if missing else "")
            run.saving.save_now_and_then()


def settle(run: RobotRun) -> None:
    """Where a replay ended on some of its classes: practise on all of them at a falling rate, then send them."""
    state = run.state
    if not run.config.forgets or state.settled or run.stop.made:
        return
    if not state.practised and state.tested != state.trainer.steps:  # else that was before a stop
        run.testing.test_so_far()
    images, steps = state.metrics.images, run.learning.practice_due()
    _practise_up_to(run, steps)
    _release(run)  # practice made another front of it
    run.saving.save()  # the cloud may not be there for hours
    # While the link is behind, nothing goes up again.
    if state.practised < steps or not run.talk.drain("activations"):
        return  # the rest at the next start
    for _ in run.learning.re_encode_memory(max(FRAMES_RE_ENCODED, round(SHARE_RE_ENCODED * images))):
        run.talk.pump()
        if run.stop.made or (run.uplink.is_behind and not run.talk.drain("activations")):
            return
    state.settled = True


def _release(run: RobotRun) -> None:
    """Send what is held back, if it may go up by now, as the outbox has room for it."""
    if run.stop.made:
        return
    for _ in run.learning.release():
        run.talk.wait_for_room(always=True)


def _practise_up_to(run: RobotRun, steps: int) -> None:
    """Take what is missing of so many steps on remembered frames alone, until a stop is asked for."""
    state = run.state
    with run.talk.progress(steps, "steps of practice") as progress:
        while state.practised < steps and not run.stop.made:
            loss = run.learning.practise(settling(state.practised, steps - state.practised))
            state.practised += 1
            run.talk.pump()
            progress.show(state.practised, [f"exit loss {loss:.2f}"])
            run.saving.save_now_and_then()


def _warn_of_labels(read: int, unlabelled: int) -> bool:
    """Say early that no frame has had a label so far: a recording may take hours to its end. Return whether so."""
    if read < FRAMES_WITHOUT_LABEL or unlabelled < read:
        return False
    log.warning("none of the first %s frames has a label, and nothing is learned; %s", f"{read:,}", HOW_TO_LABEL)
    return True
