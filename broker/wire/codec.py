"""Messages to bytes and back: pack(message) -> bytes, unpack(bytes) -> message. Every bound lives here; no I/O.

What only the two ends read (activations, receipts, asks, answers) is msgpack. What people and other tools read (states,
metrics, predictions) is JSON, so that mosquitto_sub or Grafana can show it. docs/protocol.md describes every field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgpack
import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage, PayloadTooLarge
from broker.wire.messages import (
    Action,
    ActivationBatch,
    Answer,
    AnsweredBy,
    Ask,
    Change,
    ClassEdit,
    Command,
    CommandResult,
    Message,
    Outcome,
    Prediction,
    Probe,
    ProbeResult,
    Receipt,
    RobotMetrics,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
    Weights,
)
from broker.wire.quantize import MAX_BITS, MIN_BITS, Codec, PackedActivations, packed_size

# What we send at most: AWS IoT Core takes 128 KB, other brokers 1 MB and more.
SEND_LIMIT_BYTES = 128_000
# What we read at most: EMQX's default packet limit, the largest that a robot could be set to.
RECEIVE_LIMIT_BYTES = 1_048_576
# 4 Mi values are 16 MB as float32. At 4 bits that is twice what fits the receive limit, if not compressed.
MAX_VALUES = 4 * 1024 * 1024
# What a byte can stand for at most. In an lz4 block one makes a match 255 bytes longer; in deflate two bits are a match
# of 258 bytes (RFC 1951), so eight are four of them.
MOST_EXPANSION: dict[Codec, int] = {"none": 1, "lz4": 255, "zlib": 1032}
MAX_SAMPLES = 4096
# (samples, channels, and up to three more); a video backbone has four after the samples.
MAX_DIMENSIONS = 5
# Each has a range of 8 bytes, so no more of them fit into SEND_LIMIT_BYTES.
MAX_CHANNELS = 16_384
# A class name is shown on pages and in tables.
MAX_CLASS_NAME = 64
# What a trainer's store calls samples that were forgotten, so no class may be called that. Messages that hold it can be
# read all the same: the store keeps batches as they came in.
FORGOTTEN = "?"
MAX_TEXT = 400
MAX_IMAGE_SIZE = 4096
# Classes in an answer: what a person would look at, and no more bytes than a receipt with its reason.
MAX_ANSWERED_CLASSES = 5
# Nobody who waits for longer needs an answer now.
MAX_DEADLINE_SECONDS = 60.0
MAX_COUNT = 2**53  # the largest whole number that JSON readers keep exact
# A person makes a few a day. All of a run are kept, as samples made before them may still be on their way.
MAX_EDITS = 10_000
# An hour: who opens a teaching session and goes away should not have all that passes by taken for a mug.
MAX_TEACH_SECONDS = 3600
# More than any bound here needs. Python refuses to print numbers of over 4,300 digits, our errors would too.
MAX_DIGITS = 20
# Map keys, numbers, identifiers and msgpack's own marks of a batch, apart from names, labels, samples and ranges.
BATCH_OVERHEAD_BYTES = 350
# Label and number of a sample.
SAMPLE_BYTES = 2 + 4

HEXADECIMAL_16 = re.compile(r"[0-9a-f]{16}")
# Control characters but tab and newline would reach terminals through logs; lone surrogates have no UTF-8.
NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

AnyMessage = TypeVar("AnyMessage")


def pack(message: Message) -> bytes:
    """Return the bytes of a message."""
    match message:
        case ActivationBatch():
            return _msgpack({"kind": "activations", **_batch_fields(message)})
        case ClassEdit():
            return _msgpack({"kind": "class-edit", **dataclasses.asdict(message)})
        case Command():
            return _json({"kind": "command", **dataclasses.asdict(message)})
        case CommandResult():
            return _json({"kind": "command-result", **dataclasses.asdict(message)})
        case Receipt():
            return _msgpack({"kind": "receipt", **dataclasses.asdict(message)})
        case Ask():
            return _msgpack({"kind": "ask", **_ask_fields(message)})
        case Answer():
            return _msgpack({"kind": "answer", **dataclasses.asdict(message)})
        case Probe():
            return _msgpack({"kind": "probe", **dataclasses.asdict(message)})
        case ProbeResult():
            return _msgpack({"kind": "probe-result", **dataclasses.asdict(message)})
        case RobotState():
            return _json({"kind": "robot-state", **dataclasses.asdict(message)})
        case TrainerState():
            return _json({"kind": "trainer-state", **dataclasses.asdict(message)})
        case RobotMetrics():
            return _json({"kind": "robot-metrics", **dataclasses.asdict(message)})
        case TrainerMetrics():
            return _json({"kind": "trainer-metrics", **dataclasses.asdict(message)})
        case Prediction():
            return _json({"kind": "prediction", **dataclasses.asdict(message)})


def unpack(data: bytes) -> Message:
    """Return the message in these bytes. Raises MalformedMessage, and nothing else, for whatever they may be."""
    if len(data) > RECEIVE_LIMIT_BYTES:
        raise MalformedMessage(f"{len(data):,} bytes, limit {RECEIVE_LIMIT_BYTES:,}")
    # '{' opens every JSON message and is never the first byte of a msgpack map.
    fields = _Fields(_from_json(data) if data[:1] == b"{" else _from_msgpack(data))
    kind = fields.text("kind")
    if kind not in READERS:
        raise MalformedMessage(f"kind {kind[:40]!r} is none of {', '.join(READERS)}")
    return READERS[kind](fields)


def unpack_as(expected: type[AnyMessage], data: bytes) -> AnyMessage:
    """Return the message in these bytes if it is of the expected type. Raises MalformedMessage."""
    message = unpack(data)
    if not isinstance(message, expected):
        raise MalformedMessage(f"{expected.__name__} expected, got {type(message).__name__}")
    return message


def samples_per_message(split: SplitSpec, classes: int, limit: int = SEND_LIMIT_BYTES) -> int:
    """Return how many samples of a split always fit one message, even where compression does not help.

    classes: how many different names the batch may hold. Raises PayloadTooLarge where not even one sample fits.
    """
    channels, values = split.shape[0], math.prod(split.shape)
    fixed = BATCH_OVERHEAD_BYTES + 8 * channels
    name_bytes = 4 * MAX_CLASS_NAME + 5

    def size(samples: int, bits: int = split.bits) -> int:
        names = min(samples, classes) * name_bytes
        return fixed + names + SAMPLE_BYTES * samples + packed_size(samples * values, bits)

    if size(1) > limit:
        fitting = next((bits for bits in range(split.bits, 0, -1) if size(1, bits) <= limit), None)
        advice = f"at {fitting} bits it would be {size(1, fitting):,}" if fitting else "no number of bits would do"
        raise PayloadTooLarge(
            f"one sample of {split.backbone} cut at {split.cut} is {size(1):,} bytes, limit {limit:,}; {advice}; "
            f"a bottleneck of fewer than {channels} channels or a later cut makes it smaller"
        )
    # A sample takes its label, its number and its codes at least.
    most = min(MAX_SAMPLES, MAX_VALUES // values, 8 * limit // (8 * SAMPLE_BYTES + values * split.bits))
    return next(samples for samples in range(max(1, most), 0, -1) if size(samples) <= limit or samples == 1)


def check_class_name(name: str) -> None:
    """Raise MalformedMessage unless a class may have that name: a readable one, and not FORGOTTEN."""
    _check_readable_name(name)
    if name == FORGOTTEN:
        raise MalformedMessage(f"class name {name!r} is what forgotten samples are called: use another one")


def _check_readable_name(name: str) -> None:
    """Raise MalformedMessage unless the name is 1 to 64 printable characters without blanks at its ends."""
    if not (1 <= len(name) <= MAX_CLASS_NAME and name.isprintable() and name == name.strip()):
        raise MalformedMessage(f"class name {name[:80]!r}: use 1 to {MAX_CLASS_NAME} printable characters")


class _Fields:
    """A decoded map whose values are read with their type and bounds checked."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def _take(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self._values.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            if name not in self._values:
                raise MalformedMessage(f"field {name!r} is missing: run the same version of Reflexarc at both ends")
            raise MalformedMessage(f"field {name!r} is {type(value).__name__}")
        return value

    def has(self, name: str) -> bool:
        return name in self._values

    def is_none(self, name: str) -> bool:
        return self._values.get(name) is None

    def text(self, name: str, limit: int = MAX_TEXT, *, default: str | None = None) -> str:
        if default is not None and not self.has(name):
            return default
        value: str = self._take(name, str)
        if len(value) > limit:
            raise MalformedMessage(f"field {name!r} has {len(value):,} characters, limit {limit}")
        if NO_TEXT.search(value):
            raise MalformedMessage(f"field {name!r} has characters that are no text")
        return value

    def identifier(self, name: str, *, or_empty: bool = False) -> str:
        value = self.text(name)
        if not HEXADECIMAL_16.fullmatch(value) and (value or not or_empty):
            raise MalformedMessage(f"field {name!r} is not 16 hexadecimal digits")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> Any:
        value = self.text(name)
        if value not in choices:
            raise MalformedMessage(f"field {name!r} is {value[:40]!r}, not one of {', '.join(choices)}")
        return value

    def truth(self, name: str) -> bool:
        return bool(self._take(name, bool))

    def integer(self, name: str, low: int = 0, high: int = MAX_COUNT) -> int:
        value: int = self._take(name, int)
        if not low <= value <= high:
            raise MalformedMessage(f"field {name!r} is {value}, not in {low}..{high}")
        return value

    def number(self, name: str, low: float = -1e18, high: float = 1e18) -> float:
        return _within(name, self._take(name, (int, float)), low, high)

    def number_or_none(self, name: str, low: float = -1e18, high: float = 1e18) -> float | None:
        return None if self.is_none(name) else self.number(name, low, high)

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        values = self._take(name, list)
        if len(values) != count or not all(type(value) in (int, float) for value in values):
            raise MalformedMessage(f"field {name!r} is not {count} numbers")
        return tuple(_within(name, value, low, high) for value in values)

    def data(self, name: str) -> bytes:
        return bytes(self._take(name, bytes))

    def shape(self, name: str, most: int, dimensions: int = MAX_DIMENSIONS) -> tuple[int, ...]:
        sizes = self._take(name, list)
        if not 1 <= len(sizes) <= dimensions or not all(type(size) is int and size >= 1 for size in sizes):
            raise MalformedMessage(f"field {name!r} is not 1 to {dimensions} whole numbers above 0")
        if math.prod(sizes) > most:
            raise MalformedMessage(f"field {name!r} holds {math.prod(sizes)} values, limit {most:,}")
        return tuple(sizes)

    def inner(self, name: str) -> _Fields:
        return _Fields(self._take(name, dict))

    def class_name(self, name: str, *, or_empty: bool = False) -> str:
        value = self.text(name)
        if value or not or_empty:
            _check_readable_name(value)
        return value

    def class_names(self, name: str, most: int) -> tuple[str, ...]:
        names = self._take(name, list)
        for one in names:
            if not isinstance(one, str):
                raise MalformedMessage(f"field {name!r} holds a {type(one).__name__}")
            _check_readable_name(one)
        if len(names) > most or len(set(names)) != len(names):
            raise MalformedMessage(f"field {name!r} has {len(names)} class names, limit {most}, or one twice")
        return tuple(names)


