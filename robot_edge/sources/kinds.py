"""The kinds of sources: how each is written on the command line, and what opens it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.errors import SourceError
from broker.program.paths import did_you_mean, like, typed_path
from robot_edge.sources import hdf5, webdataset
from robot_edge.sources.bag import BagSource, picture_topics
from robot_edge.sources.camera import open_camera, open_stream
from robot_edge.sources.coco import check_is_coco, read_coco
from robot_edge.sources.folder import read_folder
from robot_edge.sources.frames import FrameSource, Numbering
from robot_edge.sources.gstreamer import open_pipeline
from robot_edge.sources.hdf5 import check_is_hdf5, read_hdf5
from robot_edge.sources.indexed import IndexedSource, Recording
from robot_edge.sources.lerobot.meta import read_info
from robot_edge.sources.lerobot.source import LeRobotSource
from robot_edge.sources.passwords import masked
from robot_edge.sources.recordings import check_is_bag, check_is_folder, check_is_recording, check_is_video, source_for
from robot_edge.sources.ros2.source import open_topic
from robot_edge.sources.settings import SourceOptions
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.sources.torchvision_set import read_torchvision
from robot_edge.sources.tub import read_manifest, read_tub
from robot_edge.sources.video import VideoSource
from robot_edge.sources.webdataset import check_is_webdataset, read_webdataset
from robot_edge.sources.yolo import check_is_yolo, read_yolo

# Frames that the simulated camera shows where nobody says how many.
SIM_FRAMES = 12_000
# When watched live: scenes (of four frames) before the next toy.
SIM_STAY = 40
# And in pixels, larger than what the network takes in, as a camera's pictures are.
SIM_SIZE = 160


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be opened, as `open_source` takes it. rest: what is behind the colon.

    shown: the classes of each phase; None for all.
    """

    text: str
    rest: str
    options: SourceOptions
    shown: Sequence[Sequence[str] | None]
    epochs: int
    images: int
    image_size: int
    seed: int
    live: bool
    numbering: Numbering | None


def _read_folder(asked: Request) -> Recording:
    return read_folder(typed_path(asked.rest), asked.options.label_field, asked.numbering)


def _read_tub(asked: Request) -> Recording:
    return read_tub(typed_path(asked.rest), asked.options.camera, asked.options.label_field)


def _read_hdf5(asked: Request) -> Recording:
    return read_hdf5(typed_path(asked.rest), asked.options.camera, asked.options.label_field)


def _read_coco(asked: Request) -> Recording:
    return read_coco(typed_path(asked.rest), typed_path(asked.options.data_dir) if asked.options.data_dir else None)


def _read_yolo(asked: Request) -> Recording:
    return read_yolo(typed_path(asked.rest))


def _read_webdataset(asked: Request) -> Recording:
    return read_webdataset(typed_path(asked.rest), asked.options.camera, asked.options.label_field)


def _read_torchvision(asked: Request) -> Recording:
    return read_torchvision(asked.rest, typed_path(asked.options.data_dir) if asked.options.data_dir else None)


def _indexed(read: Callable[[Request], Recording]) -> Callable[[Request], list[FrameSource]]:
    """Return what opens a recording once, and shows it in each phase."""

    def parts(asked: Request) -> list[FrameSource]:
        recording = read(asked)
        try:
            return [
                IndexedSource(recording, classes=one, epochs=asked.epochs, seed=asked.seed + number)
                for number, one in enumerate(asked.shown)
            ]
        except SourceError:
            recording.close()
            raise

    return parts


def _sim(asked: Request) -> list[FrameSource]:
    """Return what replays its phases; where it is watched live, one thing after the other, for as long as it takes."""
    if asked.live:
        names = tuple(asked.rest.split(",")) if asked.rest else None
        size = max(asked.image_size, SIM_SIZE)
        return [SimulatedCamera(classes=names, size=size, seed=asked.seed, stay=SIM_STAY, things=True)]
    if asked.rest:
        raise SourceError(
            f"sim:{asked.rest}: toys are chosen by name where they are looked at (--live), and by --phases in a "
            "replay; sim: alone shows all of them"
        )
    share = (asked.images or SIM_FRAMES) // len(asked.shown)
    return [
        SimulatedCamera(
            classes=one, frames=share, size=asked.image_size, seed=asked.seed + number, first_scene=number * share
        )
        for number, one in enumerate(asked.shown)
    ]


def _video(asked: Request) -> list[FrameSource]:
    labels = typed_path(asked.options.labels) if asked.options.labels and not asked.live else None
    return [VideoSource(typed_path(asked.rest), labels)]


def _bag(asked: Request) -> list[FrameSource]:
    label_topic = None if asked.live else asked.options.label_topic
    return [BagSource(typed_path(asked.rest), asked.options.image_topic, label_topic)]


