"""How old a camera's frame is when a live robot has predicted it, and how soon a stream that was lost is seen again.

    python benchmarks/live.py

A process of its own is the camera: 640x480 at 30 frames a second, MJPEG over HTTP. It draws the time into each picture,
as black and white squares, before it encodes it; they are read back from the frame that was predicted. So the age has
in it what a robot cannot know of: the camera's encoding, the network, and what waits in buffers of OpenCV and FFmpeg.
The robot has the main job's network and looks at first without learning; then it is taught all the time, so that
steps follow one another. Then the stream is killed, and an ffmpeg takes its place, which is killed and started again.

Targets: a median age under 50 ms while training; a frame predicted within 5 s of the stream's return.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from recording import Table, record

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire.messages import Command, RobotState
from hierarchy.device import choose_device, set_threads
from hierarchy.edge import EdgeTrainer, fastest_compute
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.inference.cascade import Decision
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.run.live import see_and_learn
from robot_edge.run.perception import Perception
from robot_edge.run.robot_run import assemble
from robot_edge.run.start import open_outbox
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.uplink.uplink import Uplink

WIDTH, HEIGHT, RATE = 640, 480, 30
# The time in milliseconds as so many squares, behind one that is white and one that is black.
BITS, SQUARE = 32, 16
# Pictures that the camera shows in turn. More than the robot compares a frame with, so that it always finds new ones.
PICTURES = 96
# Each is drawn as small as this, and enlarged.
SIDE = HEIGHT // 4
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A live robot, timed."""

    still: float = 20
    """Seconds without training."""
    seconds: float = 60
    """Seconds with training."""
    returns: int = 8
    """How often the stream is killed and comes back."""
    away: float = 4
    """Seconds that it is away, at most."""
    image_size: int = 32
    batch: int = 64
    practice: float = 4
    """As --practice of robot-edge run; enough for steps all the time."""
    threads: int = 0
    """As --threads of robot-edge run."""
    serve: int = 0
    """Be the camera, at this port."""


def main(settings: Settings) -> None:
    if settings.serve:
        serve(settings.serve)
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}/camera.mjpg"
    with tempfile.TemporaryDirectory() as folder:
        camera = start_camera(port)
        robot = Robot(settings, url, Path(folder))
        try:
            robot.wait_for(lambda: robot.predicted, "a first frame")
            table = Table(
                "A live camera",
                *("", "steps/s", "frames/s predicted", "age p50, ms", "p99, ms"),
                *("from OpenCV on p50, ms", "from OpenCV on p99, ms"),
            )
            report(table, "without training", robot, settings.still)
            robot.teach(settings.seconds + 2 * PATIENCE)
            robot.wait_for(lambda: robot.steps >= 5, "training")
            report(table, "while training", robot, settings.seconds)
            camera.kill()
            camera.wait()
            if shutil.which("ffmpeg") is None:
                print("ffmpeg is not installed: leaving out how soon a stream is seen again")
                record(table)
                return
            record(table, returns(settings, robot, url))
        finally:
            camera.kill()
            robot.end()


def report(table: Table, what: str, robot: Robot, seconds: float) -> None:
    """Let the robot look for so many seconds, and add a row: how old the frames were that it predicted."""
    steps, begin = robot.steps, time.monotonic()
    robot.predicted.clear()
    time.sleep(seconds)
    predicted, lasted = list(robot.predicted), time.monotonic() - begin
    true, known = (1000 * np.array(ages) for ages in zip(*(one.ages for one in predicted), strict=True))
    ages = [round(float(np.percentile(those, share)), 1) for those in (true, known) for share in (50, 99)]
    table.row(what, round((robot.steps - steps) / lasted, 2), round(len(predicted) / lasted, 1), *ages)


def returns(settings: Settings, robot: Robot, url: str) -> Table:
    """Kill the stream and let it come back, several times, and return how long it took to see it again."""
    chooser = np.random.default_rng(0)
    took = []
    for _ in range(settings.returns):
        robot.predicted.clear()
        time.sleep(chooser.uniform(0, settings.away))
        with Ffmpeg(url) as stream:
            robot.wait_for(lambda: robot.last_taken > stream.began, "the stream", meanwhile=stream.mend)
            took.append(next(one.at for one in robot.predicted if one.taken > stream.began) - stream.began)
            time.sleep(1)
        robot.wait_for(lambda: robot.status, "the loss to be noticed")
    table = Table("A killed stream, until it is predicted again", "", "seconds")
    table.row("median", round(float(np.median(took)), 2))
    table.row("worst", round(max(took), 2))
    for number, one in enumerate(took, 1):
        table.row(f"return {number}", round(one, 2))
    return table


@dataclass(frozen=True)
class Predicted:
    """When a frame was predicted, when OpenCV gave it, and what time is drawn in it: Unix seconds; None for none."""

    at: float
    taken: float
    drawn: float | None

    @property
    def ages(self) -> tuple[float, float]:
        assert self.drawn is not None, "there is no time in the picture"
        return self.at - self.drawn, self.at - self.taken