def _batch_fields(batch: ActivationBatch) -> dict[str, Any]:
    return {
        "boot": batch.boot,
        "sequence": batch.sequence,
        "split": batch.split,
        "evaluation": batch.evaluation,
        "progress": batch.progress,
        "edge_version": batch.edge_version,
        "edits": batch.edits,
        "session": batch.session,
        "classes": list(batch.classes),
        "labels": batch.labels.astype("<u2").tobytes(),
        "samples": batch.samples.astype("<u4").tobytes(),
        "again": batch.again,
        **_packed_fields(batch.activations),
    }


def _read_batch(fields: _Fields) -> ActivationBatch:
    packed = _read_packed(fields)
    samples = packed.shape[0]
    classes = fields.class_names("classes", most=samples)
    labels = np.frombuffer(_sized(fields, "labels", 2 * samples), "<u2").astype(np.uint16)
    if labels.max(initial=0) >= len(classes):
        raise MalformedMessage(f"label {labels.max(initial=0)} of {len(classes)} classes")
    return ActivationBatch(
        boot=fields.identifier("boot"),
        sequence=fields.integer("sequence"),
        split=fields.identifier("split"),
        evaluation=fields.integer("evaluation"),
        progress=fields.number_or_none("progress", 0, 1),
        edge_version=fields.integer("edge_version"),
        edits=fields.integer("edits", 0, MAX_EDITS),
        session=fields.integer("session"),
        classes=classes,
        labels=labels,
        samples=np.frombuffer(_sized(fields, "samples", 4 * samples), "<u4").astype(np.uint32),
        again=fields.truth("again"),
        activations=packed,
    )


