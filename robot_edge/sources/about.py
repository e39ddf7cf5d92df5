"""What is in a recording: cameras, labels, lengths, sizes, and the command line that would use it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from broker.errors import SourceError
from broker.program.paths import typed_path, what_is_wrong
from broker.program.plain_text import counted
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.frames import LeftOut, Pixels
from robot_edge.sources.indexed import Record, Recording
from robot_edge.sources.kinds import KINDS, Kind, Request
from robot_edge.sources.labels import listed
from robot_edge.sources.opening import open_source
from robot_edge.sources.recordings import source_for
from robot_edge.sources.settings import SourceOptions, is_live_source
from robot_edge.sources.splits import splits_of
from robot_edge.sources.tally import describe

# Pictures that are decoded to see how large they are, from all over a recording.
PICTURES_READ = 20
# Of a recording that is read one frame after the other so many are, to count labels.
FRAMES_READ = 2000


@dataclass(frozen=True, kw_only=True)
class About:
    """What one source has.

    frames: in all. looked_at: of how many of them labels are counted. labels: frames of each class, and of None. sizes:
    (width, height) of pictures that were read; unreadable: of how many not. seconds: from the first frame to the last;
    0 without a clock. unlabelled: what to do where nothing has a label. fields: that --label-field may name. hints:
    what looks like a slip.
    """

    source: str
    options: SourceOptions
    frames: int
    looked_at: int
    cameras: tuple[str, ...]
    camera: str
    labels: Counter[str | None]
    sizes: Counter[tuple[int, int]]
    unreadable: int
    seconds: float
    left_out: tuple[LeftOut, ...]
    unlabelled: str
    fields: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def sources_at(text: str) -> list[str]:
    """Return the sources for what is at a path, or for a source as --source takes it: one for each part of it.

    Raises SourceError.
    """
    kind, _, rest = text.partition(":")
    source = text
    if kind not in KINDS or not rest:
        path = typed_path(text)
        if wrong := what_is_wrong(path):
            raise SourceError(f"{text} {wrong}; name a recording's file or folder, or a source as --source takes it")
        source = source_for(path)
    if is_live_source(source):
        raise SourceError(f"{source} is no recording: what a camera shows is known when it shows it")
    splits = splits_of(source)
    return list(splits) if splits else [source]


def look_at(source: str, options: SourceOptions) -> About:
    """Read what a source has, of the first of its cameras where none is chosen. Raises SourceError."""
    name, _, rest = source.partition(":")
    kind = KINDS[name]
    cameras = tuple(kind.cameras(typed_path(rest))) if kind.cameras else ()
    if len(cameras) > 1 and not _camera_in(kind, options):
        options = _with_camera(kind, options, cameras[0])
    camera = _camera_in(kind, options) or (cameras[0] if cameras else "")
    request = Request(
        text=source,
        rest=rest,
        options=options,
        shown=[None],
        epochs=1,
        images=0,
        image_size=32,
        seed=0,
        live=False,
        numbering=None,
    )
    if kind.read is None:
        return _read_through(source, options, cameras, camera)
    recording = kind.read(request)
    with closing(recording):
        labels = Counter(record.label for record in recording.records)
        sizes, unreadable = _sizes(_spread(recording.records), recording)
        times = [record.time for record in recording.records if record.time is not None]
        return About(
            source=source,
            options=options,
            frames=len(recording.records),
            looked_at=len(recording.records),
            cameras=cameras,
            camera=camera,
            labels=labels,
            sizes=sizes,
            unreadable=unreadable,
            seconds=max(times) - min(times) if times else 0.0,
            left_out=recording.left_out,
            unlabelled=recording.unlabelled,
            fields=recording.fields,
            hints=recording.hints,
        )


def _read_through(source: str, options: SourceOptions, cameras: tuple[str, ...], camera: str) -> About:
    labels, sizes, times = Counter[str | None](), Counter[tuple[int, int]](), list[float]()
    with closing(open_source(source, options, images=0)) as frames:
        for frame in islice(iter(frames.next, None), FRAMES_READ):
            labels[frame.label] += 1
            sizes[_size(frame.image)] += 1
            times.append(frame.time)
        return About(
            source=source,
            options=options,
            frames=frames.length or 0,
            looked_at=frames.position,
            cameras=cameras,
            camera=camera,
            labels=labels,
            sizes=sizes,
            unreadable=frames.skipped,
            seconds=max(times) - min(times) if times else 0.0,
            left_out=frames.left_out,
            unlabelled="" if any(labels) else "no frame has a label (docs/sources.md says where labels come from)",
        )


def _camera_in(kind: Kind, options: SourceOptions) -> str:
    return options.image_topic if kind.camera_flag == "--image-topic" else options.camera


def _with_camera(kind: Kind, options: SourceOptions, camera: str) -> SourceOptions:
    if kind.camera_flag == "--image-topic":
        return replace(options, image_topic=camera)
    return replace(options, camera=camera)


def _spread(records: Iterable[Record]) -> list[Record]:
    records = list(records)
    return records[:: max(1, len(records) // PICTURES_READ)][:PICTURES_READ]


def _sizes(records: list[Record], recording: Recording) -> tuple[Counter[tuple[int, int]], int]:
    """Return how many of the pictures have which size, and how many cannot be read."""
    sizes = [_size_in(record, recording) for record in records]
    return Counter(size for size in sizes if size is not None), sizes.count(None)


def _size_in(record: Record, recording: Recording) -> tuple[int, int] | None:
    try:
        return _size(recording.read(record.item))
    except UNREADABLE:
        return None


def _size(image: Pixels) -> tuple[int, int]:
    height, width, _ = image.shape
    return width, height


def told(about: About) -> list[str]:
    """Return what is in a source as lines for people."""
    lines = [about.source, f"  frames    {counted(about.frames, 'frame')}{_length(about.seconds)}"]
    if about.sizes:
        sizes = ", ".join(f"{width} x {height}" for (width, height), _ in about.sizes.most_common(5))
        more = f" and {len(about.sizes) - 5} other sizes" if len(about.sizes) > 5 else ""
        lines.append(f"  sizes     {sizes}{more}")
    if about.unreadable:
        of = sum(about.sizes.values()) + about.unreadable
        lines.append(f"  damaged   {about.unreadable:,} of {counted(of, 'picture')} that were read")
    if about.cameras:
        shown = f"; {about.camera} is looked at" if len(about.cameras) > 1 else ""
        lines.append(f"  cameras   {listed(about.cameras)}{shown}")
    named = {name: count for name, count in about.labels.items() if name is not None}
    first = f" (of the first {about.looked_at:,} frames)" if about.looked_at < about.frames else ""
    if named:
        by_count = sorted(named.items(), key=lambda one: (-one[1], one[0]))
        lines.append(f"  labels    {listed(f'{name}: {count:,}' for name, count in by_count)}{first}")
    if about.labels[None] or not named:
        lines.append(f"  no label  {counted(about.labels[None], 'frame')}{first}")
    if not named and about.unlabelled:
        lines.append(f"            {about.unlabelled}")
    if about.fields:
        lines.append(f"  fields    {listed(about.fields)}")
    lines += [f"  left out  {describe(one)}" for one in about.left_out]
    return [*lines, *(f"  note      {hint}" for hint in about.hints)]


def _length(seconds: float) -> str:
    if not seconds:
        return ""
    minutes, rest = divmod(seconds, 60)
    return f", {minutes:.0f} min {rest:.0f} s" if minutes else f", {rest:.1f} s"


def command_line(abouts: list[About]) -> str:
    """Return the command that learns from the first of the sources, and tests on the second where there is one."""
    first = abouts[0]
    words = ["robot-edge", "run", "--source", first.source]
    if len(abouts) > 1:
        words += ["--held-out", abouts[1].source]
    for flag, value in (
        ("--camera", first.options.camera),
        ("--image-topic", first.options.image_topic),
        ("--label-topic", first.options.label_topic),
        ("--label-field", first.options.label_field),
        ("--labels", first.options.labels),
    ):
        words += [flag, value] if value else []
    if not any(first.labels):
        words += ["--live"]
    return shlex.join([*words, "--robot", "r1"])
