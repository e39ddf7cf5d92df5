"""Pictures and labels in ROS messages, as RGB arrays and class names. Any library's message objects will do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.wire.bounds import check_class_name
from robot_edge.sources.deep_pixels import to_eight_bits
from robot_edge.sources.encoded import FORMATS, UNREADABLE, decode
from robot_edge.sources.frames import Pixels, check_size

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
# Foxglove's, as ROS calls them (foxglove_msgs), by the names of their schemas.
FOXGLOVE_TYPES = {name: f"foxglove_msgs/msg/{name}" for name in ("RawImage", "CompressedImage", "CompressedVideo")}
RAW_TYPES = (IMAGE, FOXGLOVE_TYPES["RawImage"])
VIDEO = FOXGLOVE_TYPES["CompressedVideo"]
PICTURE_TYPES = (*RAW_TYPES, COMPRESSED_IMAGE, FOXGLOVE_TYPES["CompressedImage"], VIDEO)
STRING, DETECTIONS = "std_msgs/msg/String", "vision_msgs/msg/Detection2DArray"

# sensor_msgs/image_encodings.hpp, in lower case: which of a pixel's channels are red, green and blue, and their number.
_CHANNELS = {
    "rgb": ((0, 1, 2), 3),
    "bgr": ((2, 1, 0), 3),
    "rgba": ((0, 1, 2), 4),
    "bgra": ((2, 1, 0), 4),
    "mono": ((0, 0, 0), 1),
}
_COLOUR = re.compile(r"(rgb|bgr|rgba|bgra|mono)(8|16)")
# OpenCV's own, which is BGR: as depth in 16UC1 (millimetres) and 32FC1 (metres).
_OPENCV = re.compile(r"(8u|8s|16u|16s|32s|32f|64f)c(1|3|4)")
_OPENCV_CHANNELS = {"1": "mono", "3": "bgr", "4": "bgra"}
_BAYER = re.compile(r"bayer_(rggb|bggr|gbrg|grbg)(8|16)")
_TYPES = {
    "8": "u1",
    "16": "u2",
    "8u": "u1",
    "8s": "i1",
    "16u": "u2",
    "16s": "i2",
    "32s": "i4",
    "32f": "f4",
    "64f": "f8",
}
# Two bytes a pixel: luma with a colour difference that two pixels share. Where u, v and the first luma stand.
_YUV = {"yuv422": (0, 2, 1), "uyvy": (0, 2, 1)}
_YUV |= dict.fromkeys(("yuv422_yuy2", "yuyv", "yuy2"), (1, 3, 0))
# A plane of luma, then one of colour differences that four pixels share: which of u and v comes first.
_PLANES = {"nv12": (0, 1), "nv21": (1, 0)}
ENCODINGS = (
    "rgb8, bgr8, rgba8, bgra8, mono8, the same with 16, 8UC1 to 64FC4, bayer_rggb8 and its like, yuv422, yuv422_yuy2, "
    "nv12, nv21"
)
# What the format of a CompressedImage says that holds a picture of encoded.FORMATS, as "bgr8; jpeg compressed bgr8".
_FORMAT_WORDS = re.compile(r"jpe?g|png|webp|bmp|tiff?|gif|p[bgnp]m|avif", re.IGNORECASE)


class UnknownEncoding(ValueError):
    """A picture's encoding is none of ENCODINGS, or its format none of FORMATS: so are all others of its topic."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Part of a picture: its centre and size in pixels."""

    x: float
    y: float
    width: float
    height: float


def decode_image(message: Any) -> Pixels:
    """Return the picture of a sensor_msgs Image, (height, width, 3).

    More than 8 bits are brought to 8 with their contrast kept. Raises UnknownEncoding, and ValueError where its sizes
    do not fit its data.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = str(message.encoding).strip().lower()
    check_size(width, height)
    big = bool(getattr(message, "is_bigendian", False))  # Foxglove's has no such field
    if encoding in _YUV:
        return _from_pairs(_lines(message, height, width, step, "u1", 2), *_YUV[encoding])
    if encoding in _PLANES:
        return _from_planes(message, height, width, step, _PLANES[encoding])
    if found := _BAYER.fullmatch(encoding):
        mosaic = _lines(message, height, width, step, _type(found[2], big), 1)
        return to_eight_bits(_from_mosaic(mosaic[:, :, 0], found[1]))
    if found := _OPENCV.fullmatch(encoding):
        order, channels = _CHANNELS[_OPENCV_CHANNELS[found[2]]]
    elif found := _COLOUR.fullmatch(encoding):
        order, channels = _CHANNELS[found[1]]
    else:
        raise UnknownEncoding(f"encoding {str(message.encoding)[:40]!r}: use one of {ENCODINGS}")
    kind = _type(found[1] if encoding[0].isdecimal() else found[2], big)
    pixels = _lines(message, height, width, step, kind, channels)
    return to_eight_bits(np.ascontiguousarray(pixels[:, :, list(order)]))


def decode_compressed(message: Any) -> Pixels:
    """Return the picture of a sensor_msgs CompressedImage, (height, width, 3).

    Raises UnknownEncoding where its format is none of encoded.FORMATS; one of encoded.UNREADABLE for a broken picture.
    """
    kind = str(message.format)
    if "compressedDepth" in kind:
        raise UnknownEncoding(f"format {kind[:60]!r} is depth: record the topic without /compressedDepth")
    try:
        return decode(bytes(message.data))
    except UNREADABLE:
        if not len(message.data) or not kind.strip() or _FORMAT_WORDS.search(kind):
            raise
        raise UnknownEncoding(
            f"format {kind[:60]!r}: use {', '.join(FORMATS)}; image_transport's republish makes others raw"
        ) from None


def decode_string(message: Any) -> str | None:
    """Return the class name in a std_msgs String, None for an empty one. Raises MalformedMessage."""
    name = str(message.data).strip()
    if not name:
        return None
    check_class_name(name)
    return name


def best_detection(message: Any) -> tuple[str, Box] | None:
    """Return class and box of the surest detection of a vision_msgs Detection2DArray, None where there is none.

    Both layouts are read: hypothesis.class_id and center.position since ROS 2 Galactic, id and center before.
    Raises MalformedMessage.
    """
    scored = []
    for detection in message.detections:
        for result in detection.results:
            hypothesis = getattr(result, "hypothesis", result)
            name = getattr(hypothesis, "class_id", None)
            scored.append((float(hypothesis.score), str(hypothesis.id if name is None else name), detection.bbox))
    if not scored:
        return None
    _, name, box = max(scored, key=lambda one: one[0])
    check_class_name(name)
    centre = getattr(box.center, "position", box.center)
    return name, Box(x=float(centre.x), y=float(centre.y), width=float(box.size_x), height=float(box.size_y))


def crop(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return what is in the box. Raises ValueError where that is nothing."""
    height, width, _ = image.shape
    edges = np.array([box.x - box.width / 2, box.x + box.width / 2, box.y - box.height / 2, box.y + box.height / 2])
    if not np.isfinite(edges).all():
        raise ValueError(f"{box} is no part of a picture")
    left, right, top, bottom = np.clip(np.rint(edges), 0, [width, width, height, height]).astype(int).tolist()
    if left >= right or top >= bottom:
        raise ValueError(f"{box} lies outside of a picture of {width} x {height} pixels")
    return image[top:bottom, left:right]


