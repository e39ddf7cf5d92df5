from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.Log_pb2 import Log
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.timestamp_pb2 import Timestamp
from mcap.writer import Writer as JsonWriter
from mcap_protobuf.writer import Writer
from rosbags.typesys import get_types_from_msg

from broker.errors import SourceError
from robot_edge.sources.about import look_at, sources_at, told
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.ros_images import VIDEO
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.sources.test_bag import Bag

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
STEP = SECOND // 2


def grey(number: int) -> Pixels:
    """A picture of 32 x 16 pixels, of a grey of its own."""
    return np.full((16, 32, 3), 20 * number, np.uint8)


def stamp(number: int) -> Timestamp:
    return Timestamp(seconds=(START + number * STEP) // SECOND, nanos=(START + number * STEP) % SECOND)


def encoded(codec: str, count: int, every: int = 5) -> Iterator[bytes]:
    """A film as foxglove wants it: an access unit for each picture, no B-frames, parameters at each key frame."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 32, 16, "yuv420p"
    context.time_base = Fraction(1, 2)
    parameters = f"keyint={every}:min-keyint={every}:scenecut=0:bframes=0:repeat-headers=1:annexb=1"
    context.options = {"tune": "zerolatency", "preset": "ultrafast", codec.replace("lib", "") + "-params": parameters}
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
        frame.pts = number
        yield b"".join(bytes(packet) for packet in context.encode(frame))


def write(path: Path, messages: Sequence[tuple[str, Any]], labels: dict[int, str]) -> Path:
    """Write a message for each picture, by Foxglove's own schemas, and Logs as labels from a picture on."""
    with path.open("wb") as file, Writer(file) as writer:
        for number, (topic, message) in enumerate(messages):
            time = START + number * STEP
            if number in labels:
                writer.write_message("/label", Log(message=labels[number]), log_time=time, publish_time=time)
            writer.write_message(topic, message, log_time=time, publish_time=time)
    return path


def film(path: Path, codec: str = "libx264", name: str = "h264", count: int = 10) -> Path:
    units = enumerate(encoded(codec, count))
    messages = [("/film", CompressedVideo(timestamp=stamp(n), data=data, format=name)) for n, data in units]
    return write(path, messages, {2: "cup", 6: "fork"})


def frames(path: Path, *, seek: int = 0, **options: Any) -> list[Frame]:
    with closing(open_source(f"bag:{path}", SourceOptions(**options))) as source:
        source.seek(seek)
        return list(iter(source.next, None))


def greys(shown: list[Frame]) -> list[int]:
    return [round(float(frame.image.mean()) / 20) for frame in shown]


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "h265")])
def test_each_message_of_a_film_is_a_frame_at_its_time(tmp_path: Path, codec: str, name: str) -> None:
    shown = frames(film(tmp_path / "a.mcap", codec, name))
    assert greys(shown) == list(range(10))
    assert [frame.label for frame in shown] == [None] * 2 + ["cup"] * 4 + ["fork"] * 4
    assert [frame.time for frame in shown] == [START / SECOND + 0.5 * number for number in range(10)]
    assert {frame.image.shape for frame in shown} == {(16, 32, 3)}


def test_a_replay_goes_on_in_the_middle_of_a_film(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mcap")
    whole, later = frames(path), frames(path, seek=7)
    for frame, same in zip(later, whole[7:], strict=True):
        np.testing.assert_array_equal(frame.image, same.image)


def test_a_film_that_begins_between_key_frames_and_damaged_messages_are_counted(tmp_path: Path) -> None:
    units = list(encoded("libx264", 10))
    units[6] = b"no picture"
    messages = [
        ("/film", CompressedVideo(timestamp=stamp(n), data=data, format="h264")) for n, data in enumerate(units)
    ]
    path = write(tmp_path / "a.mcap", messages[2:], {0: "cup"})
    with closing(open_source(f"bag:{path}")) as source:
        shown = greys(list(iter(source.next, None)))
        assert shown[0] == 5
        assert source.skipped == 8 - len(shown) >= 4


def test_pictures_raw_and_compressed_are_read(tmp_path: Path) -> None:
    jpegs = [
        CompressedImage(timestamp=stamp(n), data=encode_jpeg(grey(n), 95, dense=True), format="jpeg") for n in range(4)
    ]
    raw = [
        RawImage(timestamp=stamp(n), width=32, height=16, encoding="bgr8", step=96, data=grey(n).tobytes())
        for n in range(4)
    ]
    path = write(tmp_path / "a.mcap", [*(("/jpeg", one) for one in jpegs), *(("/raw", one) for one in raw)], {0: "cup"})
    for topic in ("/jpeg", "/raw"):
        shown = frames(path, image_topic=topic)
        assert greys(shown) == [0, 1, 2, 3]
        assert {frame.label for frame in shown} == {"cup"}
    with pytest.raises(SourceError, match=r"2 topics of type .*: set --image-topic; its topics: /jpeg"):
        frames(path)
    (source,) = sources_at(str(path))
    text = "\n".join(told(look_at(source, SourceOptions())))
    for line in ("4 frames", "32 x 16", "/jpeg, /raw; /jpeg is looked at", "cup: 4"):
        assert line in text


def test_messages_in_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = JsonWriter(file)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "jsonschema", b"{}")
        pictures = writer.register_channel("/camera", "json", schema)
        labels = writer.register_channel("/label", "json", 0)
        for number in range(4):
            time = START + number * STEP
            data = base64.b64encode(encode_jpeg(grey(number), 95, dense=True)).decode()
            at = {"sec": time // SECOND, "nsec": time % SECOND}
            picture = {"timestamp": at, "frame_id": "", "format": "jpeg", "data": data if number != 1 else "no base64"}
            for channel, message in ((labels, {"label": "cup"}), (pictures, picture)):
                writer.add_message(channel, time, json.dumps(message).encode(), time)
        writer.finish()  # type: ignore[no-untyped-call, unused-ignore]
    with closing(open_source(f"bag:{path}")) as source:
        shown = list(iter(source.next, None))
        assert source.skipped == 1
    assert greys(shown) == [0, 2, 3]
    assert {frame.label for frame in shown} == {"cup"}
    assert [frame.time for frame in shown] == [START / SECOND + at for at in (0, 1, 1.5)]


def test_an_unknown_codec_lists_those_that_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", [("/film", CompressedVideo(data=b"x", format="vvc"))], {})
    with pytest.raises(SourceError, match=r"topic /film: format 'vvc': a video is one of h264, h265"):
        frames(path)


def test_a_recording_that_was_not_ended_says_how_to_mend_it(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mcap")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SourceError, match=r"it was cut off, or its recording was not ended; mend it: mcap recover"):
        frames(path)


@pytest.mark.parametrize("kind", ["sqlite3", "mcap"])
def test_a_film_in_a_ros_bag_is_read_too(tmp_path: Path, kind: str) -> None:
    layout = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
    with Bag(tmp_path, kind) as bag:
        bag.types.register(get_types_from_msg(layout, VIDEO))
        bag.string("cup", 0)
        for number, data in enumerate(encoded("libx264", 5)):
            at = bag.make("builtin_interfaces/msg/Time", sec=7, nanosec=number)
            pixels = np.frombuffer(data, np.uint8)
            bag.write("/film", VIDEO, number, timestamp=at, frame_id="", data=pixels, format="h264")
    shown = frames(bag.path)
    assert greys(shown) == [0, 1, 2, 3, 4]
    assert {(frame.label, frame.scene) for frame in shown} == {("cup", 7)}
