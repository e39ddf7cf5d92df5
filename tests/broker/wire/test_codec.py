"""Messages to bytes and back, golden bytes that must not change, and bytes that nobody honest would send.

The files in tests/golden/ are what other clients may rely on. A change of them is a change of the protocol, so they are
written by hand only: `python tests/broker/wire/test_codec.py`, and docs/protocol.md changes with them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import MalformedMessage, PayloadTooLarge
from broker.wire import bounds, codec
from broker.wire.activations import BATCH_OVERHEAD_BYTES, samples_per_message
from broker.wire.bounds import (
    FORGOTTEN,
    MAX_CHANNELS,
    MAX_COUNT,
    MAX_EDITS,
    MAX_SAMPLES,
    MAX_TEACH_SECONDS,
    MAX_TOLD,
    MAX_VALUES,
    RECEIVE_LIMIT_BYTES,
    SEND_LIMIT_BYTES,
    check_class_name,
)
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import (
    Action,
    ActivationBatch,
    Answer,
    Ask,
    ClassEdit,
    Command,
    CommandResult,
    ExitOn,
    ExitPiece,
    FleetExit,
    Message,
    Prediction,
    Probe,
    ProbeResult,
    Receipt,
    RobotMetrics,
    RobotState,
    Share,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
    exit_place,
)
from broker.wire.quantize import (
    MAX_BITS,
    MIN_BITS,
    PackedActivations,
    Quantized,
    dequantize,
    pack_activations,
    packed_size,
    unpack_activations,
)

RUN = "fedcba9876543210"
ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
PROTOCOL = ROOT / "docs" / "protocol.md"

BOOT = "0123456789abcdef"
SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=32, bits=3, bottleneck=2, shape=(2, 2, 3))

CODES = (np.arange(36, dtype=np.uint8) % 8).reshape(3, 2, 2, 3)
LOW, STEP = np.array([-1.0, 0.0], np.float32), np.array([0.25, 0.5], np.float32)
# 0 to 7 in Gray code are 0 1 3 2 6 7 5 4. The lowest bit of each, 0 1 1 0 0 1 1 0 and so on, the first in the lowest
# bit of its byte; then the next bits, 0 0 1 1 1 1 0 0; then the highest, 0 0 0 0 1 1 1 1.
PLANES = bytes.fromhex("66 66 66 66 06  3c 3c 3c 3c 0c  f0 f0 f0 f0 00")

BATCH = ActivationBatch(
    boot=BOOT,
    sequence=7,
    split=SPLIT.fingerprint,
    evaluation=0,
    progress=0.25,
    edge_version=300,
    edits=2,
    session=5,
    classes=("cat", "köttur"),
    labels=np.array([0, 1, 0], np.uint16),
    samples=np.array([70000, 12, 70001], np.uint32),
    again=True,
    activations=PackedActivations(shape=(3, 2, 2, 3), bits=3, low=LOW, step=STEP, codec="none", data=PLANES),
)
EVALUATION_BATCH = replace(
    BATCH,
    sequence=8,
    evaluation=1,
    progress=None,
    labels=np.array([0, 1], np.uint16),
    samples=np.zeros(2, np.uint32),
    again=False,
    activations=PackedActivations(
        shape=(2, 2, 8, 8),
        bits=4,
        low=LOW,
        step=STEP,
        codec="zlib",
        # A zlib stream: its header, deflate with fixed codes (2 zeros, 119 more copied from 1 back, then the 7 bytes
        # 1 .. 7), and the checksum of these 128 bytes.
        data=bytes.fromhex("78 01  63 60 18 20 c0 c8 c4 cc c2 ca c6 0e 00  00 d4 00 1d"),
    ),
)
LZ4_BATCH = replace(
    EVALUATION_BATCH,
    activations=replace(
        EVALUATION_BATCH.activations,
        bits=5,
        codec="lz4",
        # An lz4 block: 1 zero, 151 more copied from 1 back, then the 8 bytes 0 .. 7.
        data=bytes.fromhex("1f 00 01 00 84 80 00 01 02 03 04 05 06 07"),
    ),
)

ASK = Ask(
    boot=BOOT,
    number=5,
    split=SPLIT.fingerprint,
    deadline=0.3,
    activations=PackedActivations(
        # The first of the batch's samples: codes 0 .. 7 and 0 .. 3.
        shape=(1, 2, 2, 3),
        bits=3,
        low=LOW,
        step=STEP,
        codec="none",
        data=bytes.fromhex("66 06  3c 0c  f0 00"),
    ),
)
ANSWER = Answer(boot=BOOT, number=5, classes=("köttur", "cat"), probabilities=(0.75, 0.125), images=6208)
PROBE = Probe(boot=BOOT, number=6, split=SPLIT, rest=bytes([0, 255, 7]))
PROBE_RESULT = ProbeResult(boot=BOOT, number=6, seconds=0.25, samples=64, trouble="")
PREDICTION = Prediction(boot=BOOT, time=1767225600.5, name="köttur", confidence=0.75, by="cloud", latency=0.04)
# Of two classes and three features: 16 bytes in one piece.
PIECE = ExitPiece(data=bytes(range(16)))
DIGEST = hashlib.sha256(PIECE.data).digest()
EXIT = FleetExit(
    boot=BOOT,
    version=7,
    made=1767225600.5,
    front="00112233445566ff",
    split=SPLIT.fingerprint,
    on="end",
    features=3,
    classes=("cat", "köttur"),
    accuracy=0.875,
    held_out=40,
    temperature=1.5,
    least_confidence=0.25,
    first=64,
    size=16,
    digest=DIGEST,
    pieces=(DIGEST,),
)

# What is said, and the file that holds its bytes.
TABLE: list[tuple[Message, str]] = [
    (BATCH, "activations.bin"),
    (EVALUATION_BATCH, "activations-zlib.bin"),
    (LZ4_BATCH, "activations-lz4.bin"),
    (
        ClassEdit(boot=BOOT, sequence=9, number=3, change="rename", name="köttur", to="cat", session=0),
        "class-edit.bin",
    ),
    (
        ClassEdit(boot=BOOT, sequence=9, number=3, change="forget", name="köttur", to="", session=0, everywhere=True),
        "class-edit-everywhere.bin",
    ),
    (Command(id="a1", action="teach", name="köttur", to="", seconds=10.0), "command.json"),
    (CommandResult(id="a1", ok=True, done=False, text="teaching 'köttur' for 10 s"), "command-result.json"),
    (Receipt(boot=BOOT, sequence=7, outcome="rejected", reason="a gap", held=0.25), "receipt.bin"),
    (ASK, "ask.bin"),
    (ANSWER, "answer.bin"),
    (
        RobotState(
            boot=BOOT,
            run=RUN,
            former="",
            edits=3,
            started=1767225600.5,
            online=True,
            split=SPLIT,
            weights="none",
            rehearse=1.0,
        ),
        "robot-state.json",
    ),
    (
        RobotState(
            boot=BOOT,
            run=RUN,
            former="",
            edits=0,
            started=1767225600.5,
            online=True,
            split=replace(SPLIT, bottleneck=0),
            weights="default",
            rehearse=1.0,
            weights_digest="00112233445566aa",
            still=True,
            fleet="lab",
            front="8899aabbccddeeff",
        ),
        "robot-state-fleet.json",
    ),
    (
        RobotState(
            boot=BOOT,
            run=RUN,
            former="",
            edits=0,
            started=1767225600.5,
            online=True,
            split=replace(SPLIT, bottleneck=0),
            weights="checkpoint",
            rehearse=1.0,
            still=True,
            fleet="lab",
            front="8899aabbccddeeff",
            exit="end",
            share="withdraw",
        ),
        "robot-state-withdraws.json",
    ),
    (TrainerState(boot=BOOT, started=1767225600.5, online=False, trouble=""), "trainer-state.json"),
    (
        RobotMetrics(
            boot=BOOT,
            images=6400,
            classes=8,
            exit_loss=0.71,
            exit_prequential=0.625,
            exit_accuracy=None,
            images_per_second=81.5,
            bytes_per_image=498.25,
            raw_bytes_per_image=3072.0,
            jpeg_bytes_per_image=921.0,
            messages_sent=100,
            messages_rejected=0,
            queued=3,
            dropped=192,
        ),
        "robot-metrics.json",
    ),
    (
        TrainerMetrics(
            robot="r1",
            boot=BOOT,
            images=6208,
            classes=8,
            cloud_loss=0.55,
            cloud_prequential=0.75,
            cloud_recent=0.8125,
            cloud_accuracy=None,
            evaluation=0,
            evaluated=0,
            messages_trained=97,
            messages_waiting=12,
            messages_rejected=0,
            quarantine="",
        ),
        "trainer-metrics.json",
    ),
    (
        TrainerMetrics(
            robot="r1",
            boot=BOOT,
            images=6208,
            classes=3,
            cloud_loss=0.55,
            cloud_prequential=0.75,
            cloud_recent=0.8125,
            cloud_accuracy=0.875,
            evaluation=2,
            evaluated=80,
            messages_trained=97,
            messages_waiting=12,
            messages_rejected=0,
            quarantine="",
            began_alike=True,
            fleet="lab",
            fleet_robots=3,
            fleet_classes=8,
            fleet_images=9000,
            fleet_accuracy=0.9375,
            apart="r7 has another front",
        ),
        "trainer-metrics-fleet.json",
    ),
    (
        TrainerMetrics(
            robot="r1",
            boot=BOOT,
            images=6208,
            classes=2,
            evaluation=0,
            evaluated=0,
            messages_trained=97,
            messages_waiting=0,
            messages_rejected=0,
            quarantine="",
            fleet="lab",
            fleet_robots=3,
            fleet_classes=7,
            fleet_images=9000,
            forgotten=("köttur", "cat"),
        ),
        "trainer-metrics-forgotten.json",
    ),
    (PREDICTION, "prediction.json"),
    (PROBE, "probe.bin"),
    (replace(PROBE, number=7, split=None), "probe-link.bin"),
    (PROBE_RESULT, "probe-result.bin"),
    (EXIT, "fleet-exit.bin"),
    (PIECE, "exit-piece.bin"),
]
EVERY_MESSAGE = pytest.mark.parametrize(("message", "file"), [pytest.param(*row, id=row[1]) for row in TABLE])
BATCHES = pytest.mark.parametrize("batch", [BATCH, EVALUATION_BATCH, LZ4_BATCH], ids=["plain", "zlib", "lz4"])


def plain(value: object) -> object:
    """Return a message as what == can compare: its arrays as lists, with their type."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if is_dataclass(value):
        return type(value).__name__, {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def message_or_malformed(data: bytes) -> Message | None:
    """Take bytes in as both ends do. Whatever they are, they end here, as a sound message or as MalformedMessage."""
    try:
        message = unpack(data)
        if isinstance(message, ActivationBatch | Ask):
            assert np.isfinite(dequantize(unpack_activations(message.activations))).all()
        if isinstance(message, ActivationBatch):
            assert len(message.names) == message.activations.shape[0]
    except MalformedMessage as error:
        complaint = str(error)
    else:
        assert plain(unpack(pack(message))) == plain(message)
        return message
    assert len(complaint) < 1000, "it goes into logs"
    return None


def raw(message: Message) -> dict[str, Any]:
    """Return the map that a message is on the wire."""
    data = pack(message)
    values: dict[str, Any] = json.loads(data) if data.startswith(b"{") else msgpack.unpackb(data)
    return values


def on_the_wire(values: dict[str, Any], like: Message) -> bytes:
    """Return the bytes of such a map, in the encoding of a message like that."""
    if pack(like).startswith(b"{"):
        return json.dumps(values).encode()
    return bytes(msgpack.packb(values))


# Golden bytes


@EVERY_MESSAGE
def test_writer_writes_the_golden_bytes(message: Message, file: str) -> None:
    assert pack(message) == (GOLDEN / file).read_bytes()


@EVERY_MESSAGE
def test_reader_reads_the_golden_bytes(message: Message, file: str) -> None:
    assert plain(unpack((GOLDEN / file).read_bytes())) == plain(message)


def test_every_kind_of_message_has_golden_bytes() -> None:
    assert {type(message) for message, _ in TABLE} == set(get_args(Message))
    assert {raw(message)["kind"] for message, _ in TABLE} == set(codec.KINDS)
    assert {file for _, file in TABLE} == {path.name for path in GOLDEN.iterdir() if path.suffix in (".bin", ".json")}


def test_the_golden_activations_are_what_they_say() -> None:
    np.testing.assert_array_equal(unpack_activations(BATCH.activations).codes, CODES)
    quantized = Quantized(codes=CODES, low=LOW, step=STEP, bits=3)
    assert pack_activations(quantized).data == PLANES
    assert dequantize(quantized)[0, :, 0].tolist() == [[-1.0, -0.75, -0.5], [3.0, 3.5, 0.0]]
    for batch in (EVALUATION_BATCH, LZ4_BATCH):
        # The last 8 bytes of the highest plane are not 0: in the last 64 Gray codes a single bit may be 1, the highest,
        # which is that of the highest level.
        codes, highest = unpack_activations(batch.activations).codes.reshape(-1), 2**batch.activations.bits - 1
        last = [highest * (byte >> place & 1) for byte in range(8) for place in range(8)]
        assert codes.tolist() == [0] * 192 + last
    assert BATCH.names == ["cat", "köttur", "cat"]
    np.testing.assert_array_equal(unpack_activations(ASK.activations).codes, CODES[:1])


@EVERY_MESSAGE
def test_every_truncation(message: Message, file: str) -> None:
    data = pack(message)
    assert [message_or_malformed(data[:length]) for length in range(len(data))] == [None] * len(data)
    assert message_or_malformed(data + b"\0") is None


@EVERY_MESSAGE
def test_every_single_byte_corruption(message: Message, file: str) -> None:
    data = bytearray(pack(message))
    rng = random.Random(file)
    understood = 0
    for place, right in enumerate(bytes(data)):
        values = set(range(256)) - {right}
        for wrong in values if len(data) < 100 else rng.sample(sorted(values), 24):
            data[place] = wrong
            understood += message_or_malformed(bytes(data)) is not None
        data[place] = right
    assert understood, "a corrupted digit of a number is a message still"


# Documentation


def test_the_protocol_is_documented() -> None:
    text = PROTOCOL.read_text(encoding="utf-8")
    for message, _ in TABLE:
        values = raw(message)
        names = set(values) | (set(values["split"]) if isinstance(message, RobotState) else set())
        missing = {name for name in names if f"`{name}`" not in text}
        assert not missing, f"{type(message).__name__}: {missing}"
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert examples == [json.loads((GOLDEN / file).read_bytes()) for _, file in TABLE if file.endswith(".json")]
    (worked,) = re.findall(r"```text\n(.*?)```", text.split("## A worked example")[1], re.DOTALL)
    assert (
        bytes.fromhex("".join(line.split("|")[0] for line in worked.splitlines()))
        == (GOLDEN / "activations.bin").read_bytes()
    )


# Bounds


def shaped(*shape: int) -> dict[str, Any]:
    """Return the fields of a compressed batch of that shape, of one class."""
    channels = shape[1] if len(shape) > 1 else 1
    return {
        "shape": list(shape),
        "codec": "lz4",
        "classes": ["cat"],
        "labels": bytes(2 * shape[0]),
        "samples": bytes(4 * shape[0]),
        "low": bytes(4 * channels),
        "step": bytes(4 * channels),
        "data": bytes(math.prod(shape) // 255 + 255),
    }


def shortly(value: object) -> str:
    return repr(value)[:60]


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"boot": "0123456789ABCDEF"}, "'boot' is not 16 hexadecimal"),
        ({"boot": BOOT[1:]}, "'boot' is not 16 hexadecimal"),
        ({"boot": BOOT + "\n"}, "'boot'"),
        ({"boot": BOOT.encode()}, "'boot' is bytes"),
        ({"split": "layer2"}, "'split' is not 16 hexadecimal"),
        ({"sequence": -1}, "'sequence' is -1, not in"),
        ({"sequence": MAX_COUNT + 1}, "'sequence' is 9007199254740993, not in"),
        ({"sequence": True}, "'sequence' is bool"),
        ({"sequence": 7.0}, "'sequence' is float"),
        ({"sequence": None}, "'sequence' is NoneType"),
        ({"sequence": msgpack.Timestamp(7, 0)}, "'sequence' is Timestamp"),
        ({"sequence": msgpack.ExtType(5, b"")}, "extension type 5"),
        ({"evaluation": -1}, "'evaluation' is -1"),
        ({"edge_version": 2**64 - 1}, "'edge_version' is"),
        ({"progress": -0.01}, "'progress' is -0.01, not in 0..1"),
        ({"progress": 1.01}, "'progress' is 1.01"),
        ({"progress": math.nan}, "'progress' is nan"),
        ({"progress": "half"}, "'progress' is str"),
        ({"progress": False}, "'progress' is bool"),
        ({"classes": ["cat", "cat"]}, "or one twice"),
        ({"classes": ["cat", "dog", "bird", "fish"]}, "4 class names, limit 3"),
        ({"classes": ["cat"]}, "label 1 of 1 classes"),
        ({"classes": []}, "label 1 of 0 classes"),
        ({"classes": ["cat", 1]}, "'classes' holds a int"),
        ({"classes": ["cat", ["dog"]]}, "'classes' holds a list"),
        ({"classes": ["cat", "x" * 65]}, "class name"),
        ({"classes": ["cat", ""]}, "class name"),
        ({"classes": ["cat", " dog"]}, "class name"),
        ({"classes": ["cat", "d\ng"]}, "class name"),
        ({"classes": {"cat": 0, "dog": 1}}, "'classes' is dict"),
        ({"labels": bytes(5)}, "'labels' has 5 bytes, expected 6"),
        ({"labels": b"\0\0\1\0\2\0"}, "label 2 of 2 classes"),
        ({"labels": b"\0\0\xff\xff\0\0"}, "label 65535 of 2 classes"),
        ({"labels": [0, 1, 0]}, "'labels' is list"),
        ({"samples": bytes(11)}, "'samples' has 11 bytes, expected 12"),
        ({"samples": [1, 2, 3]}, "'samples' is list"),
        ({"again": 1}, "'again' is int"),
        ({"shape": []}, "'shape' is not"),
        ({"shape": [36]}, r"shape \(36,\) is not"),
        ({"shape": [1, 1, 1, 1, 1, 36]}, "'shape' is not 1 to 5"),
        ({"shape": [3, 2, 0, 6]}, "'shape' is not"),
        ({"shape": [3, 2, -2, -3]}, "'shape' is not"),
        ({"shape": [3, 2, 6.0]}, "'shape' is not"),
        ({"shape": [3, 2, True, 6]}, "'shape' is not"),
        ({"shape": [2**63, 2**63, 2**63, 2**63]}, "'shape' holds .* values, limit"),
        ({"shape": [3, 2, 2, 4]}, "needs 18 bytes, the message holds 15"),
        (shaped(MAX_SAMPLES + 1, 1), "is not .samples <= 4096"),
        (shaped(1, MAX_CHANNELS + 1), "channels <= 16384"),
        (shaped(4, 1024, 32, 33), "limit 4,194,304"),
        ({"bits": 0}, "'bits' is 0, not in 1..8"),
        ({"bits": 9}, "'bits' is 9"),
        ({"bits": True}, "'bits' is bool"),
        ({"bits": 4}, "needs 20 bytes"),
        ({"low": bytes(4)}, "'low' has 4 bytes, expected 8"),
        ({"low": floats(0, math.nan)}, "'low' has values that are not finite"),
        ({"low": floats(0, math.inf)}, "'low' has values"),
        ({"low": floats(-1.1e6, 0)}, "'low' has values"),
        ({"step": floats(3e38, 0)}, "'step' has values"),
        ({"step": "steps"}, "'step' is str"),
        ({"codec": True}, "'codec' is bool"),
        ({"codec": "zstd"}, "'codec' is 'zstd', not one of none, lz4, zlib"),
        ({"codec": ""}, "'codec' is '', not one of"),
        ({"data": PLANES + b"\0"}, "needs 15 bytes, the message holds 16"),
        ({"data": b""}, "the message holds 0"),
        ({"data": b"", "codec": "lz4"}, "the message holds 0"),
        ({"data": b"", "codec": "zlib"}, "the message holds 0"),
        (shaped(1, 681) | {"data": bytes(1)}, "needs 258 bytes, the message holds 1"),
        (shaped(1, 2753) | {"codec": "zlib", "data": bytes(1)}, "needs 1,035 bytes, the message holds 1"),
        ({"kind": "frame"}, "kind 'frame' is none of activations, class-edit, "),
        ({"kind": None}, "'kind' is NoneType"),
        ({"kind": "x" * 401}, "'kind' has 401 characters"),
    ],
    ids=shortly,
)
def test_impossible_activations(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        unpack(msgpack.packb(raw(BATCH) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": MAX_COUNT, "edge_version": MAX_COUNT},
        {"progress": 1},
        {"progress": 0.0},
        {"again": True, "samples": bytes(12)},
        {"classes": ["cat", "🐕" * 64]},
        {"low": floats(-1e6, 1e6)},
        {"a field of a later version": [1, 2, 3]},
        shaped(1, 680) | {"data": bytes(1)},
        shaped(1, 2752) | {"codec": "zlib", "data": bytes(1)},
        shaped(MAX_SAMPLES, 1),
        shaped(3, 4096, 11, 31),
        shaped(1, MAX_CHANNELS),
    ],
    ids=shortly,
)
def test_possible_activations(changes: dict[str, Any]) -> None:
    unpack_as(ActivationBatch, msgpack.packb(raw(BATCH) | changes))


@pytest.mark.parametrize("missing", raw(BATCH))
def test_every_field_of_activations_is_needed(missing: str) -> None:
    values = {name: value for name, value in raw(BATCH).items() if name != missing}
    if missing == "progress":  # nothing means: not known
        assert unpack_as(ActivationBatch, msgpack.packb(values)).progress is None
    else:
        with pytest.raises(MalformedMessage, match=f"'{missing}' is missing"):
            unpack(msgpack.packb(values))


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("robot-state.json", '"online":true', '"online":1', "'online' is int"),
        ("robot-state.json", '"none"', '"some"', "'weights' is 'some', not one of none, default, file, checkpoint"),
        ("robot-state-fleet.json", '"lab"', '"the lab"', "'fleet' is not up to 64 letters, digits, '-' and '_'"),
        ("robot-state-fleet.json", '"lab"', f'"{65 * "a"}"', "'fleet' is not up to 64"),
        ("robot-state-fleet.json", '"8899', '"88', "'front' is not 16 hexadecimal digits"),
        ("robot-state.json", '"rehearse":1.0', '"rehearse":16.1', "'rehearse' is 16.1"),
        ("robot-state.json", '"rehearse":1.0', '"rehearse":NaN', "NaN is not a number"),
        ("robot-state.json", '"rehearse":1.0', '"rehearse":true', "'rehearse' is bool"),
        ("robot-state.json", "1767225600.5", "-1", "'started' is -1"),
        ("robot-state.json", "1767225600.5", "1e999", "'started' is inf"),
        ("robot-state.json", "1767225600.5", "-Infinity", "-Infinity is not a number"),
        ("robot-state.json", "1767225600.5", "9" * 400, "a whole number of 400 digits"),
        ("robot-state.json", "1767225600.5", "9" * 5000, "a whole number of 5,000 digits"),
        ("robot-state.json", '"former":""', '"former":"x"', "'former' is not 16 hexadecimal"),
        ("robot-state.json", f'"{RUN}"', '""', "'run' is not 16 hexadecimal"),
        ("robot-state.json", '"resnet18"', '"' + "x" * 401 + '"', "'backbone' has 401 characters"),
        ("robot-state.json", '"resnet18"', '"res\\u001b[2Jnet"', "'backbone' has characters that are no text"),
        ("robot-state.json", '"resnet18"', '"\\ud800"', "'backbone' has characters that are no text"),
        ("robot-state.json", '"resnet18"', '"\x00"', "not JSON"),
        ("robot-state.json", '"image_size":32', '"image_size":0', "'image_size' is 0, not in 1..4096"),
        ("robot-state.json", '"bits":3', '"bits":9', "'bits' is 9, not in 1..8"),
        ("robot-state.json", '"bottleneck":2', '"bottleneck":-2', "'bottleneck' is -2"),
        ("robot-state.json", "[2,2,3]", "[]", "'shape' is not 1 to 4 whole"),
        ("robot-state.json", "[2,2,3]", "[1,2,2,3,1]", "'shape' is not 1 to 4 whole"),
        ("robot-state.json", "[2,2,3]", "[9999999,2,3]", "'shape' holds 59999994 values"),
        ("robot-state.json", "[2,2,3]", f"[{'9' * 4000},{'9' * 4000}]", "a whole number of 4,000 digits"),
        ("robot-state.json", "[2,2,3]", "[[2],2,3]", "'shape' is not"),
        ("robot-state.json", '"split":{', '"split":[],"rest":{', "'split' is list"),
        ("robot-metrics.json", '"images":6400', '"images":6400.0', "'images' is float"),
        ("robot-metrics.json", '"queued":3', '"queued":null', "'queued' is NoneType"),
        ("robot-metrics.json", '"exit_loss":0.71', '"exit_loss":1e19', "'exit_loss' is 1e"),
        ("prediction.json", '"k\\u00f6ttur"', '" cat"', "class name ' cat'"),
        ("prediction.json", '"k\\u00f6ttur"', "null", "'name' is NoneType"),
        ("prediction.json", '"confidence":0.75', '"confidence":1.5', "'confidence' is 1.5, not in 0..1"),
        ("prediction.json", '"cloud"', '"gut"', "'by' is 'gut', not one of exit, cloud"),
        ("prediction.json", '"latency":0.04', '"latency":-1', "'latency' is -1"),
        ("trainer-metrics.json", '"robot":"r1"', '"robot":1', "'robot' is int"),
        ("trainer-metrics.json", f'"{BOOT}"', '"boot"', "'boot' is not 16"),
    ],
)
def test_impossible_states_and_metrics(file: str, right: str, wrong: str, complaint: str) -> None:
    text = (GOLDEN / file).read_text()
    assert right in text
    with pytest.raises(MalformedMessage, match=complaint):
        unpack(text.replace(right, wrong).encode())


