"""Files of bags: how they are opened, and what to do about one that cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import SourceError
from robot_edge.sources.foxglove import FoxgloveReader
from robot_edge.sources.recordings import check_is_bag
from robot_edge.sources.ros_images import FOXGLOVE_TYPES

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

# How files of bags begin; mcap ends likewise.
MCAP_MAGIC, ROS1_MAGIC = b"\x89MCAP0\r\n", b"#ROSBAG V2.0\n"
ROS2_FILES = (".mcap", ".db3")
# Of what rosbags says about a bag: parsers quote all that they could not read.
MAX_REASON = 200

log = logging.getLogger("robot-edge")


def open_bag(path: Path) -> AnyReader | FoxgloveReader:
    """Open a bag of ROS, or an MCAP file of Foxglove. Raises SourceError."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise SourceError("bag: needs rosbags: pip install 'reflexarc[bag]'") from None
    check_is_bag(path)
    try:
        # Old ROS 2 bags do not say what their types look like; those of Humble have not changed since Foxy.
        types = get_typestore(Stores.ROS2_HUMBLE)
        reader = AnyReader([path], default_typestore=types)
        reader.open()
        known = reader.typestore.fielddefs
        if any(one.msgtype in types.fielddefs and one.msgtype not in known for one in reader.connections):
            # And one may say it of some of its types only.
            reader.typestore.register({name: kind for name, kind in types.fielddefs.items() if name not in known})
    except Exception as error:
        if foxglove := _open_foxglove(path):
            return foxglove
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
        raise SourceError(f"bag {path} cannot be read: {reason}; {_advice(path)}") from error
    return reader


def _open_foxglove(path: Path) -> FoxgloveReader | None:
    """Open an MCAP file whose pictures are Foxglove's; None for others, and damaged ones. Raises SourceError."""
    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))[:1]
    if not files or not _is_whole_mcap(files[0]):
        return None
    try:
        reader = FoxgloveReader(files[0])
    except SourceError:
        raise
    except Exception as error:  # of mcap, or protobuf
        log.debug("bag %s: %s: %s", path, type(error).__name__, error)
        return None
    if any(one.msgtype in FOXGLOVE_TYPES.values() for one in reader.connections):
        return reader
    reader.close()
    return None


def _advice(path: Path) -> str:
    """Say what to do about a bag that cannot be opened."""
    if path.is_dir():
        files = sorted(one.name for one in path.iterdir() if one.suffix in ROS2_FILES)
        if files and not (path / "metadata.yaml").exists():
            return f"its recording was not ended: name a file in it, as {path / files[0]}, or mend it: ros2 bag reindex"
    elif path.stat().st_size > len(MCAP_MAGIC):
        head, end = _head_and_end(path)
        if head.startswith(MCAP_MAGIC) and end != MCAP_MAGIC:
            return f"it was cut off, or its recording was not ended; mend it: mcap recover {path} -o mended.mcap"
        if head == ROS1_MAGIC:
            return f"it was cut off, or its recording was not ended; mend it: rosbag reindex {path}"
        if head.startswith(MCAP_MAGIC):
            return "its messages are neither of ROS nor of Foxglove"
    return "expected a .bag, .mcap or .db3 file or the folder of a ROS 2 bag, whose recording was ended"


def _head_and_end(path: Path) -> tuple[bytes, bytes]:
    """Return the first and the last bytes of a file, which say what it is, and whether it is whole."""
    with path.open("rb") as file:
        head = file.read(len(ROS1_MAGIC))
        file.seek(max(0, path.stat().st_size - len(MCAP_MAGIC)))
        return head, file.read()


def _is_whole_mcap(path: Path) -> bool:
    head, end = _head_and_end(path)
    return head.startswith(MCAP_MAGIC) and end == MCAP_MAGIC
