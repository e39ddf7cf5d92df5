"""What peers do that break the rules, by accident or on purpose, and what it does to others: nothing."""

from __future__ import annotations

import dataclasses
import logging
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pytest
from torch import Tensor, nn

import cloud_trainer.session.session_start
from broker.wire import topics
from broker.wire.bounds import RECEIVE_LIMIT_BYTES
from broker.wire.codec import pack
from broker.wire.messages import SplitSpec
from cloud_trainer.robots.quarantine import FIRST_SECONDS, REJECTIONS
from tests.cloud_trainer import fuzz
from tests.cloud_trainer.world import (
    SPLIT,
    STATE,
    TRAINER,
    Cloud,
    TinySegment,
    batches,
    forget,
    is_finite,
    make_batch,
    outcomes,
)

pytestmark = pytest.mark.slow

Start = Callable[..., Cloud]


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python, numpy, lz4 and zlib held at once meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def changed(**fields: Any) -> bytes:
    """Return a batch's bytes with some fields changed."""
    return bytes(msgpack.packb({**msgpack.unpackb(pack(batches(1)[0])), **fields}))


SHORT = {"lz4": b"\x1f\0\1\0" + b"\xff" * 30, "zlib": zlib.compress(bytes(30_000), 9)}


@pytest.mark.parametrize("codec", SHORT)
def test_a_short_message_that_declares_much_takes_little_memory(cloud: Cloud, codec: str) -> None:
    cloud.say("r1", STATE, *batches(1))
    for shape in ([4096, 6, 2, 2], [4, 6, 418, 418], [4096, 1024], [2**60, 2, 2], [16, 6, 2, 2]):
        ranges = b"\0" * (4 * min(shape[1], 6))
        message = changed(sequence=5, shape=shape, codec=codec, data=SHORT[codec], low=ranges, step=ranges)
        assert len(message) < 400

        def send(message: bytes = message) -> None:
            cloud.publish("r1", "activations", message)
            cloud.work()

        assert peak(send) < 2_000_000
    assert cloud.figures().images == 4


def test_the_measure_above_would_notice_64_megabytes() -> None:
    small = lz4.block.compress(bytes(64_000_000), store_size=False)
    assert peak(lambda: lz4.block.decompress(small, uncompressed_size=64_000_000)) > 60_000_000
    deflated = zlib.compress(bytes(64_000_000), 1)
    assert peak(lambda: zlib.decompress(deflated)) > 60_000_000
    assert peak(lambda: np.zeros(64_000_000, np.uint8)) > 60_000_000


def zeros(size: int, codec: str) -> bytes:
    """Return so many of them, compressed."""
    if codec == "zlib":
        return zlib.compress(bytes(size))
    block: bytes = lz4.block.compress(bytes(size), store_size=False)
    return block


