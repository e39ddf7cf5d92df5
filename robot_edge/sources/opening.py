"""Frame sources: where a robot sees from. A replay is just another source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from broker.errors import MalformedMessage, SourceError
from broker.wire.bounds import check_class_name
from robot_edge.sources.frames import Frame, FrameSource, LeftOut, Numbering
from robot_edge.sources.kinds import KINDS, Request, unknown_kind
from robot_edge.sources.paced import Paced
from robot_edge.sources.passwords import masked, unmasked
from robot_edge.sources.replay import Replay
from robot_edge.sources.settings import CAMERAS, SourceOptions, is_live_source, parse_rate

# What has cameras, and fields, by names.
CAMERA_KINDS = ("lerobot", "tub", "hdf5", "webdataset")
FIELD_KINDS = ("folder", "lerobot", "tub", "hdf5", "webdataset")
# Frames a second of the simulated camera when it is watched live.
SIM_RATE = "10"

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
    check_name: Callable[[str], object] = check_class_name,
) -> Paced:
    """Open a source as written on the command line: one of kinds.KINDS, and what it needs behind the colon.

    phases: the classes shown in each phase, one phase after the other; none for all classes at once.
    epochs: of a folder, in each phase. images: at most that many frames in all, 0 for no bound. live: to be watched as
    a camera, so a recording goes as fast as it was recorded unless a rate is set, and its labels are not read; sim:
    shows one toy after the other. needs_labels: a source is refused where it is known to have none. numbering: of a
    folder's pictures, as a former process or run had it. check_name: raises MalformedMessage for what no class of this
    robot may be called.
    Raises SourceError.
    """
    options = options or SourceOptions()
    text = unmasked(text)
    name, _, rest = text.partition(":")
    kind = KINDS.get(name)
    _say_what_is_not_read(name, options)
    if needs_labels and name in CAMERAS:
        raise SourceError(f"{masked(text)} says nothing of what it shows: record and label it, and use the recording")
    if kind and not kind.has_phases and (phases or epochs > 1):
        phased = ", ".join(f"{one}:" for one, kind in KINDS.items() if kind.has_phases)
        raise SourceError(f"{name}: has no --phases and no --epochs; those are for {phased}")
    if kind is None or not kind.takes(rest):
        raise unknown_kind(text)
    request = Request(
        text=text,
        rest=rest,
        options=options,
        shown=list(phases) or [None],
        epochs=epochs,
        images=images,
        image_size=image_size,
        seed=seed,
        live=live,
        numbering=numbering,
    )
    parts = kind.parts(request)
    if not live:
        _check_names(parts, masked(text), check_name)
        _check_labels(parts, needs_labels=needs_labels)
    rate = options.rate
    if is_live_source(text):  # it has its own pace: to be held to it once more would only make frames older
        rate = "max" if rate == "realtime" else rate
    elif live and rate == "max":
        rate = SIM_RATE if name == "sim" else "realtime"
    return Paced(ChainedSource(parts, images), parse_rate(rate))


def _say_what_is_not_read(kind: str, options: SourceOptions) -> None:
    for flag, value, kinds in (
        ("--labels", options.labels, ("video", "lerobot")),
        ("--image-topic", options.image_topic, ("bag",)),
        ("--label-topic", options.label_topic, ("bag", "ros2")),
        ("--camera", options.camera, CAMERA_KINDS),
        ("--label-field", options.label_field, FIELD_KINDS),
    ):
        if value and kind not in kinds:
            log.warning("%s %s is not read: it is for %s, not for %s", flag, value, " and ".join(kinds), kind)


def _check_names(parts: Sequence[FrameSource], text: str, check_name: Callable[[str], object]) -> None:
    """Raise SourceError for a name that is known by now and may not be, before anything is learned."""
    try:
        for name in sorted(frozenset().union(*(part.classes for part in parts if isinstance(part, Replay)))):
            check_name(name)
    except MalformedMessage as error:
        for part in parts:
            part.close()
        raise SourceError(f"{text}: {error}") from error


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