def _ask_fields(ask: Ask) -> dict[str, Any]:
    return {
        "boot": ask.boot,
        "number": ask.number,
        "split": ask.split,
        "deadline": ask.deadline,
        **_packed_fields(ask.activations),
    }


def _read_ask(fields: _Fields) -> Ask:
    packed = _read_packed(fields)
    if packed.shape[0] != 1:
        raise MalformedMessage(f"shape {packed.shape} is not of one sample")
    return Ask(
        boot=fields.identifier("boot"),
        number=fields.integer("number"),
        split=fields.identifier("split"),
        deadline=fields.number("deadline", 0, MAX_DEADLINE_SECONDS),
        activations=packed,
    )


def _read_answer(fields: _Fields) -> Answer:
    classes = fields.class_names("classes", most=MAX_ANSWERED_CLASSES)
    probabilities = fields.numbers("probabilities", len(classes), 0, 1)
    if not classes or list(probabilities) != sorted(probabilities, reverse=True):
        raise MalformedMessage(f"the probabilities of {len(classes)} classes are none, or not in falling order")
    return Answer(
        boot=fields.identifier("boot"),
        number=fields.integer("number"),
        classes=classes,
        probabilities=probabilities,
        images=fields.integer("images"),
    )


def _read_prediction(fields: _Fields) -> Prediction:
    name = fields.text("name")
    if name:
        _check_readable_name(name)
    return Prediction(
        boot=fields.identifier("boot"),
        time=fields.number("time", 0),
        name=name,
        confidence=fields.number("confidence", 0, 1),
        by=fields.choice("by", get_args(AnsweredBy)),
        latency=fields.number("latency", 0),
    )


