from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from broker import topics
from broker.codec import SEND_LIMIT_BYTES, pack, unpack, unpack_as
from broker.errors import NameTaken
from broker.link import MemoryBroker, MemoryLink
from broker.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    Message,
    Outcome,
    Receipt,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from broker.quantize import Quantized, dequantize, quantize, unpack_activations
from robot_edge.outbox import RESEND_AFTER_SECONDS
from robot_edge.uplink import GOODPUT_SECONDS, MOST_REASONS, WINDOW, Uplink, will

AnyMessage = TypeVar("AnyMessage")

SPLIT = SplitSpec(backbone="resnet18", cut="layer1", image_size=16, bits=8, bottleneck=2, shape=(2, 3, 3))
# 8,192 bytes a sample: at most 15 of them fit a message.
LARGE = dataclasses.replace(SPLIT, shape=(128, 8, 8))
STATE = RobotState(boot="b" * 16, started=100.0, online=True, split=SPLIT, weights="none", rehearse=0.0)
TRAINER = TrainerState(boot="1" * 16, started=50.0, online=True, trouble="")
TAKEOVER_SECONDS = 2.5 * HEARTBEAT_SECONDS


class World:
    """A robot r1 at a broker in memory, and the cloud's end of that broker; nothing moves the clock but the test."""

    def __init__(self, state: RobotState = STATE) -> None:
        self.now = 1000.0
        self.broker = MemoryBroker()
        self.cloud = MemoryLink(self.broker)
        self.cloud.subscribe(topics.topic("robot", topics.ANYONE, "state"))
        self.cloud.subscribe(topics.topic("robot", topics.ANYONE, "activations"))
        self.link = MemoryLink(self.broker)
        self.state = state
        self.uplink = Uplink(self.link, "r1", state, clock=lambda: self.now)

    def reconnect(self) -> None:
        """Bring the link up anew; the broker then says again what it has retained."""
        self.link.connected = True
        self.link.connections += 1
        self.trainer()

    def trainer(self, state: TrainerState = TRAINER) -> None:
        """Let a trainer say its state."""
        self.cloud.publish(topics.topic("trainer", "t1", "state"), pack(state), retain=True)

    def robot(self, state: RobotState) -> None:
        """Let another robot of the same name say its state."""
        self.cloud.publish(topics.topic("robot", "r1", "state"), pack(state), retain=True)
        self.heard()

    def receipt(self, sequence: int, outcome: Outcome = "accepted", boot: str = STATE.boot, reason: str = "") -> None:
        """Let the trainer say what became of a message."""
        receipt = Receipt(boot=boot, sequence=sequence, outcome=outcome, reason=reason)
        self.cloud.publish(topics.topic("robot", "r1", "receipt"), pack(receipt))

    def pump(self, after: float = 0.0) -> list[Message]:
        """Let the robot work after some seconds; return what it has published."""
        self.now += after
        self.uplink.pump()
        return self.heard()

    def heard(self) -> list[Message]:
        """Return what came to the cloud since."""
        return [unpack(delivery.payload) for delivery in iter(lambda: self.cloud.receive(0), None)]


def joined(state: RobotState = STATE) -> World:
    """A robot that has said its state to a trainer."""
    world = World(state)
    world.trainer()
    assert world.pump() == [state]
    return world


def values(count: int, split: SplitSpec = SPLIT) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, *split.shape)).astype(np.float32)


def sample(count: int = 1, split: SplitSpec = SPLIT) -> Quantized:
    return quantize(values(count, split), split.bits)


def of(kind: type[AnyMessage], messages: Sequence[Message]) -> list[AnyMessage]:
    return [message for message in messages if isinstance(message, kind)]


def sequences(messages: Sequence[Message]) -> list[int]:
    return [batch.sequence for batch in of(ActivationBatch, messages)]


def send(world: World, count: int) -> None:
    """Send so many messages of one sample."""
    for _ in range(count):
        world.uplink.send(sample(), ["cat"])


