"""A robot as a Python object: the parts of `robot-edge run`, driven by a program in place of a command line."""

from __future__ import annotations

import os
import queue
import secrets
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, cast

import numpy as np

from broker.errors import ConfigError, MalformedMessage, SourceError, StorageError
from broker.wire.bounds import MAX_TEACH_SECONDS, check_class_name
from broker.wire.messages import Action, CommandResult
from hierarchy.runtime.run_folder import former_settings
from robot_edge.run.config import RobotConfig
from robot_edge.run.robot_run import RobotRun
from robot_edge.run.robot_thread import LOOK_SECONDS, RobotThread, Seen, Step, has_settled, learn_all, taken
from robot_edge.sources.frames import NOMINAL_RATE, Frame, FrameSource, Pixels
from robot_edge.sources.pushed import FrameQueue
from robot_edge.teaching.commands import new_command

# What a run's config.toml calls the source of a robot that a program shows its frames.
PROGRAM = "program:"
# Cores that a robot trains with where nobody says how many: its caller's loop needs one, or each
# waits for the other.
SPARE_ONE = max(1, (os.cpu_count() or 1) - 1)
# Batches of frames that wait for their step, so that the robot is that much ahead of the caller at most.
BATCHES_AHEAD = 2
# Taught frames that wait to be learned from; the robot would look at more, and not keep them.
TAUGHT_AHEAD = 500


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """What the cloud has said of this robot's training; None where it has said nothing yet.

    online: whether a trainer is there. images: learned from. accuracy: on held-out frames. recent: prequential
    accuracy over the last thousand frames. loss: of the last step. is_through: whether it has learned all that was
    taught so far, and was tested with it.
    """

    online: bool = False
    images: int = 0
    accuracy: float | None = None
    recent: float | None = None
    loss: float | None = None
    is_through: bool = False