def _read_probe(fields: _Fields) -> Probe:
    return Probe(
        boot=fields.identifier("boot"),
        number=fields.integer("number"),
        split=_read_split(fields.inner("split")) if not fields.is_none("split") else None,
        rest=fields.data("rest"),
    )


def _read_probe_result(fields: _Fields) -> ProbeResult:
    return ProbeResult(
        boot=fields.identifier("boot"),
        number=fields.integer("number"),
        seconds=fields.number("seconds", 0, 1e9),
        samples=fields.integer("samples", 0, MAX_SAMPLES),
        trouble=fields.text("trouble"),
    )


def _packed_fields(packed: PackedActivations) -> dict[str, Any]:
    return {
        "shape": list(packed.shape),
        "bits": packed.bits,
        "low": packed.low.astype("<f4").tobytes(),
        "step": packed.step.astype("<f4").tobytes(),
        "codec": packed.codec,
        "data": packed.data,
    }


def _read_packed(fields: _Fields) -> PackedActivations:
    shape = fields.shape("shape", MAX_VALUES)
    if len(shape) < 2 or shape[0] > MAX_SAMPLES or shape[1] > MAX_CHANNELS:
        raise MalformedMessage(f"shape {shape} is not (samples <= {MAX_SAMPLES}, channels <= {MAX_CHANNELS}, ...)")
    bits = fields.integer("bits", MIN_BITS, MAX_BITS)
    codec: Codec = fields.choice("codec", get_args(Codec))
    data = fields.data("data")
    size = packed_size(math.prod(shape), bits)
    # A short message that declares more than its codec can make of it is lying about its size.
    if size > MOST_EXPANSION[codec] * len(data) or (codec == "none" and size != len(data)):
        raise MalformedMessage(f"shape {shape} at {bits} bits needs {size:,} bytes, the message holds {len(data):,}")
    return PackedActivations(
        shape=shape,
        bits=bits,
        low=_ranges(fields, "low", shape[1]),
        step=_ranges(fields, "step", shape[1]),
        codec=codec,
        data=data,
    )


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # false for NaN too
        raise MalformedMessage(f"field {name!r} is {value}, not in {low}..{high}")
    return float(value)


def _sized(fields: _Fields, name: str, size: int) -> bytes:
    data = fields.data(name)
    if len(data) != size:
        raise MalformedMessage(f"field {name!r} has {len(data):,} bytes, expected {size:,}")
    return data


def _ranges(fields: _Fields, name: str, channels: int) -> NDArray[np.float32]:
    values = np.frombuffer(_sized(fields, name, 4 * channels), "<f4").astype(np.float32)
    # Activations beyond a million mean a diverged network; beyond 1e38 they would overflow float32 when scaled.
    if not np.isfinite(values).all() or np.abs(values).max() > 1e6:
        raise MalformedMessage(f"field {name!r} has values that are not finite or above 1e6")
    return values


def _read_receipt(fields: _Fields) -> Receipt:
    return Receipt(
        boot=fields.identifier("boot"),
        sequence=fields.integer("sequence"),
        outcome=fields.choice("outcome", get_args(Outcome)),
        reason=fields.text("reason"),
        held=fields.number("held", 0.0),
    )