@pytest.mark.parametrize("codec", ["lz4", "zlib"])
def test_a_bomb_as_large_as_a_message_may_be_is_bounded(cloud: Cloud, codec: str) -> None:
    cloud.say("r1", STATE, *batches(1))
    message = changed(
        sequence=5,
        evaluation=1,
        shape=[4096, 6, 2, 2],
        codec=codec,
        data=zeros(4096 * 24 // 2, codec),
        labels=bytes(2 * 4096),
        samples=bytes(4 * 4096),
    )

    def send() -> None:
        cloud.publish("r1", "activations", message)
        cloud.work()

    assert peak(send) < 20_000_000
    assert cloud.figures().evaluated == 4096, "it is a valid message after all"


@pytest.mark.parametrize("codec", ["lz4", "zlib"])
def test_a_bomb_that_hides_its_size_is_bounded(cloud: Cloud, codec: str) -> None:
    cloud.say("r1", STATE, *batches(1))
    message = changed(sequence=5, codec=codec, data=zeros(200_000_000, codec))
    assert len(message) < RECEIVE_LIMIT_BYTES

    def send() -> None:
        cloud.publish("r1", "activations", message)
        cloud.work()

    assert peak(send) < 5_000_000
    assert cloud.figures().messages_rejected == 1
    assert cloud.figures().images == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"backbone": "vit_h_14", "cut": "encoder.layers.encoder_layer_0", "image_size": 224, "shape": (6, 257)},
            "its network takes 12.",
        ),
        ({"image_size": 4096, "shape": (6, 256, 256)}, "training it 59."),
        (
            {"backbone": "resnet18", "cut": "layer1", "image_size": 1600, "bottleneck": 1, "shape": (1, 400, 400)},
            "its network takes 0.23 GB and training it 44.",
        ),
        ({"backbone": "regnet_y_128gf", "cut": "trunk_output.block1", "shape": (6, 8, 8)}, "its network takes 12."),
        ({"backbone": "no\x85such".replace("\x85", "_")}, "unknown backbone"),
        ({"bottleneck": 4096, "shape": (4096, 32, 32)}, "a step of 64 samples of (4096, 32, 32) holds 268,435,456"),
    ],
)
def test_a_network_that_is_too_large_is_refused_without_building_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    cloud = start(batch=64)
    monkeypatch.setattr(
        cloud_trainer.session.session_start, "CloudSegment", lambda *_a, **_b: pytest.fail("it was built")
    )
    state = dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, **change))
    small = dataclasses.replace(make_batch(["cat"]), split=state.split.fingerprint)
    assert cloud.say("r1", state, small) == []
    assert reason in cloud.figures().quarantine