class Robot:
    """A robot that learns, sees and is taught in a thread of its own, beside the caller's loop.

        with Robot("r1", backbone="resnet18", cut="layer2", broker="mqtt://localhost") as robot:
            for step in robot.train(open_source("folder:toys")):
                print(step.loss, robot.cloud.accuracy)
            robot.teach("mug", frames)
            print(robot.predict(frame).name)

    All methods may be called from any thread, as from a ROS callback. The run is kept in ``run_dir``, as one of
    `robot-edge run`; a robot that is opened with the folder of a former run goes on with it.
    """

    def __init__(self, name: str = "robot", *, broker: str | None = None, **settings: Any) -> None:
        """Take the settings of `robot-edge run` by their names (``image_size=64``); nothing is opened yet.

        broker: URL, or those of a cluster's nodes with commas between; None for a robot that learns alone. What would
        go up then waits in its outbox, and goes up when the run is opened again with a broker. Raises ConfigError.
        """
        if settings.get("source", PROGRAM) != PROGRAM:
            raise ConfigError(
                "a program shows this robot its frames, so it has no source: train on open_source(...), or begin with "
                "weights=FOLDER of a run of `robot-edge run`"
            )
        here = {"source": PROGRAM, "threads": SPARE_ONE}
        given = {**here, **settings, "robot": name, "broker": broker or "", "live": True}
        self.config = RobotConfig.from_flags(**given)
        self.config = replace(self.config, run_dir=str(self.config.run_path))  # which has the time in its name
        self._thread = RobotThread(self.config)
        self._scenes = 0
        self._training = threading.Lock()
        self._trainer: int | None = None  # the thread whose loop trains

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> Robot:
        """Return a robot that goes on with the run in a folder. settings: in place of those that the folder has.

        Raises ConfigError where there is no run with a checkpoint.
        """
        former = former_settings(Path(path))
        if former is None or "robot" not in former:
            raise ConfigError(f"{path} holds no run of a robot: name a folder that Robot.save has written")
        given = {"name": former.pop("robot"), **former, **settings, "run_dir": str(path)}
        return cls(**{name: value for name, value in given.items() if name != "live"})

    def __enter__(self) -> Robot:
        """Open the run and begin to see. Raises ConfigError."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Save what was learned, and end. Raises what ended the robot before, and StorageError for a full disk."""
        self._thread.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes learned so far, in the order they came."""
        return self._thread.run.state.memory.classes

    @property
    def accuracy(self) -> float | None:
        """The exit's accuracy on the held-out frames of the last test; None before the first."""
        return self._thread.run.state.metrics.held_out.accuracy

    @property
    def cloud(self) -> Cloud:
        """What the cloud has said last."""
        uplink = self._thread.run.uplink
        said, online = uplink.cloud_metrics, uplink.presence.trainer_online
        if said is None:
            return Cloud(online=online)
        return Cloud(
            online=online,
            images=said.images,
            accuracy=said.cloud_accuracy,
            recent=said.cloud_recent,
            loss=said.cloud_loss,
            is_through=self._thread.run.state.metrics.cloud_is_through,
        )

    @property
    def seen(self) -> Seen | None:
        """What was seen last, observed or asked about; None before the first frame."""
        return self._thread.seen

    def train(self, frames: FrameSource | Iterable[Frame | tuple[Pixels, str]]) -> Generator[Step, None, None]:
        """Learn labelled frames, and yield each training step. Nothing is learned unless it is iterated over.

        frames: a source, or pairs of an image, uint8 (H, W, 3) RGB, and the name of its class. Each pair counts as a
        scene of its own; a Frame says which scene it shows. They are read in the caller's thread. Training ends early
        where the caller leaves the loop. One loop trains at a time, and another thread's waits for its end. Raises
        Diverged, and RuntimeError in the thread whose own loop is not over.
        """
        length = frames.length if _is_source(frames) else len(frames) if isinstance(frames, Sized) else None
        waiting = FrameQueue(length, BATCHES_AHEAD * self.config.learning.batch)
        steps: queue.Queue[Step] = queue.Queue()
        with self._trains():
            done = self._thread.give(partial(learn_all, frames=waiting, steps=steps))
            try:
                for frame in self._frames_of(frames):
                    while not done.done() and not waiting.put(frame, LOOK_SECONDS):
                        yield from taken(steps)
                        self._thread.check()
                    if done.done():
                        break
                    yield from taken(steps)
                waiting.end()
                while not done.done():
                    yield from taken(steps, LOOK_SECONDS)
                    self._thread.check()
                yield from taken(steps)
            finally:
                waiting.end()
                self._thread.result(done)

    def observe(self, image: Pixels) -> None:
        """Show the robot what is before it now, uint8 (H, W, 3) RGB. The newest image counts; nobody waits."""
        self._thread.check()
        self._thread.camera.show(_frame(image, scene=int(time.time())))

    def predict(self, image: Pixels) -> Seen:
        """Return what an image shows, uint8 (H, W, 3) RGB; waits for the cloud where the exit is not sure.

        Raises Diverged.
        """
        return self._thread.look_at(_frame(image, scene=0))

    def teach(self, name: str, frames: Iterable[Pixels] | None = None, *, seconds: float = 10.0) -> int:
        """Teach a class by what is shown of it, and return how many frames differ enough to be learned from.

        frames: uint8 (H, W, 3) RGB, in the order they were taken; a scene changes every NOMINAL_RATE of them. Without
        frames, what is observed for so many seconds from now on is taught, and 0 is returned at once.
        Learning goes on when this returns: ``settle`` waits for it. Raises ConfigError for a name that no class has.
        """
        if frames is None:
            self._command("teach", name, seconds=seconds)
            return 0
        with self._thread.by_hand:  # what is observed meanwhile shows something else
            run = self._thread.run
            teaching = run.state.teaching
            assert teaching
            self._command("teach", name, seconds=MAX_TEACH_SECONDS)
            try:
                kept = 0
                for number, image in enumerate(frames):
                    self._scenes += number % int(NOMINAL_RATE) == 0
                    while teaching.waiting >= TAUGHT_AHEAD:
                        self._thread.check()
                        time.sleep(LOOK_SECONDS)
                    shown = _frame(image, scene=self._scenes)
                    kept += teaching.see(replace(shown, image=run.viewfinder.framing.input(shown.image)))
            finally:
                self._thread.do(lambda run: run.talk.give(new_command("stop", id_=secrets.token_hex(8))))
        return kept

    def stop_teaching(self) -> None:
        """End the lesson in which what is observed is taught; nothing where there is none."""
        self._command("stop")

    def undo(self) -> None:
        """Take back what was taught last. Raises ConfigError where nothing was."""
        self._command("undo")

    def rename(self, name: str, to: str) -> None:
        """Give a class another name. Raises ConfigError where there is no such class, or one of the other name."""
        self._command("rename", name, to)

    def merge(self, name: str, into: str) -> None:
        """Make one class of two. Raises ConfigError where there are no such classes."""
        self._command("merge", name, into)

    def forget(self, name: str, *, everywhere: bool = False) -> None:
        """Forget a class and all its frames, on both ends. Raises ConfigError where there is no such class.

        everywhere: whether to forget what other robots of the fleet taught of it, too.
        """
        self._command("forget-everywhere" if everywhere else "forget", name)

    def look(self, region: str) -> None:
        """See only that part of each frame from now on, as --look has it: "25%,10%,50%,80%", pixels, or "whole".

        What was taught before stays as it was seen. Raises ConfigError.
        """
        self._command("look", region=region)

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until all that was taught is learned, practised and tested; False where that took too long."""
        give_up = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while not self._thread.do(has_settled):
            if time.monotonic() > give_up:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def save(self, path: str | Path | None = None) -> None:
        """Write a checkpoint. path: of a copy of the run, which ``load`` goes on from; None for the run's own folder.

        Raises ConfigError for a folder that holds another run, and StorageError where the disk takes no more.
        """

        def write(run: RobotRun) -> None:
            if not run.saving.save():
                raise StorageError("the checkpoint cannot be written: make room on its disk")
            if path is not None and Path(path).resolve() != Path(self.config.run_dir).resolve():
                # What was left open is settled by now, and another machine may settle it otherwise.
                run.saving.copy_to(Path(path), {**run.config.as_toml(), "run_dir": str(path)})

        self._thread.do(write)

    def _command(self, action: Action, name: str = "", to: str = "", *, seconds: float = 0.0, region: str = "") -> None:
        """Do what `robot-edge teach` and its like ask for. Raises ConfigError where it cannot be done."""
        try:
            command = new_command(action, id_=secrets.token_hex(8), name=name, to=to, seconds=seconds, region=region)
        except MalformedMessage as error:
            raise ConfigError(str(error)) from error

        def obey(run: RobotRun) -> CommandResult:
            *_, last = run.talk.give(command)
            assert run.perception
            # Whoever asks what a frame shows when this returns is told the names of now.
            run.perception.predictor.refresh(run.state.trainer.segment, at_once=True)
            return last

        last = self._thread.do(obey)
        if not last.ok:
            raise ConfigError(last.text)

    @contextmanager
    def _trains(self) -> Iterator[None]:
        """Let one loop train at a time. Raises RuntimeError where the same thread would wait for itself."""
        me = threading.get_ident()
        while not self._training.acquire(timeout=LOOK_SECONDS):
            self._thread.check()
            if self._trainer == me:
                raise RuntimeError("a loop of this thread trains already: end it, or close() the iterator it left")
        self._trainer = me
        try:
            yield
        finally:
            self._trainer = None
            self._training.release()

    def _frames_of(self, frames: FrameSource | Iterable[Frame | tuple[Pixels, str]]) -> Iterator[Frame]:
        if _is_source(frames):
            while not frames.ended:
                if frame := frames.next(LOOK_SECONDS):
                    yield frame
            return
        for one in cast("Iterable[Frame | tuple[Pixels, str]]", frames):
            if isinstance(one, Frame):
                _check_label(one.label)
                yield replace(one, image=_pixels(one.image))
            else:
                image, name = one
                _check_label(name, needed=True)
                self._scenes += 1
                yield _frame(image, scene=self._scenes, label=name)


def _is_source(frames: object) -> TypeGuard[FrameSource]:
    return all(hasattr(frames, name) for name in ("next", "ended", "length"))


def _check_label(label: str | None, *, needed: bool = False) -> None:
    """Raise SourceError for what no class can be called, and for no name where one is needed."""
    if not isinstance(label, str if needed else str | None):
        raise SourceError(f"the name of a class has to be text, not {label!r}")
    if label is not None:
        check_class_name(label)


def _frame(image: Pixels, *, scene: int, label: str | None = None) -> Frame:
    """Return a frame with a copy of an image. Raises SourceError."""
    return Frame(image=_pixels(image), label=label, scene=scene, time=time.time())


def _pixels(image: Pixels) -> Pixels:
    """Return a copy of an image: the caller may fill its array again. Raises SourceError."""
    try:
        pixels = np.array(image)
    except ValueError as error:
        raise SourceError(f"an image has to be uint8 (H, W, 3): {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise SourceError(f"an image has to be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
    return pixels