class Robot:
    """A live robot, in a thread of its own."""

    def __init__(self, settings: Settings, url: str, folder: Path) -> None:
        self._settings, self._url, self._folder = settings, url, folder
        self.stop = StopRequest()
        self.predicted: list[Predicted] = []
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def steps(self) -> int:
        return self._trainer.steps

    @property
    def status(self) -> str:
        return self._source.status

    @property
    def last_taken(self) -> float:
        return self.predicted[-1].taken if self.predicted else 0.0

    def teach(self, seconds: float) -> None:
        self._uplink.commands.put(Command(id="", action="teach", name="toy", to="", seconds=seconds))

    def wait_for(self, what: Callable[[], object], name: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        give_up = time.monotonic() + PATIENCE
        while not what():
            if self.error:
                raise self.error
            if time.monotonic() > give_up:
                raise TimeoutError(f"waited in vain for {name}; {self.status}")
            meanwhile()
            time.sleep(0.005)

    def end(self) -> None:
        self.stop.made = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self._build_and_train()
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    def _build_and_train(self) -> None:
        settings = self._settings
        set_threads(settings.threads)
        torch.manual_seed(0)
        config = RobotConfig.from_flags(
            source=self._url,
            image_size=settings.image_size,
            batch=settings.batch,
            bottleneck=16,
            practice=settings.practice,
            run_dir=str(self._folder),
        )
        segment, split, start = build_edge(config.network)
        compute = fastest_compute(
            segment, image_size=config.network.image_size, batch=config.learning.batch, device=choose_device("cpu")
        )
        self._trainer = EdgeTrainer(
            segment, bits=config.network.bits, compute=compute, peak_learning_rate=config.learning.learning_rate
        )
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
        with (
            closing(
                open_source(self._url, config.source.options, image_size=config.network.image_size, live=True)
            ) as self._source,
            closing(open_outbox(config, self._folder, state.boot)) as outbox,
            closing(RunFolder(self._folder, {})) as folder,
        ):
            link = MemoryLink(MemoryBroker())
            self._uplink = Uplink(link, config.robot, state, outbox)
            run = assemble(
                config,
                link=link,
                trainer=self._trainer,
                uplink=self._uplink,
                outbox=outbox,
                source=self._source,
                folder=folder,
                stop=self.stop,
            )
            run = replace(run, perception=self._listening(run.perception))
            self._ready.set()
            see_and_learn(run)

    def _listening(self, perception: Perception | None) -> Perception:
        assert perception

        def tell(decision: Decision, frame: Frame) -> None:
            self.predicted.append(Predicted(time.time(), frame.time, read_time(frame.image)))
            perception.tell(decision, frame)

        return replace(perception, tell=tell)


def start_camera(port: int) -> subprocess.Popen[str]:
    """Start this file as the camera, and wait until it listens."""
    camera = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(port)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert camera.stdout is not None
    assert camera.stdout.readline(), "the camera did not start"
    return camera


def serve(port: int) -> None:
    """Be the camera until killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends it
    pictures = draw_pictures()

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            begin, number = time.monotonic(), 0
            while True:
                jpeg = encode(pictures[number % PICTURES])
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:  # the reader has left
                    return
                number = max(number + 1, int((time.monotonic() - begin) * RATE))  # a slow camera leaves frames out
                time.sleep(max(0.0, begin + number / RATE - time.monotonic()))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Stream) as server:
        print("listening", flush=True)
        server.serve_forever()


def draw_pictures() -> Pixels:
    """Return small pictures of moving toys, uint8 (PICTURES, SIDE, width, 3)."""
    toys = SimulatedCamera(size=SIDE, seed=0, frames=PICTURES)
    frames = np.stack([frame.image for frame in iter(toys.next, None)])
    margin = (WIDTH // 4 - SIDE) // 2
    return np.pad(frames, ((0, 0), (0, 0), (margin, margin), (0, 0)), constant_values=90)


def encode(small: Pixels) -> bytes:
    """Return a picture as JPEG, with the time at which this began."""
    now = int(time.time() * 1000)
    image = small.repeat(4, axis=0).repeat(4, axis=1)
    squares = [1, 0, *(now >> bit & 1 for bit in range(BITS))]
    image[:SQUARE, : len(squares) * SQUARE] = 255 * np.repeat(squares, SQUARE)[None, :, None]
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return file.getvalue()


def read_time(image: Pixels) -> float | None:
    """Return the time that is drawn in a picture, in Unix seconds; None where there is none."""
    middles = image[SQUARE // 2, SQUARE // 2 : (BITS + 2) * SQUARE : SQUARE].mean(axis=1) > 127
    if len(middles) < BITS + 2 or not middles[0] or middles[1]:
        return None
    low = sum(1 << bit for bit, one in enumerate(middles[2:]) if one)
    now = int(time.time() * 1000)
    return (now - (now - low) % (1 << BITS)) / 1000


class Ffmpeg:
    """An ffmpeg that serves MJPEG; it serves one reader, and is killed at the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.began = time.time()
        self._start()

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    def mend(self) -> None:
        """Start it again where it has ended, as a real camera would not."""
        if self._process.poll() is not None:
            self._start()

    def _start(self) -> None:
        film = ["-re", "-f", "lavfi", "-i", f"testsrc=size={WIDTH}x{HEIGHT}:rate={RATE}"]
        server = ["-f", "mpjpeg", "-listen", "1", self._url]
        self._process = subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "quiet", *film, *server])


def free_port() -> int:
    """Return a port that nobody listens at, below those that systems give to outgoing connections.

    A robot that tries to reach a camera which is away could else be connected to itself.
    """
    while True:
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