@pytest.mark.parametrize(
    ("message", "changes", "complaint"),
    [
        (ASK, {"deadline": -0.1}, "'deadline' is -0.1, not in 0..60"),
        (ASK, {"deadline": 61}, "'deadline' is 61"),
        (ASK, {"deadline": math.nan}, "'deadline' is nan"),
        (ASK, {"number": -1}, "'number' is -1"),
        (ASK, {"split": ""}, "'split' is not 16 hexadecimal"),
        (ASK, {"shape": [2, 2, 1, 3]}, r"shape \(2, 2, 1, 3\) is not of one sample"),
        (ASK, {"shape": [1, 2, 3, 3]}, "needs 9 bytes, the message holds 6"),
        (ASK, {"low": floats(0, math.inf)}, "'low' has values"),
        (ANSWER, {"classes": [], "probabilities": []}, "of 0 classes are none"),
        (ANSWER, {"classes": ["cat", "cat"]}, "or one twice"),
        (ANSWER, {"classes": list("abcdef"), "probabilities": [0.1] * 6}, "6 class names, limit 5"),
        (ANSWER, {"probabilities": [0.125, 0.75]}, "not in falling order"),
        (ANSWER, {"probabilities": [0.75]}, "'probabilities' is not 2 numbers"),
        (ANSWER, {"probabilities": [1.5, 0.1]}, "'probabilities' is 1.5, not in 0..1"),
        (ANSWER, {"probabilities": [math.nan, 0.1]}, "'probabilities' is nan"),
        (ANSWER, {"probabilities": [True, 0.1]}, "'probabilities' holds a bool"),
        (ANSWER, {"images": 1.0}, "'images' is float"),
    ],
    ids=shortly,
)
def test_impossible_asks_and_answers(message: Message, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        unpack(msgpack.packb(raw(message) | changes))


@pytest.mark.parametrize(
    ("message", "changes", "complaint"),
    [
        (EXIT, {"version": 0}, "'version' is 0, not in 1.."),
        (EXIT, {"front": "front"}, "'front' is not 16 hexadecimal"),
        (EXIT, {"on": "middle"}, "'on' is 'middle', not one of cut, end"),
        (EXIT, {"features": 0}, "'features' is 0, not in 1..16384"),
        (EXIT, {"features": 4}, "16 bytes are not 2 classes of 4 features"),
        (EXIT, {"classes": ["cat"]}, "16 bytes are not 1 classes of 3 features"),
        (EXIT, {"classes": [], "size": 0}, "0 bytes are not 0 classes"),
        (EXIT, {"classes": ["cat", "cat"]}, "or one twice"),
        (EXIT, {"classes": [f"class {one}" for one in range(1001)]}, "1001 class names, limit 1000"),
        (EXIT, {"size": 2**40}, "1,099,511,627,776 bytes are not 2 classes"),
        (EXIT, {"accuracy": 1.5}, "'accuracy' is 1.5, not in 0..1"),
        (EXIT, {"temperature": 0}, "'temperature' is 0, not in 0.01..100"),
        (EXIT, {"temperature": math.nan}, "'temperature' is nan"),
        (EXIT, {"least_confidence": 2}, "'least_confidence' is 2"),
        (EXIT, {"first": 128}, "'first' is 128, not in 0..127"),
        (EXIT, {"digest": DIGEST[1:]}, "'digest' is not 32 bytes long"),
        (EXIT, {"digest": DIGEST.hex()}, "'digest' is str"),
        (EXIT, {"pieces": []}, "'pieces' is not 1 to 64 of 32 bytes"),
        (EXIT, {"pieces": [DIGEST] * 65}, "'pieces' is not 1 to 64 of 32 bytes"),
        (EXIT, {"pieces": [DIGEST, DIGEST]}, "16 bytes are not 2 pieces from number 64 on"),
        (EXIT, {"pieces": [DIGEST + b"!"]}, "'pieces' is not 1 to 64 of 32 bytes"),
        (EXIT, {"pieces": ["x" * 32]}, "'pieces' is not 1 to 64 of 32 bytes"),
        (PIECE, {"data": b""}, "'data' is not 1 to 100,000 bytes long"),
        (PIECE, {"data": bytes(100_001)}, "'data' is not 1 to 100,000 bytes long"),
    ],
    ids=shortly,
)
def test_impossible_exits(message: Message, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        unpack(msgpack.packb(raw(message) | changes))


def test_the_last_piece_has_the_highest_number_at_most() -> None:
    many = replace(EXIT, features=9_999, classes=tuple("abcdefghij"), size=200_000, pieces=(DIGEST, DIGEST))
    unpack(pack(replace(many, first=126)))
    with pytest.raises(MalformedMessage, match="200,000 bytes are not 2 pieces from number 127 on"):
        unpack(pack(replace(many, first=127)))


def test_a_full_piece_stays_within_what_is_sent() -> None:
    assert len(pack(ExitPiece(data=bytes(bounds.PIECE_BYTES)))) < SEND_LIMIT_BYTES


def test_exits_that_differ_in_front_split_or_place_lie_apart() -> None:
    places = {exit_place(front, split, on) for front in (BOOT, RUN) for split in (BOOT, RUN) for on in get_args(ExitOn)}
    assert len(places) == 8
    assert exit_place(BOOT, SPLIT.fingerprint, "end") == "243e90a33ae04f7c"


def test_an_unknown_thing_has_no_name() -> None:
    unknown = replace(PREDICTION, name="", by="exit")
    assert unpack_as(Prediction, pack(unknown)) == unknown


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xd8\xff\xe0\x00\x10JFIF", id="a JPEG"),
        pytest.param(b"{}", id="JSON without a kind"),
        pytest.param(b"[]", id="JSON that is no object"),
        pytest.param(b'{"kind":"\xff"}', id="JSON that is no UTF-8"),
        pytest.param(b'{"a":' * 100_000, id="deep JSON"),
        pytest.param(b'{"kind":' + b"[" * 100_000, id="deep JSON list"),
        pytest.param(b"\x81\xa1a" * 100_000, id="deep msgpack"),
        pytest.param(b"\x82\xa4kind\xabactivations\xa5shape" + b"\x91" * 900 + b"\xc0", id="deep shape"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 4 Gi entries"),
        pytest.param(b"\x81\xa4kind\xdd\xff\xff\xff\xff", id="list of 4 Gi items"),
        pytest.param(b"\x81\xa4kind\xdb\xff\xff\xff\xff", id="text of 4 GiB"),
        pytest.param(b"\x81\xa4kind\xc6\xff\xff\xff\xff", id="data of 4 GiB"),
        pytest.param(b"\x81\xc0\xc0", id="a key that is no text"),
        pytest.param(b"\x81\x91\xc0\xc0", id="a key that has no hash"),
        pytest.param(b"\x81\xa4kind\xa1\xff", id="text that is no UTF-8"),
        pytest.param(b"\x81\xa4kind\xd6\xff\xff\xff\xff\xff", id="timestamp"),
        pytest.param(b"\x81\xa4kind\xd7\xff" + b"\xff" * 8, id="timestamp beyond its bound"),
        pytest.param(b"\x81\xa4kind\xc7\x05\xff" + bytes(5), id="timestamp of a wrong size"),
        pytest.param(b"\x81\xa4kind\xd4\x05\x00", id="extension"),
    ],
)
def test_no_message_at_all(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unpack(data)


def test_deep_class_names() -> None:
    name: object = "cat"
    for _ in range(500):
        name = [name]
    with pytest.raises(MalformedMessage, match="'classes' holds a list"):
        unpack(msgpack.packb(raw(BATCH) | {"classes": [name, "dog"]}))


@EVERY_MESSAGE
def test_oversize_messages_are_not_even_looked_at(message: Message, file: str) -> None:
    data = on_the_wire(raw(message) | {"padding": "x" * RECEIVE_LIMIT_BYTES}, like=message)
    with pytest.raises(MalformedMessage, match="bytes, limit 1,048,576"):
        unpack(data)


def test_a_short_message_cannot_declare_megabytes() -> None:
    data = msgpack.packb(raw(BATCH) | shaped(1, 1, 2048, 1024) | {"data": bytes(20)})
    assert len(data) < 300
    with pytest.raises(MalformedMessage, match=r"needs 786,432 bytes, the message holds 20"):
        unpack(data)


@EVERY_MESSAGE
def test_unpack_as_wants_its_own_kind(message: Message, file: str) -> None:
    for kind in get_args(Message):
        if isinstance(message, kind):
            assert plain(unpack_as(kind, pack(message))) == plain(message)
        else:
            with pytest.raises(MalformedMessage, match=f"{kind.__name__} expected, got {type(message).__name__}"):
                unpack_as(kind, pack(message))


@pytest.mark.parametrize("name", ["c", "köttur", "traffic light", "🐕" * 64])
def test_class_names(name: str) -> None:
    check_class_name(name)


@pytest.mark.parametrize("name", ["", " ", " cat", "cat\t", "c\0t", "c\u202et", "x" * 65, "\ud800"])
def test_what_is_no_class_name(name: str) -> None:
    with pytest.raises(MalformedMessage, match="use 1 to 64 printable characters"):
        check_class_name(name)


def test_no_class_is_called_as_forgotten_samples_are_and_those_can_be_read() -> None:
    with pytest.raises(
        MalformedMessage, match=r"class name '\?' is what forgotten samples are called: use another one"
    ):
        check_class_name(FORGOTTEN)
    batch = replace(BATCH, classes=(FORGOTTEN, *BATCH.classes[1:]))
    assert unpack_as(ActivationBatch, pack(batch)).classes == batch.classes


# Anything at all

SCALARS = st.none() | st.booleans() | st.floats() | st.text(max_size=20)
COUNTS = st.integers(-(2**63), 2**64 - 1)
JSON_VALUES = st.recursive(
    SCALARS | COUNTS | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MSGPACK_VALUES = st.recursive(
    SCALARS
    | COUNTS
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**9 - 1)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", b"{", b"\x81\xa4kind", b"\x8f\xa4kind\xabactivations"])
)
def test_any_bytes(data: bytes, start: bytes) -> None:
    message_or_malformed(start + data)


@settings(max_examples=120, deadline=None)
@given(row=st.sampled_from([message for message, file in TABLE if file.endswith(".bin")]), data=st.data())
def test_any_msgpack_values(row: Message, data: st.DataObject) -> None:
    values = raw(row)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(values)), MSGPACK_VALUES, max_size=3))
    message_or_malformed(on_the_wire(values | changes, like=row))