def stamp_of(message: Any) -> int:
    """Return a message's stamp in nanoseconds since 1970; 0 where it has none."""
    stamp = getattr(getattr(message, "header", None), "stamp", None) or getattr(message, "timestamp", None)
    if stamp is None:
        return 0
    seconds, nanoseconds = (stamp.sec, stamp.nanosec) if hasattr(stamp, "sec") else (stamp.secs, stamp.nsecs)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _type(bits: str, is_big: bool) -> str:
    """Return numpy's name of a channel's type."""
    return (">" if is_big else "<") + _TYPES[bits]


def _lines(message: Any, height: int, width: int, step: int, kind: str, channels: int) -> NDArray[Any]:
    """Return a message's data as (height, width, channels), without the padding at the lines' ends. Raises ValueError.

    step: bytes a line; 0, which some drivers write, for no padding.
    """
    data = np.frombuffer(message.data, np.uint8)
    used = width * channels * np.dtype(kind).itemsize
    step = step or used
    if step < used or data.size < step * height:
        what = f"{width} x {height} pixels as {str(message.encoding)[:40]}"
        raise ValueError(f"{what} with {step:,} bytes a line, in {data.size:,} bytes")
    lines = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :used])
    pixels = lines.view(kind).reshape(height, width, channels)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _from_pairs(lines: NDArray[np.uint8], u_at: int, v_at: int, luma_at: int) -> Pixels:
    """Convert 4:2:2, (height, width, 2)."""
    height, width, _ = lines.shape
    if width % 2:
        raise ValueError(f"yuv with an odd width of {width} pixels")
    pairs = lines.reshape(height, width // 2, 4)
    luma = pairs[:, :, luma_at::2].reshape(height, width)
    return _from_yuv(luma, *(np.repeat(pairs[:, :, at], 2, axis=1) for at in (u_at, v_at)))


def _from_planes(message: Any, height: int, width: int, step: int, order: tuple[int, int]) -> Pixels:
    """Convert 4:2:0 with a plane of luma and one of pairs of colour differences."""
    if width % 2 or height % 2:
        raise ValueError(f"{message.encoding} with an odd side of {width} x {height} pixels")
    lines = _lines(message, height + height // 2, width, step, "u1", 1)[:, :, 0]
    pairs = lines[height:].reshape(height // 2, width // 2, 2)
    colour = (pairs[:, :, at].repeat(2, axis=0).repeat(2, axis=1) for at in order)
    return _from_yuv(lines[:height], *colour)


def _from_mosaic(mosaic: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Return a Bayer mosaic, (height, width), as RGB of the same size.

    Each square of four pixels gets one colour. The network takes in far fewer pixels than a camera has, so what finer
    interpolation would add is not seen. An odd last line or column is that before it.
    """
    height, width = mosaic.shape
    if height < 2 or width < 2:
        raise ValueError(f"a mosaic of {width} x {height} pixels")
    even = mosaic[: height // 2 * 2, : width // 2 * 2]
    corners = {"r": [], "g": [], "b": []}  # type: dict[str, list[NDArray[Any]]]
    for place, colour in enumerate(pattern):
        corners[colour].append(even[place // 2 :: 2, place % 2 :: 2])
    first, second = corners["g"]
    green = first // 2 + second // 2 + (first & second & 1)  # the mean, which may not overflow
    squares = np.stack([corners["r"][0], green, corners["b"][0]], axis=2)
    image = squares.repeat(2, axis=0).repeat(2, axis=1)
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _from_yuv(luma: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> Pixels:
    """Convert by ITU-R BT.601 with the luma from 16 to 235; all three are (height, width)."""
    y, b, r = luma.astype(np.float32) - 16, u.astype(np.float32) - 128, v.astype(np.float32) - 128
    rgb = np.stack([1.164 * y + 1.596 * r, 1.164 * y - 0.392 * b - 0.813 * r, 1.164 * y + 2.017 * b], axis=2)
    return rgb.round().clip(0, 255).astype(np.uint8)
