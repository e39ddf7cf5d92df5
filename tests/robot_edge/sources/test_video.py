from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.frames import Frame
from robot_edge.source_options import SourceOptions
from robot_edge.sources import open_source
from robot_edge.sources.video import Interval, VideoSource, read_labels
from tests.robot_edge.sources.streams import needs_ffmpeg

FRAMES, RATE = 50, 10


def write_video(path: Path, codec: str = "libx264", frames: int = FRAMES, side: int = 64) -> Path:
    """Write a film whose n-th frame has the brightness 4 n + 10."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = side
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        for number in range(frames):
            picture = np.full((side, side, 3), 4 * number + 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "film.mp4")


def numbers(frames: list[Frame]) -> list[int]:
    """Return which frame of the film each is, by its brightness."""
    return [round((float(frame.image.mean()) - 10) / 4) for frame in frames]


def rest(source: VideoSource) -> list[Frame]:
    return list(iter(source.next, None))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")])
def test_every_frame_of_a_real_video_is_shown_in_order(tmp_path: Path, name: str, codec: str) -> None:
    with closing(VideoSource(write_video(tmp_path / name, codec))) as source:
        assert source.length == FRAMES
        frames = rest(source)
        assert numbers(frames) == list(range(FRAMES))
        assert [frame.time for frame in frames] == pytest.approx([number / RATE for number in range(FRAMES)], abs=0.002)
        assert [frame.scene for frame in frames] == [int(frame.time) for frame in frames]
        assert source.ended
        assert source.skipped == 0


@needs_ffmpeg
def test_a_raw_stream_without_times_is_counted(film: Path, tmp_path: Path) -> None:
    raw = tmp_path / "film.h264"
    command = ["ffmpeg", "-loglevel", "quiet", "-i", str(film), "-c", "copy", "-bsf:v", "h264_mp4toannexb", str(raw)]
    subprocess.run(command, check=True)
    with closing(VideoSource(raw)) as whole, closing(VideoSource(raw)) as later:
        assert numbers(rest(whole)) == list(range(FRAMES))
        later.seek(30)
        assert numbers(rest(later)) == list(range(30, FRAMES))


@pytest.mark.parametrize("position", [0, 1, 11, 12, 13, 37, 49, 50, 60])
def test_it_goes_on_at_any_frame(film: Path, position: int) -> None:
    with closing(VideoSource(film)) as source:
        source.seek(position)
        assert source.position == min(position, FRAMES)
        assert numbers(rest(source)) == list(range(position, FRAMES))
        assert source.skipped == 0


def test_frames_are_labelled_by_their_times(film: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("start,end,class\n1.0,2.0,cup\n\n 3, 4.05 ,two words\n")
    options = SourceOptions(labels=str(labels))
    with closing(open_source(f"video:{film}", options, image_size=32)) as source:
        names = [frame.label for frame in iter(source.next, None)]
    assert names == [None] * 10 + ["cup"] * 10 + [None] * 10 + ["two words"] * 11 + [None] * 9


def test_labels_of_times_without_frames_are_said(film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("0,1,cup\n7,8,late\n9,10,later\n")
    VideoSource(film, labels).close()
    assert "ends at 4.9 s: 2 labels are of later times, the first 'late' at 7 s" in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 lines"),
        ("start,end,class\n", "0 lines"),
        ("0,1,\n", "line 1"),
        ("0,1," + "x" * 10_000, "line 1"),
        ("0,1,a\n1,2,b\x07", "line 2"),
        ("1,1,a", "is no time"),
        ("2,1,a", "is no time"),
        ("-1,1,a", "is no time"),
        ("0,inf,a", "is no time"),
        ("nan,1,a", "is no time"),
        ("0,1", "expected start,end,class"),
        ("0,1,a,b", "expected start,end,class"),
        ("begin,1,a", "line 1"),
        ("0,5,a\n4,6,b", "lines 1 and 2 say what is shown at 4 s"),
        ("4,6,b\n0,5,a", "lines 2 and 1"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=reason) as error:
        read_labels(path)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"0,1,\xe9"])
def test_labels_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="--labels"):
        read_labels(path)
    with pytest.raises(SourceError, match="No such file"):
        read_labels(tmp_path / "none.csv")


def test_the_same_class_may_be_shown_several_times(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("5,6,cup\n0,1,cup\n1,2,cup")
    assert read_labels(path)[2] == Interval(start=5, end=6, name="cup")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_truncated_video_is_shown_as_far_as_it_goes_or_refused(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, side=256)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    if name == "cut.mp4":  # its index is at the end
        with pytest.raises(SourceError, match="was its recording cut off"):
            VideoSource(path)
        return
    with closing(VideoSource(path)) as source:
        shown = numbers(rest(source))
        assert 10 < len(shown) < FRAMES
        assert shown == list(range(len(shown)))
        assert source.ended


def test_damage_in_the_middle_costs_frames_but_not_the_count(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.avi", "mjpeg")
    content = bytearray(path.read_bytes())
    middle = content.index(b"\xff\xd8", len(content) // 2)
    end = content.index(b"\xff\xd9", middle)
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)
    with closing(VideoSource(path)) as source:
        shown = rest(source)
        assert len(shown) + source.skipped == FRAMES == source.position
        assert 1 <= source.skipped <= 3


def write_garbage(path: Path) -> Iterator[Path]:
    for number, content in enumerate([b"", b"\x00" * 5000, b"\x1aE\xdf\xa3" * 500, b"#EXTM3U\n#EXTINF:1,\nfilm.mp4\n"]):
        (path / f"{number}.mp4").write_bytes(content)
        yield path / f"{number}.mp4"


def test_what_is_no_video_is_refused(tmp_path: Path, film: Path) -> None:
    for path in write_garbage(tmp_path):
        with pytest.raises(SourceError, match=r"cannot be read|has no pictures"):
            VideoSource(path)
    with pytest.raises(SourceError, match=r"is no file .did you mean folder:"):
        VideoSource(tmp_path)
    playlist = film.parent / "list.m3u8"  # what it names would be opened
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{film.name}\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError, match="cannot be read"):
        VideoSource(playlist)


def test_a_picture_that_is_too_large_is_not_decoded(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_edge.frames.MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(SourceError, match="64 x 64 pixels, limit 4,095"):
        VideoSource(film)
