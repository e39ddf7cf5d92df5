"""Messages of ROS 2 as DDS carries them: what rosbags knows of their fields, as types of Cyclone DDS."""

from __future__ import annotations

from functools import cache
from typing import Any

from cyclonedds.idl import make_idl_struct, types
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

# vision_msgs 4, of ROS 2 Humble and later. rosbags has no message of this package.
_VISION = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "Classification": "std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results",
}
# IDL's own names are float32, uint8 and so on, but for these.
_BASES = {"string": str, "bool": bool, "octet": types.byte}

# Those of Humble: none of what is used has changed since Foxy.
STORE = get_typestore(Stores.ROS2_HUMBLE)
for _name, _fields in _VISION.items():
    STORE.register(get_types_from_msg(_fields, f"vision_msgs/msg/{_name}"))


def pack(message: Any) -> bytes:
    """Return a message of STORE as CDR, with its header."""
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def unpack(cdr: bytes, kind: str) -> Any:
    """Return the message in CDR with its header. Raises ValueError."""
    try:
        return STORE.deserialize_cdr(cdr, kind)
    except Exception as error:  # rosbags promises no type
        raise ValueError(f"no {kind}: {error}") from error


def dds_name(kind: str) -> str:
    """Return what DDS calls a type of ROS."""
    return kind.replace("/msg/", "::msg::dds_::") + "_"


def ros_name(dds: str) -> str:
    """Return what ROS calls a type of DDS; empty where it is none of ROS."""
    package, middle, name = dds.partition("::msg::dds_::")
    return f"{package}/msg/{name[:-1]}" if middle and name.endswith("_") else ""


@cache
def dds_type(kind: str) -> Any:
    """Return the type of a topic. Its values are packed messages, as `.cdr`.

    Cyclone's own way to unpack takes 25 ms for 640 x 480 pixels, and rosbags' a tenth of one. And where one of several
    is damaged, the others are to be had.
    """

    def begin(self: Any, cdr: bytes) -> None:
        self.cdr = cdr

    struct: Any = _struct(kind)
    struct.__init__ = begin
    struct.serialize = lambda self, **_: self.cdr
    struct.deserialize = struct.deserialize_key = classmethod(lambda cls, cdr: cls(cdr))
    return struct


def _struct(kind: str) -> Any:
    _, fields = STORE.fielddefs[kind]
    name = dds_name(kind)
    return make_idl_struct(
        name.rpartition("::")[2], name, {field: _field(of) for field, of in fields}, dataclassify=False
    )


def _field(of: Any) -> Any:
    """Return the type of a field as rosbags describes it."""
    form, detail = of
    if form == Nodetype.BASE:
        name, _ = detail
        return _BASES.get(name) or getattr(types, name)
    if form == Nodetype.NAME:
        return _struct(detail)
    inner, length = detail
    if form == Nodetype.ARRAY:
        return types.array[_field(inner), length]
    return types.sequence[_field(inner), length] if length else types.sequence[_field(inner)]
