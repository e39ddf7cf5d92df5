from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from broker.errors import SourceError
from robot_edge.sources.bag import BagSource
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.ros_images import UnknownEncoding, decode_compressed, decode_image
from robot_edge.sources.settings import SourceOptions

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
KINDS = ["ros1", "sqlite3", "mcap"]

# As vision_msgs has them since ROS 2 Galactic.
VISION = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}


class Bag:
    """A real bag, written by rosbags."""

    def __init__(self, path: Path, kind: str, compression: str = "") -> None:
        self.is1 = kind == "ros1"
        self.types = get_typestore(Stores.ROS1_NOETIC if self.is1 else Stores.ROS2_HUMBLE)
        for name, text in VISION.items():
            self.types.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
        self.path = path / ("bag.bag" if self.is1 else "bag")
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        self._writer: Any = Writer1(self.path) if self.is1 else Writer2(self.path, version=8, storage_plugin=plugin)
        if compression:
            writer: Any = self._writer
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> Bag:
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def make(self, kind: str, **fields: Any) -> Any:
        return self.types.types[kind](**fields)

    def header(self, at: float) -> Any:
        time = self.make("builtin_interfaces/msg/Time", sec=int(START / SECOND + at), nanosec=int(at % 1 * SECOND))
        return self.make("std_msgs/msg/Header", stamp=time, frame_id="", **({"seq": 0} if self.is1 else {}))

    def declare(self, topic: str, kind: str) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self.types)

    def write(self, topic: str, kind: str, at: float, **fields: Any) -> None:
        self.declare(topic, kind)
        serialize = self.types.serialize_ros1 if self.is1 else self.types.serialize_cdr
        data = serialize(self.make(kind, **fields), kind)
        self._writer.write(self._connections[topic], START + int(at * SECOND), data)

    def image(
        self,
        number: int,
        at: float,
        topic: str = "/camera/image_raw",
        encoding: str = "rgb8",
        stamp: float | None = None,
    ) -> None:
        """Write a picture of 16 x 12 whose red says its number."""
        picture = np.zeros((12, 16, 3), np.uint8)
        picture[:, :, "rgb".index("r") if encoding == "rgb8" else 2] = number
        about = {"height": 12, "width": 16, "encoding": encoding, "is_bigendian": 0, "step": 48}
        header = self.header(at if stamp is None else stamp)
        self.write(topic, "sensor_msgs/msg/Image", at, header=header, data=picture.reshape(-1), **about)

    def compressed(self, number: int, at: float, content: bytes | None = None, kind: str = "png") -> None:
        if content is None:
            file = io.BytesIO()
            Image.new("RGB", (16, 12), (number, 0, 0)).save(file, "PNG")
            content = file.getvalue()
        data = np.frombuffer(content, np.uint8)
        self.write(
            "/camera/image/compressed",
            "sensor_msgs/msg/CompressedImage",
            at,
            header=self.header(at),
            format=kind,
            data=data,
        )

    def string(self, text: str, at: float, topic: str = "/label") -> None:
        self.write(topic, "std_msgs/msg/String", at, data=text)

    def detections(self, at: float, *found: tuple[str, float, tuple[float, float, float, float]]) -> None:
        """Write (class, score, (x, y, width, height)), stamped `at` and recorded half a second later."""
        detections = []
        for name, score, (x, y, width, height) in found:
            centre = self.make("vision_msgs/msg/Point2D", x=x, y=y)
            pose2d = self.make("vision_msgs/msg/Pose2D", position=centre, theta=0.0)
            box = self.make("vision_msgs/msg/BoundingBox2D", center=pose2d, size_x=width, size_y=height)
            point = self.make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
            turn = self.make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
            pose = self.make("geometry_msgs/msg/Pose", position=point, orientation=turn)
            pose = self.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))
            hypothesis = self.make("vision_msgs/msg/ObjectHypothesis", class_id=name, score=score)
            result = self.make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose)
            about = {"header": self.header(at), "results": [result], "bbox": box, "id": ""}
            detections.append(self.make("vision_msgs/msg/Detection2D", **about))
        kind = "vision_msgs/msg/Detection2DArray"
        self.write("/detections", kind, at + 0.5, header=self.header(at), detections=detections)


