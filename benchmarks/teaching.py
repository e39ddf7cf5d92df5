"""From a name typed to a thing known: how long a live robot takes, and what the classes before lose.

    python benchmarks/teaching.py

A robot with the main job's network looks at a simulated camera of 10 frames a second. It is taught --before toys, and
when those sit, one more. Printed for each seed: seconds from the command until 90 % of that toy's held-out frames are
right at the exit, and the accuracy on the others before and after. Held-out frames are of other scenes; testing them
takes processor time from the robot, which counts.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from recording import Table, percent, record

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire.messages import Command, RobotState
from hierarchy.device import choose_device
from hierarchy.edge import EdgeTrainer, fastest_compute
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.run.live import see_and_learn
from robot_edge.run.robot_run import RobotRun, assemble
from robot_edge.run.start import open_outbox
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.sources.paced import Paced
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.sources.toys import TOY_CLASSES
from robot_edge.uplink.uplink import Uplink

RIGHT = 0.9
# Between two tests.
TEST_SECONDS = 2.0
# Held-out scenes are numbered far from those that are shown.
HELD_OUT_SCENE = 100_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A lesson, timed."""

    seeds: int = 5
    before: int = 4
    """Toys that are known before."""
    seconds: float = 20
    """How long each toy is shown and named."""
    most: float = 90
    """Seconds after which a seed is given up."""
    frames: int = 60
    """Held-out frames of a toy."""
    practice: float = 0.5
    """As --practice of robot-edge run."""
    rate: float = 10
    things: bool = True
    """Each class is one thing, as a mug is that a robot is shown; else another toy of its class in each scene."""
    image_size: int = 32
    batch: int = 32
    threads: int = 1


class Stage:
    """A camera that shows one toy until told otherwise."""

    length, skipped, reconnects, status, ended, left_out = None, 0, 0, "", False, ()

    def __init__(self, settings: Settings, seed: int) -> None:
        self._toys = {
            name: SimulatedCamera(classes=[name], size=settings.image_size, seed=seed, things=settings.things)
            for name in TOY_CLASSES
        }
        self._count = 0
        self._rate = settings.rate
        self.position = 0
        self.shown = TOY_CLASSES[0]

    def next(self, timeout: float | None = None) -> Frame | None:
        frame = self._toys[self.shown].next()
        assert frame is not None
        self.position += 1
        return Frame(image=frame.image, label=None, scene=self.position // 4, time=self.position / self._rate)

    def latest(self, timeout: float | None = None) -> Frame | None:
        return self.next(timeout)

    def seek(self, position: int) -> None: ...

    def close(self) -> None: ...


class Lesson:
    """One seed's robot, in a thread of its own."""

    def __init__(self, settings: Settings, seed: int, folder: Path) -> None:
        self._settings, self._seed, self._folder = settings, seed, folder
        self.stage, self.stop = Stage(settings, seed), StopRequest()
        self.run: RobotRun
        self.uplink: Uplink
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        self._held_out = {name: self._frames_of(name) for name in TOY_CLASSES[: settings.before + 1]}

    def teach(self, name: str) -> None:
        self.stage.shown = name
        self.uplink.commands.put(Command(id="", action="teach", name=name, to="", seconds=self._settings.seconds))

    def wait_until_it_sits(self) -> None:
        time.sleep(self._settings.seconds + 1)
        while self.busy:
            time.sleep(0.2)

    @property
    def busy(self) -> bool:
        return self.run.lessons is not None and self.run.lessons.busy

    def accuracy(self, name: str) -> float:
        assert self.run.perception
        predictor = self.run.perception.predictor
        return statistics.mean(predictor.predict(image).name == name for image in self._held_out[name])

    def end(self) -> None:
        self.stop.made = True
        self._thread.join()

    def _frames_of(self, name: str) -> list[Pixels]:
        camera = SimulatedCamera(
            classes=[name],
            size=self._settings.image_size,
            seed=self._seed,
            first_scene=HELD_OUT_SCENE,
            things=self._settings.things,
        )
        frames = [camera.next() for _ in range(self._settings.frames)]
        return [frame.image for frame in frames if frame]

    def _run(self) -> None:
        settings = self._settings
        torch.set_num_threads(settings.threads)
        torch.manual_seed(self._seed)
        config = RobotConfig.from_flags(
            source="sim:",
            live=True,
            image_size=settings.image_size,
            batch=settings.batch,
            bottleneck=16,
            practice=settings.practice,
            held_out_every=10,
            run_dir=str(self._folder),
        )
        segment, split, start = build_edge(config.network)
        compute = fastest_compute(
            segment, image_size=config.network.image_size, batch=config.learning.batch, device=choose_device("cpu")
        )
        trainer = EdgeTrainer(segment, bits=4, compute=compute, peak_learning_rate=config.learning.learning_rate)
        state = RobotState(
            boot="0" * 16,
            run="0" * 16,
            former="",
            edits=0,
            started=0.0,
            online=True,
            split=split,
            weights=start,
            rehearse=1.0,
        )
        link = MemoryLink(MemoryBroker())
        outbox = open_outbox(config, self._folder, state.boot)
        folder = RunFolder(self._folder, {})
        self.uplink = Uplink(link, config.robot, state, outbox)
        camera = Paced(self.stage, settings.rate)
        self.run = assemble(
            config,
            link=link,
            trainer=trainer,
            uplink=self.uplink,
            outbox=outbox,
            source=camera,
            folder=folder,
            stop=self.stop,
        )
        self._ready.set()
        see_and_learn(self.run)
        folder.close()
        outbox.close()


def main(settings: Settings) -> None:
    things = "A fifth toy is taught" if settings.things else "A fifth class is taught, another toy of it in each scene"
    table = Table(
        things,
        *("seed", "seconds to 90 %", "new toy in the end, %"),
        *("four before, when it began, %", "four before, in the end, %", "lost, points"),
    )
    for seed in range(settings.seeds):
        with tempfile.TemporaryDirectory() as folder:
            lesson = Lesson(settings, seed, Path(folder))
            *known, new = TOY_CLASSES[: settings.before + 1]
            for name in known:
                lesson.teach(name)
                lesson.wait_until_it_sits()
            before = statistics.mean(lesson.accuracy(name) for name in known)
            begin = time.monotonic()
            lesson.teach(new)
            right = 0.0
            while right < RIGHT and time.monotonic() < begin + settings.most:
                time.sleep(TEST_SECONDS)
                right = lesson.accuracy(new)
            seconds = time.monotonic() - begin
            while lesson.busy and time.monotonic() < begin + settings.most:
                time.sleep(0.2)
            after = statistics.mean(lesson.accuracy(name) for name in known)
            at_last = lesson.accuracy(new)
            lesson.end()
        took = round(seconds) if right >= RIGHT else f"not in {settings.most:g}"
        table.row(seed, took, percent(at_last), percent(before), percent(after), percent(before - after))
    record(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
