"""Messages to bytes and back: pack(message) -> bytes, unpack(bytes) -> message. No I/O.

What only the two ends read (activations, receipts, asks, answers, exits) is msgpack. What people and other tools read
(states, metrics, predictions) is JSON, so that mosquitto_sub or Grafana can show it. docs/protocol.md describes every
field.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NoReturn, TypeVar

import msgpack

from broker.errors import MalformedMessage, SealedPayload
from broker.wire.activations import ask_fields, batch_fields, read_ask, read_batch
from broker.wire.bounds import (
    MAX_ANSWERED_CLASSES,
    MAX_COUNT,
    MAX_DIGITS,
    MAX_EXIT_CLASSES,
    MAX_PIECES,
    MAX_TOLD,
    PIECE_BYTES,
    RECEIVE_LIMIT_BYTES,
    SEALED,
    Text,
    check_class_names,
    check_readable_name,
    check_values,
)
from broker.wire.messages import (
    ActivationBatch,
    Answer,
    Ask,
    ClassEdit,
    Command,
    CommandResult,
    ExitPiece,
    FleetExit,
    Message,
    Prediction,
    Probe,
    ProbeResult,
    Receipt,
    RobotMetrics,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.validation import read

KINDS: dict[str, type[Message]] = {
    "activations": ActivationBatch,
    "class-edit": ClassEdit,
    "command": Command,
    "command-result": CommandResult,
    "receipt": Receipt,
    "ask": Ask,
    "answer": Answer,
    "probe": Probe,
    "probe-result": ProbeResult,
    "robot-state": RobotState,
    "trainer-state": TrainerState,
    "robot-metrics": RobotMetrics,
    "trainer-metrics": TrainerMetrics,
    "prediction": Prediction,
    "fleet-exit": FleetExit,
    "exit-piece": ExitPiece,
}
NAMES = {kind: name for name, kind in KINDS.items()}
# Those that are msgpack; the others are JSON.
BINARY = (ActivationBatch, ClassEdit, Receipt, Ask, Answer, Probe, ProbeResult, FleetExit, ExitPiece)

AnyMessage = TypeVar("AnyMessage")


def pack(message: Message) -> bytes:
    """Return the bytes of a message."""
    match message:
        case ActivationBatch():
            fields = batch_fields(message)
        case Ask():
            fields = ask_fields(message)
        case _:
            fields = _known_before(message, dataclasses.asdict(message))
    fields = {"kind": NAMES[type(message)], **fields}
    if isinstance(message, BINARY):
        return bytes(msgpack.packb(fields))
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()


def unpack(data: bytes) -> Message:
    """Return the message in these bytes. Raises MalformedMessage, and nothing else, for whatever they may be."""
    if len(data) > RECEIVE_LIMIT_BYTES:
        raise MalformedMessage(f"{len(data):,} bytes, limit {RECEIVE_LIMIT_BYTES:,}")
    if data[:1] == SEALED:
        raise SealedPayload(
            "the payload is sealed, and this end has no key: give it its own with --payload-key FILE "
            "(docs/security.md), or start the other end without"
        )
    # '{' opens every JSON message and is never the first byte of a msgpack map.
    values = _from_json(data) if data[:1] == b"{" else _from_msgpack(data)
    kind = KINDS.get(name := read(values, _Kind).kind)
    if kind is None:
        raise MalformedMessage(f"kind {name[:40]!r} is none of {', '.join(KINDS)}")
    if kind is ActivationBatch:
        return read_batch(values)
    if kind is Ask:
        return read_ask(values)
    message = read(values, kind)
    _check(message)
    return message


def unpack_as(expected: type[AnyMessage], data: bytes) -> AnyMessage:
    """Return the message in these bytes if it is of the expected type. Raises MalformedMessage."""
    message = unpack(data)
    if not isinstance(message, expected):
        raise MalformedMessage(f"{expected.__name__} expected, got {type(message).__name__}")
    return message


def _known_before(message: Message, fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a peer of before a field would refuse, where the field says nothing."""
    later = {one.name: one.default for one in dataclasses.fields(message) if one.metadata.get("later")}
    return {name: value for name, value in fields.items() if name not in later or value != later[name]}


@dataclasses.dataclass(frozen=True)
class _Kind:
    kind: Text


def _check(message: Message) -> None:
    """Raise MalformedMessage for what one field may not be beside another."""
    match message:
        case RobotState(split=SplitSpec(shape=shape)) | Probe(split=SplitSpec(shape=shape)):
            check_values(shape)
        case Prediction(name=name) if name:
            check_readable_name(name)
        case ClassEdit():
            _check_edit(message)
        case TrainerMetrics():
            check_class_names("forgotten", message.forgotten, most=MAX_TOLD)
        case Answer():
            _check_answer(message)
        case FleetExit():
            _check_exit(message)


def _check_edit(edit: ClassEdit) -> None:
    if edit.name or edit.change != "undo":
        check_readable_name(edit.name)
    if edit.to or edit.change == "rename":
        check_readable_name(edit.to)
    if edit.change == "undo" and not edit.session:
        raise MalformedMessage(f"field 'session' is 0, not in 1..{MAX_COUNT}")
    if edit.everywhere and edit.change != "forget":
        raise MalformedMessage(f"field 'everywhere' is of what forgets a class, and change is {edit.change!r}")


def _check_answer(answer: Answer) -> None:
    check_class_names("classes", answer.classes, most=MAX_ANSWERED_CLASSES)
    count, shares = len(answer.classes), answer.probabilities
    if len(shares) != count:
        raise MalformedMessage(f"field 'probabilities' is not {count} numbers")
    if not count or list(shares) != sorted(shares, reverse=True):
        raise MalformedMessage(f"the probabilities of {count} classes are none, or not in falling order")


def _check_exit(exit_: FleetExit) -> None:
    check_class_names("classes", exit_.classes, most=MAX_EXIT_CLASSES)
    size, pieces, end = exit_.size, len(exit_.pieces), exit_.first + len(exit_.pieces)
    if not exit_.classes or size != 2 * len(exit_.classes) * (exit_.features + 1):
        raise MalformedMessage(f"{size:,} bytes are not {len(exit_.classes)} classes of {exit_.features:,} features")
    if pieces != math.ceil(size / PIECE_BYTES) or end > 2 * MAX_PIECES:
        raise MalformedMessage(f"{size:,} bytes are not {pieces} pieces from number {exit_.first} on")


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
