from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from broker.errors import SourceError
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from robot_edge.sources.video import VideoSource
from robot_edge.sources.video_file import upright
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
    with closing(VideoSource(film, labels)) as known:
        assert known.classes == {"cup", "two words"}


@pytest.mark.parametrize("text", ["100,200,cup\n", "5000,9000,milliseconds\n", "4.95,8,between\n"])
def test_labels_of_nothing_that_is_shown_are_refused_at_once(film: Path, tmp_path: Path, text: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(SourceError, match=r"none of its 1 labels is of a picture in video .* ends at 4.9 s: the first"):
        VideoSource(film, labels)


def test_a_video_without_labels_knows_it(film: Path) -> None:
    with closing(VideoSource(film)) as source:
        assert "give --labels FILE.csv" in source.unlabelled


def test_labels_of_times_without_frames_are_said(film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("0,1,cup\n7,8,late\n9,10,later\n")
    VideoSource(film, labels).close()
    assert "ends at 4.9 s: 2 labels are of later times, the first 'late' at 7 s" in caplog.text


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_truncated_video_is_shown_as_far_as_it_goes_or_refused(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, side=256)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    if name == "cut.mp4":  # its index is at the end
        with pytest.raises(SourceError, match=r"its index \(moov\) is missing: the recording was cut off"):
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


def test_what_an_edit_list_hides_is_not_shown(film: Path, tmp_path: Path) -> None:
    """Phones, and ffmpeg -c copy, trim so: the pictures from the key frame to the cut stay in the file."""
    data = bytearray(film.read_bytes())
    (duration,) = struct.unpack_from(">I", data, data.index(b"elst") + 12)
    (scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    cut = 17  # five frames behind a key frame
    at = data.index(b"elst") + 12
    before = struct.unpack_from(">i", data, at + 4)[0]
    struct.pack_into(">Ii", data, at, duration * (FRAMES - cut) // FRAMES, before + cut * scale // RATE)
    path, labels = tmp_path / "trimmed.mp4", tmp_path / "labels.csv"
    path.write_bytes(data)
    labels.write_text("0,1,first\n1,9,then\n")
    with closing(VideoSource(path, labels)) as source, closing(VideoSource(path, labels)) as later:
        frames = rest(source)
        assert numbers(frames) == list(range(cut, FRAMES))
        assert (source.length, source.skipped) == (FRAMES - cut, 0)
        assert frames[0].time == 0
        assert [frame.label for frame in frames] == ["first"] * 10 + ["then"] * (FRAMES - cut - 10)
        later.seek(5)
        assert numbers(rest(later)) == list(range(cut + 5, FRAMES))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "begin"),
    [
        ("ten-hours.ts", ["-c", "copy", "-output_ts_offset", "36000"], 0.0),
        ("negative.mkv", ["-c", "copy", "-bsf:v", "setts=ts=TS-0.3/TB", "-avoid_negative_ts", "disabled"], 0.0),
        ("fragmented.mp4", ["-c", "copy", "-movflags", "frag_keyframe+empty_moov"], 0.0),
        ("deep.mkv", ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"], 0.0),
        ("interlaced.mp4", ["-c:v", "libx264", "-flags", "+ildct+ilme"], 0.0),
        ("odd.mkv", ["-c:v", "libx264", "-vf", "scale=63:61", "-pix_fmt", "yuv444p"], 0.0),
        ("gif.gif", [], 0.0),
        ("vp9.webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime"], 0.0),
        ("mpeg4.avi", ["-c:v", "mpeg4", "-bf", "2", "-qscale", "2"], 1 / RATE),
    ],
)
def test_every_kind_of_file_begins_with_its_first_frame(
    film: Path, tmp_path: Path, name: str, options: list[str], begin: float
) -> None:
    path = tmp_path / name
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(film), *options, str(path)], check=True)
    with closing(VideoSource(path)) as source:
        frames = rest(source)
    assert len(frames) == FRAMES
    assert np.abs(np.array(numbers(frames)) - range(FRAMES)).max() <= 1
    assert frames[0].time == pytest.approx(begin, abs=0.01)
    assert frames[-1].time == pytest.approx(begin + (FRAMES - 1) / RATE, abs=0.02)