@settings(max_examples=120, deadline=None)
@given(row=st.sampled_from([message for message, file in TABLE if file.endswith(".json")]), data=st.data())
def test_any_json_values(row: Message, data: st.DataObject) -> None:
    values = raw(row)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(values)), JSON_VALUES, max_size=3))
    if "split" in values:
        inner = st.dictionaries(st.sampled_from(sorted(values["split"])), JSON_VALUES, max_size=2)
        changes = {"split": values["split"] | data.draw(inner), **changes}
    message_or_malformed(on_the_wire(values | changes, like=row))


# Round trips

NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=64)
BOOTS = st.text("0123456789abcdef", min_size=16, max_size=16)
FLEETS = st.text("abzAZ09_-", max_size=64)
SEQUENCES = st.integers(0, MAX_COUNT)
EDITS = st.integers(0, MAX_EDITS)
FIGURES = st.floats(-1e18, 1e18)
SPLITS = st.builds(
    SplitSpec,
    backbone=NAMES,
    cut=NAMES,
    image_size=st.integers(1, 4096),
    bits=st.integers(MIN_BITS, MAX_BITS),
    bottleneck=st.integers(0, MAX_CHANNELS),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
)


def figures(message: type[RobotMetrics | TrainerMetrics]) -> st.SearchStrategy[RobotMetrics | TrainerMetrics]:
    by_type = {
        "Text": NAMES,
        "NameOrNone": FLEETS,
        "Count": SEQUENCES,
        "Number": FIGURES,
        "Number | None": st.none() | FIGURES,
        "bool | None": st.none() | st.booleans(),
        "tuple[str, ...]": st.lists(NAMES, max_size=MAX_TOLD, unique=True).map(tuple),
    }
    return st.builds(
        message, boot=BOOTS, **{one.name: by_type[str(one.type)] for one in fields(message) if one.name != "boot"}
    )