def test_it_says_what_it_waits_for() -> None:
    world = World()
    world.link.connected, world.link.trouble = False, "no broker at localhost:1883"
    assert world.uplink.waits_for == "the broker (no broker at localhost:1883)"
    world.link.connected = True
    assert world.uplink.waits_for.startswith("a cloud trainer")
    world.trainer(dataclasses.replace(TRAINER, online=False))
    world.pump()
    assert world.uplink.waits_for.startswith("a cloud trainer")
    world.trainer()
    world.pump()
    assert world.uplink.waits_for == ""
    world.link.connected = False
    assert world.uplink.waits_for.startswith("the broker")
    assert not world.uplink.trainer_online


def test_it_says_nothing_before_there_is_a_trainer_and_then_its_state_first() -> None:
    world = World()
    send(world, 1)
    assert world.pump() == []
    world.trainer()
    state, batch = world.pump()
    assert state == STATE
    assert unpack_as(RobotState, world.broker.retained[topics.topic("robot", "r1", "state")]) == STATE
    assert isinstance(batch, ActivationBatch)


def test_its_state_is_said_again_as_a_heartbeat_and_on_every_connection() -> None:
    world = joined()
    assert world.pump(HEARTBEAT_SECONDS - 1) == []
    assert world.pump(1) == [STATE]
    assert world.pump(1) == []
    world.reconnect()
    assert world.pump(1) == [STATE]


def test_another_trainer_that_leaves_stops_nothing() -> None:
    world = joined()
    gone = dataclasses.replace(TRAINER, boot="2" * 16, online=False)
    world.cloud.publish(topics.topic("trainer", "t2", "state"), pack(gone), retain=True)
    world.pump()
    assert world.uplink.waits_for == ""


def test_the_window_bounds_what_is_on_the_way_and_receipts_free_it() -> None:
    world = joined()
    send(world, WINDOW + 4)
    assert sequences(world.pump()) == list(range(WINDOW))
    assert sequences(world.pump()) == []
    for sequence in (3, 0, 5):
        world.receipt(sequence)
    assert sequences(world.pump()) == [WINDOW, WINDOW + 1, WINDOW + 2]
    assert len(world.uplink.outbox) == WINDOW + 1


def test_receipts_of_others_and_for_nothing_free_nothing() -> None:
    world = joined()
    send(world, 2)
    world.receipt(0, boot="c" * 16)
    world.receipt(77)
    world.pump()
    assert len(world.uplink.outbox) == 2
    for _ in range(3):
        world.receipt(0, "duplicate")
    world.pump()
    assert len(world.uplink.outbox) == 1


def test_what_has_no_receipt_is_sent_again_in_time() -> None:
    world = joined()
    send(world, 2)
    first = of(ActivationBatch, world.pump())
    world.receipt(0)
    assert sequences(world.pump(RESEND_AFTER_SECONDS)) == []
    again = of(ActivationBatch, world.pump(0.1))
    assert [pack(batch) for batch in again] == [pack(first[1])]
    assert world.uplink.messages_sent == 2


def test_a_trainer_that_started_again_gets_all_at_once() -> None:
    world = joined()
    send(world, 2)
    world.pump()
    world.trainer()  # its heartbeat
    assert sequences(world.pump(1)) == []
    world.trainer(dataclasses.replace(TRAINER, online=False))  # its last will
    assert sequences(world.pump(1)) == []
    world.trainer(dataclasses.replace(TRAINER, boot="2" * 16))
    state, *batches = world.pump(1)
    assert state == STATE, "a new trainer must know whose activations come"
    assert sequences(batches) == [0, 1]


def test_an_outage_loses_nothing() -> None:
    world = joined()
    world.link.connected = False
    send(world, 3)
    assert world.pump(1) == []
    assert len(world.uplink.outbox) == 3
    world.reconnect()
    state, *batches = world.pump(1)
    assert state == STATE
    assert sequences(batches) == [0, 1, 2]
    # What was on the way when the link broke may have reached nobody.
    world.link.connected = False
    world.receipt(1)  # comes in vain
    world.pump(1)
    world.reconnect()
    assert sequences(world.pump(1)) == [0, 1, 2]


