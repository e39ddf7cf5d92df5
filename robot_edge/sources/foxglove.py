"""MCAP files of Foxglove, with messages as protobuf or JSON: read as rosbags reads the ROS ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from broker.errors import SourceError
from robot_edge.sources.ros_images import FOXGLOVE_TYPES, STRING

SCHEMAS = "foxglove."
# Fields with a name in them, of whatever message somebody publishes as a label: std_msgs/String has the first, and
# foxglove.Log the fourth.
TEXT_FIELDS = ("data", "label", "class", "message", "text", "name", "value")
PROTOBUF, JSON = "protobuf", "json"
# A picture of 64 megapixels as it is, and what is around it.
MAX_RECORD_BYTES = 300_000_000

Decoder = Callable[[bytes], Any]


class Connection(NamedTuple):
    """A channel. msgtype: as ROS calls the same message; STRING for one that has a name; else its schema's name."""

    topic: str
    msgtype: str
    msgcount: int
    decode: Decoder


class Payload(NamedTuple):
    """A message as it was recorded."""

    connection: Connection
    data: bytes


class FoxgloveReader:
    """Reads an MCAP file whose messages are protobuf or JSON, by the calls of rosbags' AnyReader that a bag needs."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises SourceError where mcap is not installed, ValueError for a file without an index."""
        mcap = _mcap()
        self._file = path.open("rb")
        try:
            self._reader = mcap.SeekingReader(self._file, record_size_limit=MAX_RECORD_BYTES)
            summary = self._reader.get_summary()
            if summary is None or summary.statistics is None:
                raise ValueError("it has no index")
            counts = summary.statistics.channel_message_counts
            self.start_time, self.end_time = summary.statistics.message_start_time, summary.statistics.message_end_time
            self._by_channel = {
                number: _connection(channel, summary.schemas.get(channel.schema_id), counts.get(number, 0))
                for number, channel in summary.channels.items()
            }
        except BaseException:
            self._file.close()
            raise
        self.connections = list(self._by_channel.values())

    def messages(
        self, connections: Sequence[Connection], start: int | None = None
    ) -> Iterator[tuple[Connection, int, Payload]]:
        """Yield connection, nanoseconds of recording, and message, from a time of recording on."""
        topics = [one.topic for one in connections]
        for _, channel, message in self._reader.iter_messages(topics=topics):
            if start is not None and message.log_time < start:
                continue
            connection = self._by_channel[channel.id]
            yield connection, message.log_time, Payload(connection, message.data)

    def deserialize(self, payload: Any, _msgtype: str) -> Any:
        """Return the message of a Payload, with the attributes of the ROS one."""
        return payload.connection.decode(payload.data)

    def close(self) -> None:
        self._file.close()


def _mcap() -> Any:
    try:
        import mcap.reader
    except ImportError:
        raise SourceError("bag: MCAP files of Foxglove need mcap: pip install 'reflexarc[mcap]'") from None
    return mcap.reader


def _connection(channel: Any, schema: Any, count: int) -> Connection:
    """Return a channel with what decodes it. One that cannot be decoded is listed by its schema."""
    name = schema.name if schema else ""
    if channel.message_encoding == PROTOBUF and schema:
        read = _protobuf(schema)
        fields = [field.name for field in read(b"").DESCRIPTOR.fields if field.type == field.TYPE_STRING]
    elif channel.message_encoding == JSON:
        read, fields = json.loads, list(TEXT_FIELDS)
    else:
        return Connection(channel.topic, f"{name or 'unknown'} in {channel.message_encoding}", count, _undecoded)
    if name.startswith(SCHEMAS) and (kind := FOXGLOVE_TYPES.get(name.removeprefix(SCHEMAS))):
        return Connection(channel.topic, kind, count, lambda data: _as_ros(read(data)))
    texts = [field for field in TEXT_FIELDS if field in fields]
    kind = STRING if texts else name or "unknown"
    return Connection(channel.topic, kind, count, lambda data: _as_text(read(data), texts))


def _undecoded(_data: bytes) -> Any:
    raise ValueError("its messages are neither protobuf nor JSON")


def _protobuf(schema: Any) -> Decoder:
    try:
        from mcap_protobuf.decoder import DecoderFactory
    except ImportError:
        raise SourceError(
            "bag: messages as protobuf need mcap-protobuf-support: pip install 'reflexarc[mcap]'"
        ) from None
    decoder: Decoder | None = DecoderFactory().decoder_for(PROTOBUF, schema)
    assert decoder is not None, "it is there for this encoding"
    return decoder


def _get(message: Any, name: str) -> Any:
    """Return a field of a JSON object, or of a protobuf message."""
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)


def _as_ros(message: Any) -> Any:
    time = _get(message, "timestamp")
    seconds = _get(time, "seconds") or _get(time, "sec") or 0
    nanoseconds = _get(time, "nanos") or _get(time, "nsec") or 0
    data = _get(message, "data")
    return SimpleNamespace(
        timestamp=SimpleNamespace(sec=int(seconds), nanosec=int(nanoseconds)),
        data=base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data),
        **{name: _get(message, name) for name in ("format", "encoding", "width", "height", "step")},
    )


def _as_text(message: Any, fields: list[str]) -> Any:
    texts = [text for name in fields if isinstance(text := _get(message, name), str)]
    if not texts:
        raise ValueError(f"none of its fields {', '.join(fields)} is text")
    return SimpleNamespace(data=texts[0])
