"""Garbage for a trainer: `run` sends that many spoilt messages on all channels and looks what they did.

`make test` sends a few thousand; `python -m tests.cloud_trainer.fuzz 100000` as many as there is time for.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker.wire import topics
from broker.wire.bounds import MAX_COUNT
from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, ClassEdit
from broker.wire.topics import NAME
from tests.cloud_trainer.world import SPLIT, STATE, Cloud, batches, is_finite, make_batch, outcomes, use_tiny_networks

GOLDEN = Path(__file__).parents[1] / "golden"
MOST_ROBOTS = 5
SETTINGS: dict[str, Any] = {"most_robots": MOST_ROBOTS, "most_classes": 20, "store_gb": 0.01}
ROBOTS = ["r1", "r2", "r3", "R-_9", "x" * 64]
NO_ROBOTS = ["x" * 65, "no name", "", "ö", "a/b", "+", "#"]
CHANNELS = [
    "state",
    "activations",
    "metrics",
    "receipt",
    "ask",
    "answer",
    "probe",
    "prediction",
    "command",
    "unknown",
    "",
]
NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 65_535, MAX_COUNT, MAX_COUNT + 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.5, -0.0, 1e6, 1e17, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "a", "b" * 16, "vit_h_14", "resnet18", "none", "checkpoint", "\x00", "\x1b[2J", "ä" * 500, "0" * 16),
    *(b"", b"\x00", b"\xff" * 48, b"\x7f\xc0\x00\x00" * 6, b"\x00\x00\xc0\x7f" * 6, [], [1], [2**40, 2, 2], [0], {}),
    *([4, 6, 2, 2], [4096, 1024], ["cat"] * 9, ["cat", "dog"], [[[]]], {"a": 1}),
]


def valid_messages() -> list[tuple[str, bytes]]:
    """Return messages worth spoiling, with the channel that each belongs to."""
    back = dataclasses.replace(STATE, boot="c" * 16, weights="checkpoint", rehearse=1.0)
    other = dataclasses.replace(STATE, boot="d" * 16, split=dataclasses.replace(SPLIT, bits=3))
    gone = dataclasses.replace(STATE, online=False)
    of_fleet = dataclasses.replace(STATE, boot="e" * 16, still=True, fleet="lab", front="f" * 16)
    states = [pack(one) for one in (STATE, STATE, back, back, other, of_fleet, of_fleet, gone)]
    sent: list[ActivationBatch | ClassEdit] = [
        *batches(10),
        *batches(6, first=19, boot="c" * 16),
        make_batch(["ant"] * 3, sequence=17, evaluation=1),
        make_batch(["cow"] * 3, sequence=18, session=1),
    ]
    edit = ClassEdit(boot=STATE.boot, sequence=30, number=1, change="rename", name="cat", to="dog", session=0)
    sent += [
        edit,
        dataclasses.replace(edit, sequence=31, number=2, change="forget", to=""),
        dataclasses.replace(edit, sequence=32, number=3, change="undo", name="cow", to="", session=1),
    ]
    golden = [path.read_bytes() for path in sorted(GOLDEN.iterdir()) if path.suffix in {".bin", ".json"}]
    return [
        *(("state", one) for one in states),
        *(("activations", pack(one)) for one in sent),
        *(("", one) for one in golden),
    ]


def flip(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.choice([1, 4, 300])) + data[place:]


def set_field(data: bytes, rng: random.Random) -> bytes:
    """Give a field a value that it should not have."""
    is_json = data[:1] == b"{"
    fields: dict[str, Any] = json.loads(data) if is_json else msgpack.unpackb(data)
    target = fields["split"] if isinstance(fields.get("split"), dict) and rng.random() < 0.5 else fields
    target[rng.choice(sorted(target))] = rng.choice(NASTY)
    return json.dumps(fields, default=repr).encode() if is_json else bytes(msgpack.packb(fields))


def keep(data: bytes, _rng: random.Random) -> bytes:
    return data


def noise(_data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"{", b"[]", b"\x80", b"\xc1", b"{" * 5000, b"\x91" * 5000, rng.randbytes(200)])


SPOILERS: list[Callable[[bytes, random.Random], bytes]] = [flip, truncate, insert, *[set_field] * 4, *[keep] * 8, noise]


def run(cloud: Cloud, count: int, *, seed: int) -> None:
    """Send so many messages to a trainer with these SETTINGS and check that it is none the worse."""
    rng, good = random.Random(seed), valid_messages()
    cloud.say("good", STATE, *batches(1))
    for number in range(count):
        channel, message = rng.choice(good)
        name = rng.choice(NO_ROBOTS if rng.random() < 0.1 else ROBOTS)
        if not channel or rng.random() < 0.2:
            channel = rng.choice(CHANNELS)
        cloud.robots.publish(f"{topics.PREFIX}/robot/{name}/{channel}", rng.choice(SPOILERS)(message, rng))
        if number % 30 == 0:
            cloud.work(rng.choice([0.1, 1.0, 4.0, 100.0]))
            for record in cloud.known.values():
                record.quarantine._until = 0.0  # in quarantine it would not be listened to, and most of them would be
            assert len(cloud.known) <= MOST_ROBOTS
        if number % 1000 == 999:
            check(cloud, number // 1000)
    cloud.work(10)
    check(cloud, count)


def check(cloud: Cloud, number: int) -> None:
    """Raise AssertionError unless all is well, and a valid message is trained on."""
    assert all(NAME.fullmatch(name) for name in cloud.known)
    assert not cloud.trouble
    before = cloud.session("good").images
    # Another start of the robot each time, of which its network has one.
    back = dataclasses.replace(STATE, boot=f"{number:016x}", weights="checkpoint")
    assert outcomes(cloud.say("good", back, *batches(2, boot=back.boot))) == ["accepted"] * 2
    assert cloud.session("good").images == before + 8
    for name, record in cloud.known.items():
        assert not record.training.stuck, "something that cannot be trained on was let into the log"
        session = cloud.training.fleet.training_of(name).session
        assert session is None or is_finite(session)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        its = Cloud(Path(folder) / "run", patch, **SETTINGS)
        run(its, int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        print({name: (record.quarantine.rejected, record.training.steps) for name, record in its.known.items()})
        its.kill()