def test_after_an_outage_it_waits_for_the_trainer_to_be_there() -> None:
    world = joined()
    send(world, 1)
    world.link.connections += 1
    assert world.pump(1) == []
    assert world.uplink.waits_for.startswith("a cloud trainer")
    world.trainer()
    state, *batches = world.pump(1)
    assert state == STATE
    assert sequences(batches) == [0]


def test_rejections_are_counted_and_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    world = joined()
    send(world, 3)
    world.pump()
    for sequence, reason in enumerate(["bad shape", "bad shape", "bad bits"]):
        world.receipt(sequence, "rejected", reason=reason)
    world.pump()
    assert world.uplink.messages_rejected == 3
    assert len(world.uplink.outbox) == 0
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["bad shape", "bad bits"]


def test_a_trainer_that_invents_reasons_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = joined()
    for number in range(MOST_REASONS + 10):
        send(world, 1)
        world.receipt(number, "rejected", reason=f"reason {number}")
        world.pump()
    assert len(caplog.messages) == MOST_REASONS


@pytest.mark.parametrize("count", [1, 15, 16, 64])
def test_samples_are_cut_to_messages_that_fit_the_broker(count: int) -> None:
    world = joined(dataclasses.replace(STATE, split=LARGE))
    names = [f"class {index % 7}" for index in range(count)]
    quantized = sample(count, LARGE)
    world.uplink.send(quantized, names, progress=0.5, edge_version=9)
    payloads = [payload for _, payload in world.uplink.outbox.due(world.now)]
    assert len(payloads) == -(-count // 15)
    assert max(map(len, payloads)) <= SEND_LIMIT_BYTES
    batches = [unpack_as(ActivationBatch, payload) for payload in payloads]
    assert [batch.sequence for batch in batches] == list(range(len(batches)))
    assert [name for batch in batches for name in batch.names] == names
    received = np.concatenate([dequantize(unpack_activations(batch.activations)) for batch in batches])
    assert np.array_equal(received, dequantize(quantized))
    for batch in batches:
        assert set(batch.classes) == set(batch.names), "classes that do not occur travel along"
        assert (batch.boot, batch.split, batch.evaluation) == (STATE.boot, LARGE.fingerprint, 0)
        assert (batch.progress, batch.edge_version) == (0.5, 9)
    assert world.uplink.messages_sent == len(payloads)
    assert world.uplink.bytes_sent == sum(map(len, payloads))
    assert world.uplink.outbox.samples_held == count


def test_sequences_go_on_and_evaluations_are_not_counted_as_training() -> None:
    world = joined()
    world.uplink.send(sample(2), ["cat", "dog"])
    world.uplink.send(sample(2), ["cat", "dog"], evaluation=1)
    world.uplink.send(sample(2), ["cat", "dog"])
    assert [(one.sequence, one.evaluation) for one in of(ActivationBatch, world.pump())] == [(0, 0), (1, 1), (2, 0)]
    assert world.uplink.messages_sent == 2
    assert world.uplink.outbox.samples_held == 4


def test_it_is_full_when_the_trainer_is_too_slow() -> None:
    world = World()
    world.uplink = Uplink(world.link, "r1", STATE, outbox_bytes=1000)
    while not world.uplink.outbox.full:
        send(world, 1)
    assert 1000 <= world.uplink.outbox.bytes_held < 2000


OTHER = dataclasses.replace(STATE, boot="a" * 16, started=90.0)


def test_a_live_robot_of_the_same_name_ends_it() -> None:
    world = World()
    world.trainer()
    world.robot(OTHER)
    with pytest.raises(NameTaken, match=r"'r1' is online \(boot aaaa.*--robot"):
        world.pump()
    assert world.heard() == [], "it has spoken in the other's name"


def retained(state: RobotState) -> World:
    """A world whose broker kept that state of a robot r1 from before."""
    world = World()
    world.robot(state)
    world.trainer()
    world.link.close()
    world.link = MemoryLink(world.broker)
    world.uplink = Uplink(world.link, "r1", STATE, clock=lambda: world.now)
    return world


def test_a_name_that_is_kept_without_a_sign_of_life_is_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    world = retained(OTHER)
    assert world.pump() == []
    assert world.uplink.waits_for.startswith("the name 'r1'")
    assert world.pump(TAKEOVER_SECONDS) == []
    assert world.pump(0.1) == [STATE]
    assert world.uplink.waits_for == ""
    assert "taking the name over" in caplog.text


def test_a_sign_of_life_keeps_the_name() -> None:
    world = retained(OTHER)
    world.pump()
    world.now += HEARTBEAT_SECONDS
    world.robot(OTHER)
    with pytest.raises(NameTaken):
        world.pump()


def test_a_robot_that_has_gone_leaves_its_name() -> None:
    world = retained(dataclasses.replace(OTHER, online=False))
    assert world.pump() == [STATE]
    # ... also where its last will comes while we wait for it
    world = retained(OTHER)
    assert world.pump() == []
    world.robot(dataclasses.replace(OTHER, online=False))
    assert world.pump() == [STATE]


def test_of_two_robots_that_meet_later_the_older_one_stays() -> None:
    world = joined()
    world.robot(dataclasses.replace(OTHER, started=110.0))
    assert world.pump() == [STATE], "the state that the younger one has overwritten is not said again"
    world.robot(OTHER)
    with pytest.raises(NameTaken):
        world.pump()


def test_its_own_state_is_no_namesake() -> None:
    world = joined()
    world.pump(HEARTBEAT_SECONDS)
    world.robot(STATE)
    world.robot(dataclasses.replace(STATE, online=False))  # its own last will, after an outage
    assert world.pump() == []
    assert world.uplink.waits_for == ""


def test_what_cannot_be_read_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    world = joined()
    send(world, 1)
    for topic in (
        topics.topic("robot", "r1", "receipt"),
        topics.topic("robot", "r1", "state"),
        topics.topic("trainer", "t1", "state"),
        topics.topic("trainer", "no name!", "metrics"),
    ):
        for payload in (b"", b"garbage", b"{}", pack(TRAINER)[:-1], pack(STATE)[:20]):
            world.cloud.publish(topic, payload)
    world.receipt(0)
    world.uplink.pump()
    assert len(world.uplink.outbox) == 0
    assert world.uplink.waits_for == ""
    assert len(caplog.records) == 20
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def figures(robot: str, boot: str, images: int) -> TrainerMetrics:
    return TrainerMetrics(
        robot=robot,
        boot=boot,
        images=images,
        classes=2,
        cloud_loss=None,
        cloud_prequential=None,
        cloud_recent=None,
        cloud_accuracy=0.5,
        evaluation=1,
        evaluated=8,
        messages_trained=1,
        messages_waiting=0,
        quarantine="",
        messages_rejected=0,
    )


def test_only_figures_of_this_robot_and_boot_are_its_own() -> None:
    world = joined()
    own = figures("r1", STATE.boot, 64)
    for one in (own, figures("r2", STATE.boot, 1), figures("r1", "c" * 16, 2)):
        world.cloud.publish(topics.topic("trainer", "t1", "metrics"), pack(one))
    world.pump()
    assert world.uplink.figures == own


def test_goodput_is_what_was_receipted_in_the_last_seconds() -> None:
    world = joined()
    assert world.uplink.goodput == 0
    send(world, 2)
    world.pump()
    size = world.uplink.bytes_sent / 2
    world.receipt(0)
    world.pump()
    world.receipt(1)
    world.pump(3.0)
    assert world.uplink.goodput == pytest.approx(2 * size / GOODPUT_SECONDS)
    world.now += GOODPUT_SECONDS - 1
    assert world.uplink.goodput == pytest.approx(size / GOODPUT_SECONDS)
    world.now += 2
    assert world.uplink.goodput == 0


def test_it_says_goodbye_if_it_has_said_hello() -> None:
    gone = dataclasses.replace(STATE, online=False)
    topic, payload = will("r1", STATE)
    assert (topic, unpack(payload)) == (topics.topic("robot", "r1", "state"), gone)
    world = joined()
    world.uplink.close()
    assert world.heard() == [gone]
    world = World()
    world.uplink.close()
    assert world.heard() == []
