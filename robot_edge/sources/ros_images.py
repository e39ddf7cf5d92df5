"""Pictures and labels in ROS messages, as RGB arrays and class names. Any library's message objects will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.codec import check_class_name
from robot_edge.frames import check_size
from robot_edge.sources.encoded import decode

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING, DETECTIONS = "std_msgs/msg/String", "vision_msgs/msg/Detection2DArray"

# sensor_msgs/image_encodings.hpp: bytes a pixel, and which of them are red, green and blue.
_PACKED = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "8UC3": (3, (2, 1, 0)),  # OpenCV's own, which is BGR
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "8UC4": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
}
# Two bytes a pixel: luma with a colour difference that two pixels share. Where u, v and the first luma stand.
_YUV = {"yuv422": (0, 2, 1), "uyvy": (0, 2, 1), "yuv422_yuy2": (1, 3, 0), "yuyv": (1, 3, 0)}
ENCODINGS = (*_PACKED, "mono16", *_YUV)


class UnknownEncoding(ValueError):
    """A picture's encoding is none of ENCODINGS."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Part of a picture: its centre and size in pixels."""

    x: float
    y: float
    width: float
    height: float


def decode_image(message: Any) -> NDArray[np.uint8]:
    """Return the picture of a sensor_msgs Image, (height, width, 3).

    Raises UnknownEncoding, and ValueError where its sizes do not fit its data.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = str(message.encoding)
    check_size(width, height)
    pixel = _PACKED[encoding][0] if encoding in _PACKED else 2
    if encoding not in ENCODINGS:
        raise UnknownEncoding(f"encoding {encoding[:40]!r}: use one of {', '.join(ENCODINGS)}")
    data = np.frombuffer(message.data, np.uint8)
    if step < width * pixel or data.size < step * height:
        raise ValueError(f"{width} x {height} pixels as {encoding} with {step:,} bytes a line, in {data.size:,} bytes")
    lines = data[: step * height].reshape(height, step)[:, : width * pixel].reshape(height, width, pixel)
    if encoding in _PACKED:
        return np.ascontiguousarray(lines[:, :, list(_PACKED[encoding][1])])
    if encoding == "mono16":
        high = lines[:, :, 0 if message.is_bigendian else 1]
        return np.repeat(high[:, :, None], 3, axis=2)
    return _from_yuv(lines, *_YUV[encoding])


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """Return the picture of a sensor_msgs CompressedImage, (height, width, 3). Raises one of encoded.UNREADABLE."""
    return decode(bytes(message.data))


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
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    if stamp is None:
        return 0
    seconds, nanoseconds = (stamp.sec, stamp.nanosec) if hasattr(stamp, "sec") else (stamp.secs, stamp.nsecs)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _from_yuv(lines: NDArray[np.uint8], u_at: int, v_at: int, luma_at: int) -> NDArray[np.uint8]:
    """Convert 4:2:2, (height, width, 2), by ITU-R BT.601 with the luma from 16 to 235."""
    height, width, _ = lines.shape
    if width % 2:
        raise ValueError(f"yuv with an odd width of {width} pixels")
    pairs = lines.reshape(height, width // 2, 4).astype(np.float32)
    luma = pairs[:, :, luma_at::2].reshape(height, width) - 16
    u, v = (np.repeat(pairs[:, :, at] - 128, 2, axis=1) for at in (u_at, v_at))
    rgb = np.stack([1.164 * luma + 1.596 * v, 1.164 * luma - 0.392 * u - 0.813 * v, 1.164 * luma + 2.017 * u], axis=2)
    return rgb.round().clip(0, 255).astype(np.uint8)