def test_names_that_are_none_are_nobody(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a" * 65, "no name", "..", "ö", "a\nb"):
        for channel in ("state", "activations", "metrics"):
            cloud.robots.publish(f"{topics.PREFIX}/robot/{name}/{channel}", pack(STATE))
    cloud.work()
    assert cloud.known == {}
    assert caplog.text.count("ignoring a message: topic") == 15
    assert outcomes(cloud.say("a" * 64, STATE, *batches(1))) == ["accepted"]


def test_classes_are_bounded(cloud: Cloud) -> None:
    names = [f"class {number}" for number in range(1001)]
    receipts = cloud.say("r1", STATE, make_batch(names[:600], sequence=0), make_batch(names[600:], sequence=1))
    receipts.sort(key=lambda one: one.sequence)  # what is refused waits for no commit
    assert outcomes(receipts) == ["accepted", "rejected"]
    assert receipts[1].reason == "1,001 classes, limit 1,000 (--most-classes)"
    assert outcomes(cloud.say("r1", make_batch(names[600:1000], sequence=2))) == ["accepted"]
    assert cloud.figures().classes == 1000


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e7"])
@pytest.mark.parametrize("field", ["low", "step"])
def test_ranges_that_are_not_finite_are_rejected(cloud: Cloud, field: str, value: str) -> None:
    cloud.say("r1", STATE, *batches(1))
    cloud.publish(
        "r1", "activations", changed(sequence=1, **{field: np.array([0, 0, float(value)] * 2, "<f4").tobytes()})
    )
    cloud.work()
    assert (cloud.figures().images, cloud.figures().messages_rejected) == (4, 1)
    assert outcomes(cloud.say("r1", *batches(1, first=1))) == ["accepted"]


@pytest.mark.parametrize("started", [0.0, 1e17])
def test_a_clock_that_is_far_off_does_not_matter(cloud: Cloud, started: float) -> None:
    state = dataclasses.replace(STATE, started=started)
    assert outcomes(cloud.say("r1", state, *batches(2))) == ["accepted"] * 2
    assert cloud.figures().images == 8


def test_old_messages_played_again_are_not_trained_on_again(cloud: Cloud) -> None:
    sent = batches(6)
    cloud.say("r1", STATE, *sent)
    before = cloud.figures()
    forget(cloud.store, "r1", 4)
    for _ in range(2):
        assert outcomes(cloud.say("r1", STATE, *sent)) == ["duplicate"] * 6
        assert cloud.figures() == before
        cloud.kill()
        cloud.start()
        cloud.say("r1", STATE)
        cloud.work()
        before = cloud.figures()


def test_who_sends_only_garbage_is_in_quarantine_until_it_sends_sense(cloud: Cloud) -> None:
    cloud.say("r1", STATE, *batches(1))
    for _ in range(REJECTIONS + 5):
        cloud.publish("r1", "activations", b"garbage")
    cloud.work()
    assert "not msgpack" in cloud.figures().quarantine
    assert cloud.figures().messages_rejected == REJECTIONS + 5
    assert cloud.say("r1", *batches(1, first=1)) == []
    assert outcomes(cloud.say("r2", STATE, *batches(1))) == ["accepted"]
    cloud.work(FIRST_SECONDS)
    assert outcomes(cloud.say("r1", *batches(1, first=1))) == ["accepted"]
    assert cloud.figures().images == 8


def test_garbage_on_any_topic_is_counted_and_stops_nothing(cloud: Cloud) -> None:
    good = batches(2)
    cloud.say("r1", STATE, good[0])
    garbage = [b"", b"garbage", b"\xff" * 100, b"{}", b"[1]", pack(good[1])[:-3], pack(STATE)[:50], pack(TRAINER)]
    channels: tuple[topics.Channel, ...] = ("state", "activations", "metrics")
    for channel in channels:
        for payload in garbage:
            cloud.publish("stranger", channel, payload)
            cloud.publish("r1", channel, payload)
        cloud.work(100)
    assert outcomes(cloud.say("r1", good[1])) == ["accepted"]
    summary = cloud.finish()
    assert summary["messages_rejected"] == len(garbage) * 5, "of a stranger, its metrics are not looked at"
    assert (summary["images"], list(summary["robots"])) == (8, ["r1"])


class Explosive(TinySegment):
    """A network in which large activations overflow, before its statistics are taken."""

    def __init__(self, split: SplitSpec, *, weights: Any) -> None:
        super().__init__(split, weights=weights)
        self.rest = nn.Sequential(Power(), self.rest)


class Power(nn.Module):
    def forward(self, activations: Tensor) -> Tensor:
        return activations**7


def test_activations_that_overflow_put_one_robot_in_quarantine_and_leave_all_networks_finite(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_trainer.session.session_start, "CloudSegment", Explosive)
    cloud = start()
    for robot in ("r1", "r2"):
        assert outcomes(cloud.say(robot, STATE, *batches(3))) == ["accepted"] * 3
    huge = np.full((4, *SPLIT.shape), 1e6, np.float32)
    huge[0] = -1e6
    (receipt,) = cloud.say("r1", make_batch(["cat", "dog"] * 2, values=huge, sequence=3))
    assert receipt.outcome == "accepted", "what was stored is receipted before it is trained on"
    assert "not listened to for 60 s: these activations give a loss of" in cloud.figures().quarantine
    assert is_finite(cloud.session("r1"))
    assert cloud.say("r1", *batches(1, first=4)) == []
    assert outcomes(cloud.say("r2", *batches(2, first=3))) == ["accepted"] * 2
    assert (cloud.figures("r1").images, cloud.figures("r2").images) == (12, 20)
    cloud.work(FIRST_SECONDS)
    assert outcomes(cloud.say("r1", *batches(2, first=4))) == ["accepted"] * 2
    assert (cloud.figures("r1").images, cloud.figures("r1").quarantine) == (20, "")
    assert is_finite(cloud.session("r1"))
    assert is_finite(cloud.session("r2"))


# With these seeds some robots get as far as training, and some into quarantine.
@pytest.mark.parametrize("seed", [4, 5])
def test_garbage_of_all_kinds_does_no_harm(seed: int, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    cloud = start(**fuzz.SETTINGS)
    assert peak(lambda: fuzz.run(cloud, 2400, seed=seed)) < 30_000_000
    assert sum(record.quarantine.rejected for record in cloud.known.values()) > 100
    trained = [name for name, record in cloud.known.items() if record.training.steps]
    assert len(trained) > 2, "the garbage is too bad to get anywhere"
    cloud.kill()
    cloud.start()
    cloud.work()
    fuzz.check(cloud, 10**6)