def test_times_are_those_of_a_variable_frame_rate(tmp_path: Path) -> None:
    moments = [0, 40, 1040, 1080, 3000]
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 32
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for moment in moments:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with closing(VideoSource(path)) as source:
        assert [round(frame.time * 1000) for frame in rest(source)] == moments


@needs_ffmpeg
def test_a_picture_that_begins_behind_the_sound_has_a_players_time(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "late.mp4"
    sound = ["-f", "lavfi", "-i", "sine=d=8"]
    command = ["ffmpeg", "-v", "error", *sound, "-itsoffset", "1.5", "-i", str(film), "-map", "0", "-map", "1"]
    subprocess.run([*command, "-c:v", "copy", str(path)], check=True)
    with closing(VideoSource(path)) as source:
        first = source.next()
    assert first is not None
    assert first.time == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        (None, [[1, 2, 3], [4, 5, 6]]),
        ([1, 0, 0, 0, 1, 0], [[1, 2, 3], [4, 5, 6]]),
        ([0, 1, 0, -1, 0, 0], [[4, 1], [5, 2], [6, 3]]),
        ([-1, 0, 0, 0, -1, 0], [[6, 5, 4], [3, 2, 1]]),
        ([0, -1, 0, 1, 0, 0], [[3, 6], [2, 5], [1, 4]]),
        ([-1, 0, 0, 0, 1, 0], [[3, 2, 1], [6, 5, 4]]),  # mirrored, as a selfie
        ([0, 0, 0, 0, 0, 0], [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_a_display_matrix_is_followed(matrix: list[int] | None, turned: list[list[int]]) -> None:
    picture = np.repeat(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[:, :, None], 3, axis=2)
    numbers = None if matrix is None else np.array([*(65536 * one for one in matrix), 0, 0, 1 << 30], np.int32)
    assert upright(picture, numbers)[:, :, 0].tolist() == turned


@needs_ffmpeg
def test_a_phones_video_is_upright_as_in_a_player(tmp_path: Path) -> None:
    plain, lying, shown = tmp_path / "plain.mp4", tmp_path / "lying.mp4", tmp_path / "shown.png"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=0.2:s=64x48", str(plain)], check=True)
    turn = ["-c", "copy", "-metadata:s:v", "rotate=90"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(plain), *turn, str(lying)], check=True)
    with closing(VideoSource(lying)) as film:
        frame = film.next()
    assert frame is not None
    if frame.image.shape == (48, 64, 3):
        pytest.skip("this ffmpeg writes no turn")
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(lying), "-frames:v", "1", str(shown)], check=True)
    assert np.abs(frame.image.astype(int) - np.asarray(Image.open(shown).convert("RGB"))).max() <= 8


@needs_ffmpeg
def test_sound_alone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=1", str(path)], check=True)
    with pytest.raises(SourceError, match="it has no pictures"):
        VideoSource(path)


@needs_ffmpeg
def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=1", str(path)], check=True)
    with pytest.raises(SourceError, match=r"files of the kind wav are not read; read are mov, mp4, .*is it a video"):
        VideoSource(path)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "tif"])
def test_a_picture_is_no_video(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{kind}"
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(SourceError, match="single picture: pictures lie in folders"):
        VideoSource(path)


def test_a_video_of_which_nothing_can_be_decoded_is_no_success(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.avi", "mjpeg")
    jpegs = re.compile(rb"\xff\xd8\xff.*?\xff\xd9", re.DOTALL)
    path.write_bytes(jpegs.sub(lambda found: bytes(len(found[0])), path.read_bytes()))
    with (
        closing(VideoSource(path)) as source,
        pytest.raises(SourceError, match="none of its 50 pictures can be decoded"),
    ):
        rest(source)


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
    monkeypatch.setattr("robot_edge.sources.frames.MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(SourceError, match="64 x 64 pixels, limit 4,095"):
        VideoSource(film)