def _lerobot(asked: Request) -> list[FrameSource]:
    options = asked.options
    labels = typed_path(options.labels) if options.labels else None
    field = None if asked.live else options.label_field
    return [LeRobotSource(typed_path(asked.rest), camera=options.camera, label_field=field, labels=labels)]


def _stream(asked: Request) -> list[FrameSource]:
    return [open_stream(asked.text)]


@dataclass(frozen=True)
class Kind:
    """A kind of source. written: for people. parts: opens it, one part for each phase. read: only reads what it has,
    where its pictures can be read in any order. cameras: returns the cameras of what is at a path, each as
    ``camera_flag`` takes it.

    check: raises SourceError where a recording is not there. has_phases: and epochs. alone: may have nothing behind
    its name. begins: what is behind the colon, otherwise.
    """

    written: Sequence[str]
    parts: Callable[[Request], list[FrameSource]]
    check: Callable[[Path], None] | None = None
    has_phases: bool = False
    alone: bool = False
    begins: str = ""
    read: Callable[[Request], Recording] | None = None
    cameras: Callable[[Path], list[str]] | None = None
    camera_flag: str = "--camera"

    def takes(self, rest: str) -> bool:
        """Whether that may stand behind its colon."""
        return rest.startswith(self.begins) and bool(rest or self.alone)


# By what stands in front of the colon. A new kind is a line here.
KINDS = {
    "camera": Kind(
        ["camera:0", "camera:/dev/video0"], lambda asked: [open_camera(asked.rest, asked.options)], alone=True
    ),
    "rtsp": Kind(["rtsp://..."], _stream, begins="//"),
    "rtsps": Kind([], _stream, begins="//"),
    "http": Kind(["http://... (MJPEG)"], _stream, begins="//"),
    "https": Kind([], _stream, begins="//"),
    "video": Kind(["video:FILE"], _video, check_is_video),
    "bag": Kind(["bag:PATH"], _bag, check_is_bag, cameras=picture_topics, camera_flag="--image-topic"),
    "lerobot": Kind(["lerobot:PATH"], _lerobot, check_is_recording, cameras=lambda path: read_info(path).cameras),
    "folder": Kind(["folder:PATH"], _indexed(_read_folder), check_is_folder, has_phases=True, read=_read_folder),
    "tub": Kind(
        ["tub:PATH"],
        _indexed(_read_tub),
        check_is_recording,
        has_phases=True,
        read=_read_tub,
        cameras=lambda path: read_manifest(path).cameras,
    ),
    "hdf5": Kind(
        ["hdf5:FILE"], _indexed(_read_hdf5), check_is_hdf5, has_phases=True, read=_read_hdf5, cameras=hdf5.cameras_in
    ),
    "coco": Kind(["coco:FILE"], _indexed(_read_coco), check_is_coco, has_phases=True, read=_read_coco),
    "yolo": Kind(["yolo:PATH"], _indexed(_read_yolo), check_is_yolo, has_phases=True, read=_read_yolo),
    "webdataset": Kind(
        ["webdataset:PATH"],
        _indexed(_read_webdataset),
        check_is_webdataset,
        has_phases=True,
        read=_read_webdataset,
        cameras=webdataset.cameras_in,
    ),
    "torchvision": Kind(["torchvision:NAME"], _indexed(_read_torchvision), has_phases=True, read=_read_torchvision),
    "gst": Kind(["gst:PIPELINE"], lambda asked: [open_pipeline(asked.rest, asked.options)]),
    "ros2": Kind(["ros2:/TOPIC"], lambda asked: [open_topic(asked.rest, asked.options)]),
    "sim": Kind(["sim:"], _sim, has_phases=True, alone=True),
}


def check_source(text: str, flag: str = "--source") -> None:
    """Raise SourceError where a source is of no kind, or names a recording that is not there. Opens nothing."""
    name, colon, rest = text.partition(":")
    kind = KINDS.get(name)
    if kind is None or not (colon or kind.alone):
        raise unknown_kind(text, flag)
    if rest and kind.check:
        kind.check(typed_path(rest))


def unknown_kind(text: str, flag: str = "source") -> SourceError:
    """Return the error of a source that is of no kind, with what may be meant."""
    meant = _meant_by(text)
    hint = f" (did you mean {masked(meant)}?)" if meant else did_you_mean(typed_path(text)) if os.sep in text else ""
    expected = ", ".join(one for kind in KINDS.values() for one in kind.written)
    return SourceError(f"{flag} {masked(text)!r}{hint}: expected {expected}")


def _meant_by(text: str) -> str:
    """Return the source that somebody meant who wrote one of no kind; empty where nothing is like it."""
    path = typed_path(text)
    try:
        if text and path.exists():
            return source_for(path)
    except (OSError, ValueError):
        return ""
    kind, _, rest = text.partition(":")
    return f"{likely}:{rest}" if rest and (likely := like(kind, list(KINDS))) else ""
