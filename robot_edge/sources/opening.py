"""Frame sources: where a robot sees from. A replay is just another source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from broker.errors import SourceError
from broker.program.paths import typed_path
from robot_edge.sources.bag import BagSource
from robot_edge.sources.camera import open_camera, open_stream
from robot_edge.sources.folder import FolderSource
from robot_edge.sources.frames import Frame, FrameSource, LeftOut, Numbering
from robot_edge.sources.gstreamer import open_pipeline
from robot_edge.sources.kinds import unknown_kind
from robot_edge.sources.paced import Paced
from robot_edge.sources.passwords import masked, unmasked
from robot_edge.sources.replay import Replay
from robot_edge.sources.ros2 import open_topic
from robot_edge.sources.settings import CAMERAS, SourceOptions, is_live_source, parse_rate
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.sources.torchvision_set import TorchvisionSource
from robot_edge.sources.video import VideoSource

WITHOUT_PHASES = {"gst", "ros2", "camera", "video", "bag", "rtsp", "rtsps", "http", "https"}
# Frames that the simulated camera shows where nobody says how many.
SIM_FRAMES = 12_000
# When watched live: frames a second, and scenes (of four frames) before the next toy.
SIM_RATE, SIM_STAY = 10, 40
# And in pixels, larger than what the network takes in, as a camera's pictures are.
SIM_SIZE = 160

log = logging.getLogger("robot-edge")


def open_source(
    text: str,
    options: SourceOptions | None = None,
    *,
    image_size: int = 32,
    phases: Sequence[Sequence[str]] = (),
    epochs: int = 1,
    images: int = 0,
    seed: int = 0,
    live: bool = False,
    needs_labels: bool = False,
    numbering: Numbering | None = None,
) -> Paced:
    """Open a source as written on the command line: one of kinds.KINDS, and what it needs behind the colon.

    phases: the classes shown in each phase, one phase after the other; none for all classes at once.
    epochs: of a folder, in each phase. images: at most that many frames in all, 0 for no bound. live: to be watched as
    a camera, so a recording goes as fast as it was recorded unless a rate is set, and its labels are not read; sim:
    shows one toy after the other. needs_labels: a source is refused where it is known to have none. numbering: of a
    folder's pictures, as a former process or run had it.
    Raises SourceError.
    """
    options = options or SourceOptions()
    text = unmasked(text)
    _say_what_is_not_read(text.partition(":")[0], options)
    if needs_labels and text.partition(":")[0] in CAMERAS:
        raise SourceError(f"{masked(text)} says nothing of what it shows: record and label it, and use the recording")
    shown: list[Sequence[str] | None] = list(phases) or [None]
    parts: list[FrameSource]
    match text.partition(":"):
        case "folder", _, path if path:
            parts = [
                FolderSource(typed_path(path), classes=classes, epochs=epochs, seed=seed + number, numbering=numbering)
                for number, classes in enumerate(shown)
            ]
        case "torchvision", _, name if name:
            root = typed_path(options.data_dir) if options.data_dir else None
            parts = [
                TorchvisionSource(name, root, classes=classes, epochs=epochs, seed=seed + number)
                for number, classes in enumerate(shown)
            ]
        case "sim", _, toys if live:
            parts = [_live_camera(toys, image_size, seed)]
            options = replace(options, rate=str(SIM_RATE)) if options.rate == "max" else options
        case "sim", _, "":
            parts = _simulated_replay(shown, images, image_size, seed)
        case "sim", _, toys:
            raise SourceError(
                f"sim:{toys}: toys are chosen by name where they are looked at (--live), and by --phases in a replay; "
                "sim: alone shows all of them"
            )
        case kind, _, _ if (phases or epochs > 1) and kind in WITHOUT_PHASES:
            raise SourceError(f"{kind}: has no --phases and no --epochs; those are for folder:, torchvision: and sim:")
        case "video", _, path if path:
            labels = typed_path(options.labels) if options.labels and not live else None
            parts = [VideoSource(typed_path(path), labels)]
        case "bag", _, path if path:
            parts = [BagSource(typed_path(path), options.image_topic, None if live else options.label_topic)]
        case "gst", _, pipeline if pipeline:
            parts = [open_pipeline(pipeline, options)]
        case "ros2", _, topic if topic:
            parts = [open_topic(topic, options)]
        case "camera", _, device:
            parts = [open_camera(device, options)]
        case (("rtsp" | "rtsps" | "http" | "https"), _, rest) if rest.startswith("//"):
            parts = [open_stream(text)]
        case _:
            raise unknown_kind(text)
    if not live:
        _check_labels(parts, needs_labels=needs_labels)
    rate = options.rate
    if is_live_source(text):  # it has its own pace: to be held to it once more would only make frames older
        rate = "max" if rate == "realtime" else rate
    elif live and rate == "max":
        rate = "realtime"
    return Paced(ChainedSource(parts, images), parse_rate(rate))


def _say_what_is_not_read(kind: str, options: SourceOptions) -> None:
    for flag, value, kinds in (
        ("--labels", options.labels, ("video",)),
        ("--image-topic", options.image_topic, ("bag",)),
        ("--label-topic", options.label_topic, ("bag", "ros2")),
    ):
        if value and kind not in kinds:
            log.warning("%s %s is not read: it is for %s, not for %s", flag, value, " and ".join(kinds), kind)


def _check_labels(parts: Sequence[FrameSource], *, needs_labels: bool) -> None:
    """Where it is known that no part has a label, say why. Raises SourceError where they have to."""
    reasons = [part.unlabelled if isinstance(part, Replay) else "" for part in parts]
    if not all(reasons):
        return
    if needs_labels:
        for part in parts:
            part.close()
        raise SourceError(reasons[0])
    log.warning("%s", reasons[0])


def _live_camera(toys: str, image_size: int, seed: int) -> FrameSource:
    """Return a camera as somebody holds one thing after the other before it, for as long as it takes."""
    names = tuple(toys.split(",")) if toys else None
    return SimulatedCamera(classes=names, size=max(image_size, SIM_SIZE), seed=seed, stay=SIM_STAY, things=True)


def _simulated_replay(
    shown: Sequence[Sequence[str] | None], images: int, image_size: int, seed: int
) -> list[FrameSource]:
    share = (images or SIM_FRAMES) // len(shown)
    return [
        SimulatedCamera(classes=classes, frames=share, size=image_size, seed=seed + number, first_scene=number * share)
        for number, classes in enumerate(shown)
    ]


class ChainedSource:
    """Shows one source after the other, in all at most ``images`` of all frames where that is not 0."""

    def __init__(self, parts: Sequence[FrameSource], images: int = 0) -> None:
        self._parts = list(parts)
        self._images = images or None
        total = sum(part.length for part in parts if part.length is not None)
        endless = any(part.length is None for part in parts)
        self.length = self._images if endless else min(total, self._images or total)

    @property
    def position(self) -> int:
        return sum(part.position for part in self._parts)

    @property
    def skipped(self) -> int:
        return sum(part.skipped for part in self._parts)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is there and is not shown; phases have it in common."""
        return tuple(dict.fromkeys(one for part in self._parts for one in part.left_out))

    @property
    def ended(self) -> bool:
        return self._is_enough or all(part.ended for part in self._parts)

    @property
    def status(self) -> str:
        return next((part.status for part in self._parts if not part.ended), "")

    @property
    def reconnects(self) -> int:
        return sum(part.reconnects for part in self._parts)

    def next(self, timeout: float | None = None) -> Frame | None:
        return self._first(lambda part: part.next(timeout))

    def latest(self, timeout: float | None = None) -> Frame | None:
        return self._first(lambda part: part.latest(timeout))

    def _first(self, read: Callable[[FrameSource], Frame | None]) -> Frame | None:
        if self._is_enough:
            return None
        for number, part in enumerate(self._parts):
            frame = read(part)
            if frame is not None:
                return frame if frame.phase == number else replace(frame, phase=number)
            if not part.ended:
                return None
        return None

    @property
    def _is_enough(self) -> bool:
        return self._images is not None and self.position >= self._images

    def seek(self, position: int) -> None:
        for part in self._parts:
            part.seek(position)
            position -= part.position

    def close(self) -> None:
        for part in self._parts:
            part.close()