def rest(source: BagSource) -> list[Frame]:
    return list(iter(source.next, None))


def red(frames: Sequence[Frame]) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_replayed_with_the_label_of_the_nearest_earlier_time(tmp_path: Path, kind: str) -> None:
    with Bag(tmp_path, kind) as bag:
        bag.image(0, 0.0)
        bag.string("cup", 0.4)
        for number in range(1, 5):
            bag.image(number, number / 2)
        bag.string(" ", 2.2)
        bag.image(5, 2.5)
        bag.string("pen", 3.0)
        bag.image(6, 3.0)
    with closing(open_source(f"bag:{bag.path}", image_size=32)) as source:
        assert source.length == 7
        frames = list(iter(source.next, None))
        assert source.ended
    assert red(frames) == list(range(7))
    assert [frame.label for frame in frames] == [None, "cup", "cup", "cup", "cup", None, "pen"]
    assert [frame.time - START / SECOND for frame in frames] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert [frame.scene - START // SECOND for frame in frames] == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_pictures_are_read_and_broken_ones_skipped(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Bag(tmp_path, kind) as bag:
        bag.compressed(1, 0)
        bag.compressed(0, 1, b"no picture")
        bag.compressed(0, 2, b"")
        bag.compressed(4, 3)
    with closing(BagSource(bag.path)) as source:
        assert red(rest(source)) == [1, 4]
        assert (source.skipped, source.position) == (2, 4)
    assert "skipping a picture" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_detections_crop_the_picture_of_their_stamp_and_the_second_after(tmp_path: Path, kind: str) -> None:
    with Bag(tmp_path, kind) as bag:
        bag.image(0, 0.5)
        bag.detections(1.0, ("pen", 0.2, (1, 1, 2, 2)), ("cup", 0.9, (8, 6, 6, 4)))
        bag.image(1, 1.0)
        bag.image(2, 1.9)
        bag.image(3, 2.5)
        bag.detections(3.0)
        bag.image(4, 3.0)
        bag.detections(4.0, ("edge", 0.5, (15, 11, 10, 10)))
        bag.image(5, 4.0)
        bag.detections(5.0, ("outside", 0.5, (100, 100, 10, 10)))
        bag.image(6, 5.0)
        bag.detections(6.0, ("nowhere", 0.5, (float("nan"), 1, 1, 1)))
        bag.image(7, 6.0)
    with closing(BagSource(bag.path, label_topic="/detections")) as source:
        frames = rest(source)
        assert source.skipped == 2
    shapes = [frame.image.shape[:2] for frame in frames]
    assert [frame.label for frame in frames] == [None, "cup", "cup", None, None, "edge"]
    assert shapes == [(12, 16), (4, 6), (4, 6), (12, 16), (12, 16), (6, 6)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0, 1, 5, 9, 10, 11])
