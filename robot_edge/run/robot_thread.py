"""The thread of a robot in a Python program. What the program wants is done between two training steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import TypeVar

from broker.errors import NotOpen
from broker.program.threads import LoudThread
from broker.wire.messages import AnsweredBy
from hierarchy.edge import EdgeStep
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.console import PlainConsole
from robot_edge.inference.cascade import Decision
from robot_edge.learning.framed import Framed
from robot_edge.run.config import RobotConfig
from robot_edge.run.ending import go_through
from robot_edge.run.live import see_and_learn
from robot_edge.run.replay import train
from robot_edge.run.robot_run import RobotRun
from robot_edge.run.start import opened, prepare
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.sources.pushed import FrameQueue, PushedCamera

# How long to wait before looking whether the robot's thread is still there.
LOOK_SECONDS = 0.1

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step. loss: the exit's. accuracy: share of its new frames that the exit had right before the step.

    images: new frames learned from so far.
    """

    loss: float
    accuracy: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a frame is taken for. name: empty where no class fits. confidence: calibrated probability, 0 to 1.

    answered_by: "exit", on the robot, or "cloud".
    """

    name: str
    confidence: float
    answered_by: AnsweredBy


class RobotThread:
    """Opens a run, lets it see what the camera shows, and learns until it is closed.

    seen: what was seen last. by_hand: held while somebody teaches frames that the camera does not show.
    """

    def __init__(self, config: RobotConfig) -> None:
        self.camera = PushedCamera()
        self.seen: Seen | None = None
        self.by_hand = threading.Lock()
        self._config = config
        self._stop = StopRequest(signals=())
        self._ready = threading.Event()
        self._thread = LoudThread(f"robot {config.robot}", self._work, restarts=False)
        self._run: RobotRun | None = None
        self._asked: dict[int, Future[Seen]] = {}  # by the frame's identity

    def start(self) -> None:
        """Open the run, and wait until the robot sees. Raises ConfigError."""
        self._thread.start()
        while not self._ready.wait(LOOK_SECONDS):
            self.check()

    def close(self) -> None:
        """End the run. Raises what ended the robot before, and StorageError for a full disk."""
        self._stop.made = True
        self.camera.close()
        self._thread.close()
        self._thread.check()

    @property
    def run(self) -> RobotRun:
        """The run, to look at; what changes it goes through ``do``."""
        self.check()
        assert self._run
        return self._run

    def check(self) -> None:
        """Raise what ended the robot; NotOpen where it was not opened, or is closed."""
        self._thread.check()
        if not self._thread.is_alive:
            raise NotOpen("this robot is not open: use `with Robot(...) as robot`")

    def do(self, work: Callable[[RobotRun], Result]) -> Result:
        """Do something in the robot's thread, between two steps, and return its result."""
        return self.result(self.give(work))

    def give(self, work: Callable[[RobotRun], Result]) -> Future[Result]:
        """Have something done in the robot's thread, between two steps."""
        run, done = self.run, Future[Result]()

        def job() -> None:
            try:
                done.set_result(work(run))
            except BaseException as error:
                done.set_exception(error)

        run.talk.jobs.put(job)
        return done

    def result(self, future: Future[Result]) -> Result:
        """Wait for a result as long as the robot is there to give it."""
        while not wait([future], LOOK_SECONDS).done:
            self.check()
        return future.result()

    def look_at(self, frame: Frame) -> Seen:
        """Return what a frame is taken for, once that is decided."""
        self.check()
        answer = self._asked[id(frame)] = Future[Seen]()
        try:
            self.camera.ask(frame)
            return self.result(answer)
        finally:
            self._asked.pop(id(frame), None)  # who was interrupted must not leave it to the next frame at that address

    def _work(self, _ending: threading.Event) -> None:
        with opened(prepare(self._config, self.camera), self._stop, console=PlainConsole(quiet=True)) as run:
            assert run.perception
            publish, learn = run.perception.tell, run.perception.saw

            def tell(decision: Decision, frame: Frame) -> None:
                self.seen = Seen(name=decision.name, confidence=decision.confidence, answered_by=decision.by)
                if asked := self._asked.pop(id(frame), None):
                    asked.set_result(self.seen)
                else:
                    publish(decision, frame)

            def saw(frame: Frame, image: Pixels) -> None:
                if id(frame) not in self._asked and not self.by_hand.locked():
                    learn(frame, image)

            self._run = replace(run, perception=replace(run.perception, tell=tell, saw=saw))
            self._ready.set()
            go_through(self._run, see_and_learn)


def learn_all(run: RobotRun, *, frames: FrameQueue, steps: queue.Queue[Step]) -> None:
    """Learn frames until no more will come. Call it in the robot's thread."""
    state, taught = run.state, run.state.batcher.source
    practice, perception = run.state.practice, run.perception
    assert practice
    assert perception

    def heard(step: EdgeStep) -> None:
        practice.learned(len(step.correct))
        perception.predictor.refresh(state.trainer.segment)
        steps.put(Step(loss=step.loss, accuracy=float(step.correct.mean()), images=state.metrics.images))

    frames.seek(state.batcher.position)
    state.batcher.source = Framed(frames, run.viewfinder.input)
    try:
        train(run, heard)
    finally:
        taught.seek(state.batcher.position)
        state.batcher.source = taught
        practice.lesson_over()


def taken(steps: queue.Queue[Step], timeout: float = 0.0) -> Iterator[Step]:
    """Yield the steps that there are, waiting up to so many seconds for the first."""
    try:
        yield steps.get(timeout > 0, timeout or None)
        while True:
            yield steps.get_nowait()
    except queue.Empty:
        return


def has_settled(run: RobotRun) -> bool:
    """Whether all that was taught is learned, practised and tested."""
    assert run.lessons
    state = run.state
    return not run.lessons.busy and (state.trainer.steps == 0 or state.tested == state.trainer.steps)