def _read_edit(fields: _Fields) -> ClassEdit:
    change: Change = fields.choice("change", get_args(Change))
    return ClassEdit(
        boot=fields.identifier("boot"),
        sequence=fields.integer("sequence"),
        number=fields.integer("number", 1, MAX_EDITS),
        change=change,
        name=fields.class_name("name", or_empty=change == "undo"),
        to=fields.class_name("to", or_empty=change != "rename"),
        session=fields.integer("session", int(change == "undo")),
    )


def _read_command(fields: _Fields) -> Command:
    """Read a command, which a person may have typed: what an action does not need may be left out."""
    return Command(
        id=fields.text("id", default=""),
        action=fields.choice("action", get_args(Action)),
        name=fields.text("name", default=""),
        to=fields.text("to", default=""),
        seconds=fields.number("seconds", 0, MAX_TEACH_SECONDS) if fields.has("seconds") else 0.0,
    )


def _read_result(fields: _Fields) -> CommandResult:
    return CommandResult(
        id=fields.text("id"), ok=fields.truth("ok"), done=fields.truth("done"), text=fields.text("text")
    )


def _read_split(fields: _Fields) -> SplitSpec:
    return SplitSpec(
        backbone=fields.text("backbone"),
        cut=fields.text("cut"),
        image_size=fields.integer("image_size", 1, MAX_IMAGE_SIZE),
        bits=fields.integer("bits", MIN_BITS, MAX_BITS),
        bottleneck=fields.integer("bottleneck", 0, MAX_CHANNELS),
        shape=fields.shape("shape", MAX_VALUES, MAX_DIMENSIONS - 1),
    )


def _read_robot_state(fields: _Fields) -> RobotState:
    return RobotState(
        boot=fields.identifier("boot"),
        run=fields.identifier("run"),
        former=fields.identifier("former", or_empty=True),
        edits=fields.integer("edits", 0, MAX_EDITS),
        started=fields.number("started", 0),
        online=fields.truth("online"),
        split=_read_split(fields.inner("split")),
        weights=fields.choice("weights", get_args(Weights)),
        rehearse=fields.number("rehearse", 0, 16),
    )


def _read_trainer_state(fields: _Fields) -> TrainerState:
    return TrainerState(
        boot=fields.identifier("boot"),
        started=fields.number("started", 0),
        online=fields.truth("online"),
        trouble=fields.text("trouble"),
    )


def _figures_reader(message: type[AnyMessage]) -> Callable[[_Fields], AnyMessage]:
    """Return a reader for a message that is nothing but names and figures, from its field types."""
    hints = {name: kind for name, kind in get_type_hints(message).items() if not name.startswith("_")}

    def read(fields: _Fields) -> AnyMessage:
        values: dict[str, Any] = {}
        for name, kind in hints.items():
            if name == "boot":
                values[name] = fields.identifier(name)
            elif kind is str:
                values[name] = fields.text(name)
            elif kind is int:
                values[name] = fields.integer(name)
            elif isinstance(kind, types.UnionType):
                values[name] = fields.number_or_none(name)
            else:
                values[name] = fields.number(name)
        return message(**values)

    return read


READERS: dict[str, Callable[[_Fields], Message]] = {
    "activations": _read_batch,
    "class-edit": _read_edit,
    "command": _read_command,
    "command-result": _read_result,
    "receipt": _read_receipt,
    "ask": _read_ask,
    "answer": _read_answer,
    "probe": _read_probe,
    "probe-result": _read_probe_result,
    "robot-state": _read_robot_state,
    "trainer-state": _read_trainer_state,
    "robot-metrics": _figures_reader(RobotMetrics),
    "trainer-metrics": _figures_reader(TrainerMetrics),
    "prediction": _read_prediction,
}


def _msgpack(fields: dict[str, Any]) -> bytes:
    return bytes(msgpack.packb(fields))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()


def _from_msgpack(data: bytes) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(data, strict_map_key=True, ext_hook=_refuse)
    except (ValueError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"not msgpack: {str(error) or type(error).__name__}") from error
    if not isinstance(value, dict):
        raise MalformedMessage(f"a map expected, got {type(value).__name__}")
    return value


def _refuse(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _from_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), parse_int=_parse_integer, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not JSON: {error}") from error
    assert isinstance(value, dict), "JSON that opens with a brace is an object"
    return value


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