def test_it_goes_on_at_any_picture(tmp_path: Path, kind: str, position: int) -> None:
    with Bag(tmp_path, kind) as bag:
        for number in range(10):
            bag.image(number, number / 10)
    with closing(BagSource(bag.path)) as source:
        source.seek(position)
        assert source.position == min(position, 10)
        assert red(rest(source)) == list(range(position, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_without_pictures_lists_what_it_has(tmp_path: Path, kind: str) -> None:
    with Bag(tmp_path, kind) as bag:
        bag.string("cup", 0, "/names")
    with pytest.raises(SourceError, match=r"no topics of type .* its topics: /names \(std_msgs/msg/String\)"):
        BagSource(bag.path)


def test_a_choice_of_topics_must_be_made(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        bag.image(1, 0, "/left")
        bag.image(2, 0, "/right")
        bag.string("cup", 0, "/names")
    with pytest.raises(SourceError, match=r"2 topics of type .*set --image-topic; its topics: /left"):
        BagSource(bag.path)
    with pytest.raises(SourceError, match="no topic /names of type sensor_msgs/msg/Image"):
        BagSource(bag.path, image_topic="/names")
    with pytest.raises(SourceError, match="no topic /left of type std_msgs/msg/String"):
        BagSource(bag.path, "/left", "/left")
    options = SourceOptions(image_topic="/right", label_topic="/names")
    with closing(open_source(f"bag:{bag.path}", options, image_size=32)) as source:
        frame = source.next()
        assert frame is not None
        assert (frame.label, red([frame])) == ("cup", [2])


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "a\x07b", '{"class": "cup", "confidence": 0.93, "id": 17, "source": "annotator"}']
)
def test_labels_that_are_no_names_are_counted_and_a_bag_of_them_alone_knows_it(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Bag(tmp_path, "mcap") as bag:
        bag.image(1, 0)
        bag.string(name, 0)
    with closing(BagSource(bag.path)) as source:
        assert "none of the 1 messages on /label is a label: class name" in source.unlabelled
        assert len(source.unlabelled) < 700
        assert [frame.label for frame in rest(source)] == [None]
    assert "1 of 1 messages on /label are no labels" in caplog.text
    with pytest.raises(SourceError, match="nothing says what bag"):
        open_source(f"bag:{bag.path}", image_size=32, needs_labels=True)


def test_one_bad_label_among_good_ones_costs_its_own_pictures_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Bag(tmp_path, "mcap") as bag:
        for number, name in enumerate(["cup", "x" * 70, "pen"]):
            bag.string(name, number)
            bag.image(number, number + 0.5)
    with closing(open_source(f"bag:{bag.path}", image_size=32, needs_labels=True)) as source:
        assert [frame.label for frame in iter(source.next, None)] == ["cup", None, "pen"]
    assert "1 of 3 messages on /label are no labels" in caplog.text


def write_other_label(bag: Bag) -> None:
    bag.write("/label", "std_msgs/msg/Int32", 0, data=1)


# What is wrong with each bag's labels, and what is said of it.
UNLABELLED: dict[str, tuple[Callable[[Bag], None], str, str]] = {
    "none": (
        lambda bag: bag.string("cup", 0, "/what"),
        "",
        "no topic /label of type .*: name another with --label-topic; its",
    ),
    "another type": (
        write_other_label,
        "",
        "topic /label is std_msgs/msg/Int32, and labels are std_msgs/msg/String or",
    ),
    "empty": (lambda bag: bag.string(" ", 0), "", "none of the 1 messages on /label is a label: all are empty"),
    "late": (lambda bag: bag.string("cup", 9), "", "all labels on /label come behind the last picture"),
    "another clock": (
        lambda bag: bag.detections(-START / SECOND + 5, ("cup", 0.9, (8, 6, 6, 4))),
        "/detections",
        r"stamps on /detections are from 5.0 to 5.0 s, and those of pictures from some 1700000000.0",
    ),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_a_bag_that_labels_nothing_says_so_at_once(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    label, topic, reason = UNLABELLED[case]
    with Bag(tmp_path, "sqlite3") as bag:
        bag.image(1, 0)
        label(bag)
        bag.image(2, 1)
    options = SourceOptions(label_topic=topic)
    with pytest.raises(SourceError, match=reason):
        open_source(f"bag:{bag.path}", options, image_size=32, needs_labels=True)
    with closing(open_source(f"bag:{bag.path}", options, image_size=32)) as source:  # as to record it
        assert [frame.label for frame in iter(source.next, None)] == [None, None]
    assert "nothing says what bag" in caplog.text


def test_nobody_looks_at_labels_of_a_bag_that_plays_the_camera(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        write_other_label(bag)
        bag.image(1, 0)
    with closing(
        open_source(f"bag:{bag.path}", SourceOptions(label_topic="/label"), image_size=32, live=True)
    ) as source:
        assert source.next() is not None
    with pytest.raises(SourceError, match="no topic /label of type std_msgs/msg/String"):
        open_source(f"bag:{bag.path}", SourceOptions(label_topic="/label"), image_size=32)


def test_scenes_are_those_of_our_own_recordings_only(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        bag.write("/scene", "std_msgs/msg/Int64", 0, data=7)
        bag.image(1, 0)
        bag.image(2, 1)
    with closing(BagSource(bag.path)) as source:
        assert [frame.scene - START // SECOND for frame in rest(source)] == [0, 1]


def test_an_encoding_that_is_not_known_is_said(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        bag.image(1, 0, encoding="bayer_xyzw8")
    with pytest.raises(SourceError, match="topic /camera/image_raw: encoding 'bayer_xyzw8': use one of rgb8"):
        BagSource(bag.path)


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("h264", b"\0\0\0\1\x67", "topic /camera/image/compressed: format 'h264': use JPEG"),
        ("16UC1; compressedDepth png", bytes(12), "is depth: record the topic without /compressedDepth"),
        ("jpeg", b"no picture", "none of its 2 pictures can be read: no picture, or a damaged one"),
        ("", b"no picture", "none of its 2 pictures can be read: no picture, or a damaged one"),
        ("jpeg", b"", "none of its 2 pictures can be read: an empty file"),
    ],
)
def test_a_bag_of_which_no_picture_can_be_read_is_no_success(
    tmp_path: Path, kind: str, content: bytes, reason: str
) -> None:
    with Bag(tmp_path, "mcap") as bag:
        for number in range(2):
            bag.compressed(0, number, content, kind)
    with pytest.raises(SourceError, match=reason), closing(BagSource(bag.path)) as source:
        rest(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_compressed_formats(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 0, 0)).save(file, kind)
    with Bag(tmp_path, "mcap") as bag:
        bag.compressed(0, 0, file.getvalue(), f"bgr8; {kind.lower()} compressed bgr8")
    with closing(BagSource(bag.path)) as source:
        assert abs(red(rest(source))[0] - 200) < 5


def test_the_contrast_of_16_bits_is_kept_in_a_compressed_picture() -> None:
    grey = np.linspace(100, 4000, 64).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16)).save(file, "PNG")
    message = SimpleNamespace(format="16UC1; png compressed", data=np.frombuffer(file.getvalue(), np.uint8))
    shown = decode_compressed(message)
    assert shown.shape == (8, 8, 3)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.abs(shown[:, :, 0] - np.linspace(0, 255, 64).reshape(8, 8)).max() < 2


def test_a_topic_without_pictures_is_said(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        bag.string("cup", 0)
        bag.declare("/camera/image_raw", "sensor_msgs/msg/Image")
    with pytest.raises(SourceError, match="has no picture on /camera/image_raw"):
        BagSource(bag.path)


@pytest.mark.parametrize("kind", KINDS)
def test_stamps_at_zero_are_replaced_by_when_it_was_recorded(tmp_path: Path, kind: str) -> None:
    with Bag(tmp_path, kind) as bag:
        bag.string("cup", 0)
        bag.image(1, 0.5, stamp=-START / SECOND)
    with closing(BagSource(bag.path)) as source:
        frame = source.next()
    assert frame is not None
    assert (frame.label, frame.time - START / SECOND) == ("cup", 0.5)


@pytest.mark.parametrize("mode", ["file", "message", "storage"])
def test_compressed_bags_are_read(tmp_path: Path, mode: str) -> None:
    with Bag(tmp_path, "mcap" if mode == "storage" else "sqlite3", compression=mode) as bag:
        bag.string("cup", 0)
        bag.image(1, 0)
        bag.image(2, 1)
    with closing(BagSource(bag.path)) as source:
        assert source.classes == {"cup"}
        assert [frame.label for frame in rest(source)] == ["cup", "cup"]


def test_what_is_no_bag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "empty"]
    for suffix in ("bag", "mcap", "db3", "txt"):
        for number, content in enumerate(
            [b"", b"garbage" * 1000, b"\x89MCAP0\r\n" + bytes(300), b"#ROSBAG V2.0\n" * 9]
        ):
            paths.append(tmp_path / f"{number}.{suffix}")
            paths[-1].write_bytes(content)
    for path in paths:
        with pytest.raises(SourceError, match=r"cannot be read|no topics"):
            BagSource(path)
    with pytest.raises(SourceError, match="does not exist"):
        BagSource(tmp_path / "none")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_bag_is_shown_as_far_as_it_goes_or_refused(tmp_path: Path, kind: str) -> None:
    with Bag(tmp_path, kind) as bag:
        for number in range(200):
            bag.image(number, number / 10)
    file = bag.path if bag.is1 else next(path for path in bag.path.iterdir() if path.suffix in {".mcap", ".db3"})
    content = file.read_bytes()
    for share in (0.3, 0.6, 0.95):
        file.write_bytes(content[: int(len(content) * share)])
        try:
            with closing(BagSource(bag.path)) as source:
                shown = red(rest(source))
                assert shown == list(range(len(shown)))
                assert source.ended
        except SourceError as error:
            assert "cannot be read" in str(error) or "topics" in str(error)  # noqa: PT017


def write_whole(path: Path, kind: str) -> Path:
    """Write a bag, and return its one file."""
    with Bag(path, kind) as bag:
        for number in range(20):
            bag.image(number, number / 10)
    return bag.path if bag.is1 else next(one for one in bag.path.iterdir() if one.suffix != ".yaml")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("mcap", "mend it: mcap recover"), ("ros1", "mend it: rosbag reindex"), ("sqlite3", "expected a .bag, .mcap or")],
)
def test_what_mends_a_bag_whose_recording_was_not_ended_is_said(tmp_path: Path, kind: str, advice: str) -> None:
    file = write_whole(tmp_path, kind)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(SourceError, match=advice):
        BagSource(file)


def test_a_folder_without_its_list_is_said(tmp_path: Path) -> None:
    file = write_whole(tmp_path, "mcap")
    (file.parent / "metadata.yaml").unlink()
    with pytest.raises(SourceError, match=r"name a file in it, as .*bag\.mcap, or mend it: ros2 bag reindex"):
        BagSource(file.parent)
    with closing(BagSource(file)) as source:
        assert len(rest(source)) == 20


@pytest.mark.parametrize(("whole", "other"), [(b"ros2msg", b"protobf"), (b"uint32 height", b"uint32(height")])
def test_messages_of_other_programs_are_said_in_a_line(tmp_path: Path, whole: bytes, other: bytes) -> None:
    file = write_whole(tmp_path, "mcap")
    file.write_bytes(file.read_bytes().replace(whole, other))
    with pytest.raises(SourceError, match="neither of ROS nor of Foxglove") as error:
        BagSource(file)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_bag_that_says_of_some_types_only_what_they_look_like_is_read(tmp_path: Path) -> None:
    with Bag(tmp_path, "sqlite3") as bag:
        bag.string("cup", 0)
        bag.image(1, 0)
    with contextlib.closing(sqlite3.connect(next(bag.path.glob("*.db3")))) as database, database:
        columns = [row[1] for row in database.execute("pragma table_info(message_definitions)")]
        if "topic_type" not in columns:
            pytest.skip("this rosbags writes no definitions")
        database.execute("delete from message_definitions where topic_type = 'sensor_msgs/msg/Image'")
    with closing(BagSource(bag.path)) as source:
        assert [frame.label for frame in rest(source)] == ["cup"]


def image(encoding: str, data: Any, width: int = 2, height: int = 1, step: int | None = None, big: int = 0) -> Any:
    pixels = np.array(data, np.uint8)
    lines = pixels.size // height if step is None else step
    about = {"encoding": encoding, "width": width, "height": height, "step": lines, "is_bigendian": big}
    return SimpleNamespace(data=pixels, **about)


@pytest.mark.parametrize(
    ("message", "pixels"),
    [
        (image("rgb8", [1, 2, 3, 4, 5, 6]), [[1, 2, 3], [4, 5, 6]]),
        (image("bgr8", [1, 2, 3, 4, 5, 6]), [[3, 2, 1], [6, 5, 4]]),
        (image("rgba8", [1, 2, 3, 9, 4, 5, 6, 9]), [[1, 2, 3], [4, 5, 6]]),
        (image("bgra8", [1, 2, 3, 9, 4, 5, 6, 9]), [[3, 2, 1], [6, 5, 4]]),
        (image("mono8", [1, 2]), [[1, 1, 1], [2, 2, 2]]),
        (image("mono8", [1, 2, 77, 78]), [[1, 1, 1], [2, 2, 2]]),  # with padding at the line's end
        (image("RGB8", [1, 2, 3, 4, 5, 6]), [[1, 2, 3], [4, 5, 6]]),
        (image("rgb8", [1, 2, 3, 4, 5, 6], step=0), [[1, 2, 3], [4, 5, 6]]),
        (image("8UC3", [1, 2, 3, 4, 5, 6]), [[3, 2, 1], [6, 5, 4]]),
        (image("8UC4", [1, 2, 3, 9, 4, 5, 6, 9]), [[3, 2, 1], [6, 5, 4]]),
        (image("8UC1", [1, 2]), [[1, 1, 1], [2, 2, 2]]),
        (image("mono16", [9, 0, 9, 200]), [[0, 0, 0], [199, 199, 199]]),
        (image("mono16", [0, 9, 200, 9], big=1), [[0, 0, 0], [199, 199, 199]]),
        (image("16UC1", [0, 1, 0, 2]), [[0, 0, 0], [255, 255, 255]]),
        (image("32FC1", np.array([0.5, 4.0], "<f4").view(np.uint8)), [[0, 0, 0], [255, 255, 255]]),
        (image("32FC1", np.array([0.5, 4.0], ">f4").view(np.uint8), big=1), [[0, 0, 0], [255, 255, 255]]),
        (image("64FC1", np.array([0.5, 4.0], "<f8").view(np.uint8)), [[0, 0, 0], [255, 255, 255]]),
        (
            image("bgr16", np.array([[0, 257, 65535], [65535, 257, 0]], "<u2").view(np.uint8)),
            [[255, 1, 0], [0, 1, 255]],
        ),
        (
            image("rgba16", np.array([[0, 257, 65535, 9], [65535, 257, 0, 9]], "<u2").view(np.uint8)),
            [[0, 1, 255], [255, 1, 0]],
        ),
        (image("bayer_rggb8", [10, 20, 30, 40], height=2), [[10, 25, 40]] * 2),
        (image("bayer_bggr8", [10, 20, 30, 40], height=2), [[40, 25, 10]] * 2),
        (image("bayer_gbrg8", [10, 20, 30, 40], height=2), [[30, 25, 20]] * 2),
        (image("bayer_grbg8", [10, 20, 30, 40], height=2), [[20, 25, 30]] * 2),
        (image("bayer_rggb8", [10, 20, 7, 30, 40, 7, 7, 7, 7], width=3, height=3), [[10, 25, 40]] * 3),
        (image("bayer_rggb16", np.array([0, 9, 9, 4095], "<u2").view(np.uint8), height=2), [[0, 1, 255]] * 2),
        (image("nv12", [81, 81, 81, 81, 90, 240], height=2, step=2), [[254, 0, 0]] * 2),
        (image("nv21", [81, 81, 81, 81, 240, 90], height=2, step=2), [[254, 0, 0]] * 2),
        (image("yuy2", [41, 240, 41, 110]), [[0, 0, 255], [0, 0, 255]]),
        (image("yuv422", [128, 16, 128, 235]), [[0, 0, 0], [255, 255, 255]]),
        (image("yuv422_yuy2", [16, 128, 235, 128]), [[0, 0, 0], [255, 255, 255]]),
        (image("uyvy", [90, 81, 240, 81]), [[254, 0, 0], [254, 0, 0]]),  # BT.601's red
        (image("yuyv", [41, 240, 41, 110]), [[0, 0, 255], [0, 0, 255]]),  # and blue
    ],
)
def test_encodings(message: Any, pixels: list[list[int]]) -> None:
    image = decode_image(message)
    assert image.dtype == np.uint8
    assert np.abs(image[0].astype(int) - pixels).max() <= 1


BROKEN: list[Callable[[], Any]] = [
    lambda: image("rgb8", [1, 2, 3]),
    lambda: image("rgb8", [], width=0),
    lambda: image("rgb8", [1] * 6, width=100_000, height=100_000),
    lambda: image("rgb8", [1] * 6, step=3),
    lambda: image("rgb8", [1] * 6, step=4_000_000_000),
    lambda: image("yuyv", [1] * 6, width=3),
    lambda: image("nv12", [1] * 9, width=3, height=2, step=3),
    lambda: image("nv12", [1] * 5, height=2, step=2),
    lambda: image("bayer_rggb8", [1, 2]),
    lambda: image("32FC1", [1] * 7, step=4),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_sizes_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="pixels"):
        decode_image(BROKEN[number]())


def test_other_encodings_are_refused() -> None:
    with pytest.raises(UnknownEncoding, match="use one of rgb8"):
        decode_image(image("16UC2", [1, 2]))