@st.composite
def batches(draw: st.DrawFn) -> ActivationBatch:
    classes = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    labels = draw(st.lists(st.integers(0, len(classes) - 1), min_size=len(classes), max_size=8))
    shape = (len(labels), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    bits = draw(st.integers(MIN_BITS, MAX_BITS))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    quantized = Quantized(
        codes=rng.integers(0, 2**bits, shape, np.uint8),
        low=rng.normal(size=shape[1]).astype(np.float32),
        step=rng.random(shape[1], np.float32),
        bits=bits,
    )
    return ActivationBatch(
        boot=draw(BOOTS),
        sequence=draw(SEQUENCES),
        split=draw(SPLITS).fingerprint,
        evaluation=draw(SEQUENCES),
        progress=draw(st.none() | st.floats(0, 1)),
        edge_version=draw(SEQUENCES),
        edits=draw(EDITS),
        session=draw(SEQUENCES),
        classes=tuple(classes),
        labels=np.array(labels, np.uint16),
        samples=rng.integers(0, 2**32, len(labels), np.uint32),
        again=draw(st.booleans()),
        activations=pack_activations(quantized),
    )


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    batch = draw(batches())
    quantized = unpack_activations(batch.activations)[:1]
    deadline = draw(st.floats(0, bounds.MAX_DEADLINE_SECONDS))
    return Ask(
        boot=batch.boot,
        number=batch.sequence,
        split=batch.split,
        deadline=deadline,
        activations=pack_activations(quantized),
    )


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    classes = draw(st.lists(NAMES, min_size=1, max_size=bounds.MAX_ANSWERED_CLASSES, unique=True))
    shares = draw(st.lists(st.floats(0, 1), min_size=len(classes), max_size=len(classes)))
    return Answer(
        boot=draw(BOOTS),
        number=draw(SEQUENCES),
        classes=tuple(classes),
        probabilities=tuple(sorted(shares, reverse=True)),
        images=draw(SEQUENCES),
    )


MESSAGES = st.one_of(
    batches(),
    asks(),
    answers(),
    st.builds(Probe, boot=BOOTS, number=SEQUENCES, split=st.none() | SPLITS, rest=st.binary(max_size=100)),
    st.builds(
        ProbeResult,
        boot=BOOTS,
        number=SEQUENCES,
        seconds=st.floats(0, 1e9),
        samples=st.integers(0, bounds.MAX_SAMPLES),
        trouble=st.just("") | NAMES,
    ),
    st.builds(
        Prediction,
        boot=BOOTS,
        time=st.floats(0, 1e18),
        name=st.just("") | NAMES,
        confidence=st.floats(0, 1),
        by=st.sampled_from(["exit", "cloud"]),
        latency=st.floats(0, 1e18),
    ),
    st.builds(
        Receipt,
        boot=BOOTS,
        sequence=SEQUENCES,
        outcome=st.sampled_from(["accepted", "duplicate", "rejected"]),
        reason=st.just("") | NAMES | st.just("one line\n\tand another"),
        held=st.floats(0, 1e18),
    ),
    st.builds(
        RobotState,
        boot=BOOTS,
        run=BOOTS,
        former=st.just("") | BOOTS,
        edits=EDITS,
        started=st.floats(0, 1e18),
        online=st.booleans(),
        split=SPLITS,
        weights=st.sampled_from(["none", "default", "checkpoint"]),
        rehearse=st.floats(0, 16),
        fleet=FLEETS,
        front=st.just("") | BOOTS,
        share=st.sampled_from(get_args(Share)),
    ),
    st.builds(
        ClassEdit,
        boot=BOOTS,
        sequence=SEQUENCES,
        number=st.integers(1, MAX_EDITS),
        change=st.just("rename"),
        name=NAMES,
        to=NAMES,
        session=st.just(0),
    ),
    st.builds(
        ClassEdit,
        boot=BOOTS,
        sequence=SEQUENCES,
        number=st.integers(1, MAX_EDITS),
        change=st.just("forget"),
        name=NAMES,
        to=st.just(""),
        session=st.just(0),
        everywhere=st.booleans(),
    ),
    st.builds(
        ClassEdit,
        boot=BOOTS,
        sequence=SEQUENCES,
        number=st.integers(1, MAX_EDITS),
        change=st.just("undo"),
        name=NAMES | st.just(""),
        to=st.just(""),
        session=st.integers(1, 10**6),
    ),
    st.builds(
        Command,
        id=NAMES,
        action=st.sampled_from(get_args(Action)),
        name=NAMES,
        to=NAMES,
        seconds=st.floats(0, MAX_TEACH_SECONDS),
    ),
    st.builds(CommandResult, id=NAMES, ok=st.booleans(), done=st.booleans(), text=NAMES),
    st.builds(
        TrainerState,
        boot=BOOTS,
        started=st.floats(0, 1e18),
        online=st.booleans(),
        trouble=NAMES,
        metrics_by_robot=st.booleans(),
    ),
    figures(RobotMetrics),
    figures(TrainerMetrics),
)


@settings(max_examples=100, deadline=None)
@given(message=MESSAGES)
def test_what_is_packed_is_unpacked(message: Message) -> None:
    assert plain(unpack(pack(message))) == plain(message)


# How much fits one message


def fullest(split: SplitSpec, classes: int, samples: int) -> ActivationBatch:
    """Return the largest batch there can be: incompressible codes, the longest names, the largest numbers."""
    rng = np.random.default_rng(0)
    shape = (samples, *split.shape)
    # Random bytes are random codes, and what compression would only lengthen.
    data = rng.bytes(packed_size(math.prod(shape), split.bits))
    ranges = rng.normal(size=split.shape[0]).astype(np.float32)
    names = tuple(chr(0x1F300 + number) * bounds.MAX_CLASS_NAME for number in range(min(classes, samples)))
    return ActivationBatch(
        boot=BOOT,
        sequence=MAX_COUNT,
        split=split.fingerprint,
        evaluation=MAX_COUNT,
        progress=0.1,
        edge_version=MAX_COUNT,
        edits=MAX_EDITS,
        session=MAX_COUNT,
        classes=names,
        labels=rng.integers(0, len(names), samples).astype(np.uint16),
        samples=rng.integers(0, 2**32, samples, np.uint32),
        again=False,
        activations=PackedActivations(shape=shape, bits=split.bits, low=ranges, step=ranges, codec="none", data=data),
    )


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 24), min_size=1, max_size=4).map(tuple),
    bits=st.integers(MIN_BITS, MAX_BITS),
    classes=st.integers(1, 60),
    limit=st.sampled_from([2_000, 20_000, SEND_LIMIT_BYTES]),
)
def test_that_many_samples_always_fit(shape: tuple[int, ...], bits: int, classes: int, limit: int) -> None:
    split = replace(SPLIT, shape=shape, bits=bits)
    try:
        samples = samples_per_message(split, classes, limit)
    except PayloadTooLarge:
        assert len(pack(fullest(split, classes, 1))) + BATCH_OVERHEAD_BYTES > limit
        return
    data = pack(fullest(split, classes, samples))
    assert len(data) <= limit
    unpack_as(ActivationBatch, data)
    if samples < min(MAX_SAMPLES, MAX_VALUES // split.values):
        one_more = len(pack(fullest(split, classes, samples + 1)))
        assert one_more + BATCH_OVERHEAD_BYTES > limit, "room is left"


@pytest.mark.parametrize(("shape", "bits", "samples"), [((1,), 1, MAX_SAMPLES), ((2,), 8, MAX_SAMPLES)])
def test_small_samples_are_bounded_in_number(shape: tuple[int, ...], bits: int, samples: int) -> None:
    assert samples_per_message(replace(SPLIT, shape=shape, bits=bits), classes=10) == samples


def test_values_are_bounded_where_the_limit_is_not() -> None:
    split = replace(SPLIT, shape=(64, 32, 32), bits=1)
    assert samples_per_message(split, classes=10, limit=10**9) == MAX_VALUES // split.values == 64


def test_as_many_channels_as_fit_a_message_are_understood() -> None:
    channels = (SEND_LIMIT_BYTES - BATCH_OVERHEAD_BYTES) // 8
    with pytest.raises(PayloadTooLarge):
        samples_per_message(replace(SPLIT, shape=(channels,), bits=1), classes=1)
    assert channels <= MAX_CHANNELS


@pytest.mark.parametrize(("side", "bits", "fitting"), [(40, 8, 4), (40, 5, 4), (60, 2, 2), (60, 8, 2), (80, 3, 1)])
def test_a_sample_too_large_says_at_how_many_bits_it_would_fit(side: int, bits: int, fitting: int) -> None:
    split = replace(SPLIT, shape=(128, side, side), bits=bits)
    if bits <= fitting:
        assert samples_per_message(split, classes=10) == 1
        return
    with pytest.raises(PayloadTooLarge, match=rf"limit 128,000; at {fitting} bits it would be [\d,]+; a bottleneck"):
        samples_per_message(split, classes=10)
    assert samples_per_message(replace(split, bits=fitting), classes=10) == 1
    with pytest.raises(PayloadTooLarge):
        samples_per_message(replace(split, bits=fitting + 1), classes=10)


def test_a_sample_too_large_at_any_bits() -> None:
    with pytest.raises(PayloadTooLarge, match=r"resnet18 cut at layer2 .* no number of bits would do; a bottleneck of"):
        samples_per_message(replace(SPLIT, shape=(128, 120, 120), bits=8), classes=10)


def test_a_split_is_told_from_others_by_its_fingerprint() -> None:
    others = [
        replace(SPLIT, backbone="resnet34"),
        replace(SPLIT, cut="layer1"),
        replace(SPLIT, image_size=64),
        replace(SPLIT, bits=4),
        replace(SPLIT, bottleneck=0),
        replace(SPLIT, shape=(2, 3, 2)),
    ]
    fingerprints = {split.fingerprint for split in [SPLIT, *others]}
    assert len(fingerprints) == 7
    assert replace(SPLIT).fingerprint == SPLIT.fingerprint == "2392a191a210d4df"


def test_a_command_says_where_to_look_only_where_it_does() -> None:
    command = Command(id="a1", action="look", region="25%,10%,50%,80%")
    assert raw(command)["region"] == "25%,10%,50%,80%"
    assert unpack(pack(command)) == command
    assert "region" not in raw(replace(command, action="undo", region=""))
    for region in ("x" * 401, "\x1b[2J", 7, None, [0, 0, 1, 1]):
        with pytest.raises(MalformedMessage, match="field 'region'"):
            unpack(json.dumps({**raw(command), "region": region}).encode())


if __name__ == "__main__":
    for golden_message, golden_file in TABLE:
        (GOLDEN / golden_file).write_bytes(pack(golden_message))
