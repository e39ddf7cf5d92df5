from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import NameTaken
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.bounds import SEND_LIMIT_BYTES
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import (
    AWAY_SECONDS,
    HEARTBEAT_SECONDS,
    ActivationBatch,
    ClassEdit,
    Message,
    Outcome,
    Probe,
    ProbeResult,
    Receipt,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.quantize import Quantized, dequantize, quantize, unpack_activations
from robot_edge.uplink.ledger import ClassCounts
from robot_edge.uplink.outbox import COMMIT_SECONDS, LIVE_SECONDS, Outbox
from robot_edge.uplink.outbox_tables import PAGE_BYTES
from robot_edge.uplink.pacing import FIRST_MESSAGES, RESEND_SECONDS
from robot_edge.uplink.presence import QUIET_SECONDS, will
from robot_edge.uplink.uplink import (
    FLOOD_REPORT_SECONDS,
    MAX_REASONS,
    SECONDS_OF_A_LINK_THAT_KEEPS_UP,
    UNTOLD_SECONDS,
    Uplink,
)
from tests.messages import robot_state, trainer_metrics

AnyMessage = TypeVar("AnyMessage")

SPLIT = SplitSpec(backbone="resnet18", cut="layer1", image_size=16, bits=8, bottleneck=2, shape=(2, 3, 3))
# 8,192 bytes a sample: at most 15 of them fit a message.
LARGE = dataclasses.replace(SPLIT, shape=(128, 8, 8))
STATE = robot_state(SPLIT, started=100.0)
TRAINER = TrainerState(boot="1" * 16, started=50.0, online=True, trouble="", metrics_by_robot=True)
TAKEOVER_SECONDS = 2.5 * HEARTBEAT_SECONDS


class ClockedLink(MemoryLink):
    """A link that looks at the test's clock, and can go silent without going down."""

    def __init__(self, broker: MemoryBroker, clock: Callable[[], float]) -> None:
        super().__init__(broker)
        self.silent = False
        self._clock = clock
        self.heard_at = clock()

    def offer(self, delivery: Delivery) -> None:
        if not self.silent:
            super().offer(dataclasses.replace(delivery, arrived=self._clock()))
            self.heard_at = self._clock()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        return True if self.silent else super().publish(topic, payload, qos=qos, retain=retain)

    def reconnect(self) -> None:
        super().reconnect()
        self.heard_at = self._clock()


class World:
    """A robot r1 at a broker in memory, and the cloud's end of that broker; nothing moves the clock but the test."""

    def __init__(self, folder: Path, state: RobotState = STATE, **settings: Any) -> None:
        self.now = 1000.0
        self.folder = folder
        self.settings = {"limit": 10_000_000, **settings}
        self.outboxes: list[Outbox] = []
        self.broker = MemoryBroker()
        self.cloud = MemoryLink(self.broker)
        self.cloud.subscribe(topics.topic("robot", topics.ANYONE, "state"))
        self.cloud.subscribe(topics.topic("robot", topics.ANYONE, "activations"))
        self.start(state)

    def start(self, state: RobotState) -> None:
        """Let a process of the robot begin, on the outbox of the one before."""
        if self.outboxes:
            self.outboxes[-1].close()
        self.outboxes.append(Outbox(self.folder / "outbox.db", boot=state.boot, **self.settings))
        self.link = ClockedLink(self.broker, lambda: self.now)
        self.state = state
        self.uplink = Uplink(self.link, "r1", state, self.outboxes[-1], clock=lambda: self.now)

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

    def receipt(
        self,
        sequence: int,
        outcome: Outcome = "accepted",
        boot: str = STATE.boot,
        reason: str = "",
        held: float = 0.0,
    ) -> None:
        """Let the trainer say what became of a message."""
        receipt = Receipt(boot=boot, sequence=sequence, outcome=outcome, reason=reason, held=held)
        self.cloud.publish(topics.topic("robot", "r1", "receipt"), pack(receipt))

    def pump(self, after: float = 2 * COMMIT_SECONDS) -> list[Message]:
        """Let the robot work after some seconds; return what it has published."""
        self.now += after
        self.uplink.pump()
        return self.heard()

    def heard(self) -> list[Message]:
        """Return what came to the cloud since."""
        return [unpack(delivery.payload) for delivery in iter(lambda: self.cloud.receive(0), None)]


class MakeWorld:
    """Makes worlds, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.made: list[World] = []
        self._folder = folder

    def __call__(self, state: RobotState = STATE, **settings: Any) -> World:
        folder = self._folder / str(len(self.made))
        folder.mkdir()
        self.made.append(World(folder, state, **settings))
        return self.made[-1]

    def joined(self, state: RobotState = STATE, **settings: Any) -> World:
        """A robot that has said its state to a trainer."""
        world = self(state, **settings)
        world.trainer()
        assert world.pump() == [state]
        return world


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Iterator[MakeWorld]:
    make = MakeWorld(tmp_path)
    yield make
    for world in make.made:
        for outbox in world.outboxes:
            outbox.close()


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


def test_it_says_what_it_waits_for(make: MakeWorld) -> None:
    world = make()
    world.link.connected, world.link.problem = False, "no broker at localhost:1883"
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
    assert not world.uplink.presence.trainer_online


def test_it_says_nothing_before_there_is_a_trainer_and_then_its_state_first(make: MakeWorld) -> None:
    world = make()
    send(world, 1)
    assert world.pump() == []
    world.trainer()
    state, batch = world.pump()
    assert state == STATE
    assert unpack_as(RobotState, world.broker.retained[topics.topic("robot", "r1", "state")]) == STATE
    assert isinstance(batch, ActivationBatch)


def test_its_state_is_said_again_as_a_heartbeat_and_on_every_connection(make: MakeWorld) -> None:
    world = make.joined()
    assert world.pump(HEARTBEAT_SECONDS - 1) == []
    assert world.pump(1) == [STATE]
    assert world.pump(1) == []
    world.reconnect()
    assert world.pump(1) == [STATE]


def test_its_state_says_which_edits_a_trainer_was_told_of(make: MakeWorld) -> None:
    world = make.joined()
    for name in ("cat", "dog"):
        world.uplink.send_edit("forget", name)
    assert [edit.number for edit in of(ClassEdit, world.pump())] == [1, 2]
    world.receipt(0)
    world.pump()
    (state,) = of(RobotState, world.pump(HEARTBEAT_SECONDS))
    assert state.edits == 1
    world.receipt(1)
    world.pump()
    world.trainer(dataclasses.replace(TRAINER, boot="2" * 16))
    (state,) = of(RobotState, world.pump())
    assert state.edits == 2, "another trainer hears of neither"


def test_another_trainer_that_leaves_stops_nothing(make: MakeWorld) -> None:
    world = make.joined()
    gone = dataclasses.replace(TRAINER, boot="2" * 16, online=False)
    world.cloud.publish(topics.topic("trainer", "t2", "state"), pack(gone), retain=True)
    world.pump()
    assert world.uplink.waits_for == ""


def test_the_window_bounds_what_is_on_the_way_and_receipts_free_it(make: MakeWorld) -> None:
    world = make.joined()
    send(world, FIRST_MESSAGES + 4)
    assert sequences(world.pump()) == list(range(FIRST_MESSAGES))
    assert sequences(world.pump()) == []
    for sequence in (3, 0, 5):
        world.receipt(sequence)
    assert sequences(world.pump(0.01)) == [], "between two commits nothing goes"
    # Now goodput is known: three messages in less than a second make room for more in a window of three.
    assert sequences(world.pump()) == list(range(FIRST_MESSAGES, FIRST_MESSAGES + 4))
    assert len(world.uplink.outbox) == FIRST_MESSAGES + 1


def test_receipts_of_others_and_for_nothing_free_nothing(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 2)
    world.receipt(0, boot="c" * 16)
    world.receipt(77)
    world.pump()
    assert len(world.uplink.outbox) == 2
    for _ in range(3):
        world.receipt(0, "duplicate")
    world.pump()
    assert len(world.uplink.outbox) == 1


def test_what_has_no_receipt_is_sent_again_in_time(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 2)
    first = of(ActivationBatch, world.pump())
    world.receipt(0)
    later = keep_alive(world, RESEND_SECONDS - 1)
    assert sequences(later) == []
    world.trainer()
    again = of(ActivationBatch, world.pump(1.5))
    assert [pack(batch) for batch in again] == [pack(first[1])]
    assert world.uplink.outbox.messages_made == 2


def keep_alive(world: World, seconds: float) -> list[Message]:
    """Let time pass while the trainer says every second that it is there; return what the robot has published."""
    said: list[Message] = []
    for _ in range(int(seconds)):
        world.trainer()
        said += world.pump(1.0)
    return said


def test_a_trainer_that_started_again_gets_all_at_once(make: MakeWorld) -> None:
    world = make.joined()
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


def test_an_outage_loses_nothing(make: MakeWorld) -> None:
    world = make.joined()
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


def test_after_an_outage_it_waits_for_the_trainer_to_be_there(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 1)
    world.link.connections += 1
    assert world.pump(1) == []
    assert world.uplink.waits_for.startswith("a cloud trainer")
    world.trainer()
    state, *batches = world.pump(1)
    assert state == STATE
    assert sequences(batches) == [0]


def test_rejections_are_counted_and_each_reason_is_logged_once(
    make: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make.joined()
    send(world, 3)
    world.pump()
    for sequence, reason in enumerate(["bad shape", "bad shape", "bad bits"]):
        world.receipt(sequence, "rejected", reason=reason)
    world.pump()
    assert world.uplink.outbox.messages_rejected == 3
    assert len(world.uplink.outbox) == 0
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["bad shape", "bad bits"]


def test_a_trainer_that_invents_reasons_does_not_fill_the_log(
    make: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make.joined()
    for number in range(MAX_REASONS + 10):
        send(world, 1)
        world.pump()
        world.receipt(number, "rejected", reason=f"reason {number}")
        world.pump()
    assert len(caplog.messages) == MAX_REASONS


@pytest.mark.parametrize("count", [1, 15, 16, 64])
def test_samples_are_cut_to_messages_that_fit_the_broker(make: MakeWorld, count: int) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    names = [f"class {index % 7}" for index in range(count)]
    quantized = sample(count, LARGE)
    world.uplink.send(quantized, names, progress=0.5, edge_version=9)
    payloads = [pack(batch) for batch in of(ActivationBatch, world.pump())]
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
    outbox = world.uplink.outbox
    assert outbox.messages_made == len(payloads)
    assert outbox.bytes_made == sum(map(len, payloads))
    assert {name: one.queued for name, one in outbox.counts().items()} == Counter(names)


def test_sequences_go_on_and_evaluations_are_not_counted_as_training(make: MakeWorld) -> None:
    world = make.joined()
    world.uplink.send(sample(2), ["cat", "dog"])
    world.uplink.send(sample(2), ["cat", "dog"], evaluation=1)
    world.uplink.send(sample(2), ["cat", "dog"])
    assert [(one.sequence, one.evaluation) for one in of(ActivationBatch, world.pump())] == [(0, 0), (1, 1), (2, 0)]
    assert world.uplink.outbox.messages_made == 2
    assert sum(one.queued for one in world.uplink.outbox.counts().values()) == 4


OTHER = dataclasses.replace(STATE, boot="a" * 16, started=90.0)


def test_a_live_robot_of_the_same_name_ends_it(make: MakeWorld) -> None:
    world = make()
    world.trainer()
    world.robot(OTHER)
    with pytest.raises(NameTaken, match=r"'r1' is online \(boot aaaa.*--robot"):
        world.pump()
    assert world.heard() == [], "it has spoken in the other's name"


def retained(make: MakeWorld, state: RobotState) -> World:
    """A world whose broker kept that state of a robot r1 from before."""
    world = make()
    world.robot(state)
    world.trainer()
    world.link.close()
    world.start(STATE)
    return world


def test_a_name_that_is_kept_without_a_sign_of_life_is_taken_over(
    make: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = retained(make, OTHER)
    assert world.pump() == []
    assert world.uplink.waits_for.startswith("the name 'r1'")
    assert world.pump(TAKEOVER_SECONDS) == []
    assert world.pump(0.1) == [STATE]
    assert world.uplink.waits_for == ""
    assert "taking the name over" in caplog.text


def test_a_sign_of_life_keeps_the_name(make: MakeWorld) -> None:
    world = retained(make, OTHER)
    world.pump()
    world.now += HEARTBEAT_SECONDS
    world.robot(OTHER)
    with pytest.raises(NameTaken):
        world.pump()


def test_a_robot_that_has_gone_leaves_its_name(make: MakeWorld) -> None:
    world = retained(make, dataclasses.replace(OTHER, online=False))
    assert world.pump() == [STATE]
    # ... also where its last will comes while we wait for it
    world = retained(make, OTHER)
    assert world.pump() == []
    world.robot(dataclasses.replace(OTHER, online=False))
    assert world.pump() == [STATE]


def test_of_two_robots_that_meet_later_the_older_one_stays(make: MakeWorld) -> None:
    world = make.joined()
    world.robot(dataclasses.replace(OTHER, started=110.0))
    assert world.pump() == [STATE], "the state that the younger one has overwritten is not said again"
    world.robot(OTHER)
    with pytest.raises(NameTaken):
        world.pump()


def test_its_own_state_is_no_namesake(make: MakeWorld) -> None:
    world = make.joined()
    world.pump(HEARTBEAT_SECONDS)
    world.robot(STATE)
    world.robot(dataclasses.replace(STATE, online=False))  # its own last will, after an outage
    assert world.pump() == []
    assert world.uplink.waits_for == ""


def test_what_cannot_be_read_is_passed_over(make: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world = make.joined()
    send(world, 1)
    world.pump()
    for topic in (
        topics.topic("robot", "r1", "receipt"),
        topics.topic("robot", "r1", "state"),
        topics.topic("trainer", "t1", "state"),
        topics.cloud_metrics_topic("r1", "no name!"),
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
    return trainer_metrics(boot, robot=robot, images=images, evaluated=8)


def tell(world: World, trainer: str, metrics: TrainerMetrics) -> None:
    world.cloud.publish(topics.cloud_metrics_topic("r1", trainer), pack(metrics))


def test_only_figures_of_this_robot_and_boot_are_its_own(make: MakeWorld) -> None:
    world = make.joined()
    own = figures("r1", STATE.boot, 64)
    for one in (own, figures("r2", STATE.boot, 1), figures("r1", "c" * 16, 2)):
        tell(world, "t1", one)
    world.pump()
    assert world.uplink.cloud_metrics == own


def test_figures_for_all_robots_are_read_where_a_trainer_of_before_is_there(make: MakeWorld) -> None:
    """Of N robots each would get what is for all N, so nobody reads them for nothing."""
    all_robots = topics.topic("trainer", "t1", "metrics")
    world = make.joined()
    first = figures("r1", STATE.boot, 64)
    tell(world, "t1", first)
    world.cloud.publish(all_robots, pack(dataclasses.replace(first, images=65)))
    world.pump()
    assert world.uplink.cloud_metrics == first
    for boot in ("2", "3"):  # twice, and it is asked for once
        world.trainer(dataclasses.replace(TRAINER, boot=boot * 16, metrics_by_robot=False))
        world.pump()
    own = figures("r1", STATE.boot, 96)
    for one in (figures("r2", STATE.boot, 1), own):
        world.cloud.publish(all_robots, pack(one))
    world.pump()
    assert world.uplink.cloud_metrics == own
    assert [topics.matches(one, all_robots) for one in world.link._inbox.filters].count(True) == 1


def test_a_trainer_that_takes_and_tells_nothing_is_wondered_at_once(
    make: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make.joined()
    send(world, 2)
    world.pump()
    world.pump(after=2 * UNTOLD_SECONDS)
    assert caplog.messages == [], "nothing was taken yet"
    for sequence in (0, 1):
        world.receipt(sequence)
        world.pump()
        world.pump(after=0.9 * UNTOLD_SECONDS)
        assert len(caplog.messages) == sequence
        world.pump(after=UNTOLD_SECONDS)
        assert ["`local-broker provision`" in line for line in caplog.messages] == [True]


def test_a_trainer_that_tells_something_is_not_wondered_at(make: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world = make.joined()
    send(world, 1)
    world.pump()
    world.receipt(0)
    tell(world, "t1", figures("r1", STATE.boot, 64))
    world.pump()
    world.pump(after=2 * UNTOLD_SECONDS)
    assert caplog.messages == []


def slow_link(world: World, rate: float) -> None:
    """Let so many bytes a second be carried for a while, by receipts that come when they may."""
    for _ in range(40):
        world.uplink.send(sample(4, world.state.split), ["cat"] * 4)
        for batch in of(ActivationBatch, world.pump()):
            world.now += len(pack(batch)) / rate
            world.trainer()
            world.receipt(batch.sequence)
            world.uplink.pump()
    world.heard()


def test_messages_get_smaller_on_a_slow_link(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    assert world.uplink.pace.goodput is None
    slow_link(world, rate=20_000)
    assert world.uplink.pace.goodput == pytest.approx(20_000, rel=0.2)
    before = world.uplink.outbox.messages_made
    world.uplink.send(sample(15, LARGE), ["cat"] * 15)
    assert world.uplink.outbox.messages_made == before + 4, "of four samples each, 33 kB"


def test_a_slow_link_is_behind_with_far_fewer_messages(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    slow_link(world, rate=20_000)
    behind = [world.uplink.is_behind]
    for _ in range(10):
        world.uplink.send(sample(4, LARGE), ["cat"] * 4)
        behind.append(world.uplink.is_behind)
    assert 4 <= behind.index(True) <= 8, "messages of 33 kB, where the link carries 200 kB in ten seconds"
    assert behind == sorted(behind)


def test_small_messages_are_behind_by_the_time_that_they_need_on_the_link(make: MakeWorld) -> None:
    world = make.joined()
    slow_link(world, rate=500)
    goodput, outbox = world.uplink.pace.goodput, world.uplink.outbox
    assert goodput is not None
    before = outbox.bytes_made
    while not world.uplink.is_behind:
        send(world, 1)
    message = (outbox.bytes_made - before) / len(outbox)
    carried = SECONDS_OF_A_LINK_THAT_KEEPS_UP * goodput // message
    assert len(outbox) == carried + 1, "however many pages they take on disk"


def test_on_the_slowest_link_a_message_holds_one_sample(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    slow_link(world, rate=2_000)
    before = world.uplink.outbox.messages_made
    world.uplink.send(sample(3, LARGE), ["cat"] * 3)
    assert world.uplink.outbox.messages_made == before + 3


def test_a_robot_that_is_busy_for_seconds_has_no_slow_link(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    for _ in range(20):
        world.uplink.send(sample(8, LARGE), ["cat"] * 8)
        (batch,) = of(ActivationBatch, world.pump())
        world.now += 0.5
        world.trainer()
        world.receipt(batch.sequence)
        world.now += 4.5  # a step of training
    world.pump()
    assert world.uplink.pace.goodput == pytest.approx(8 * 8192 / 0.5, rel=0.2)


def test_behind_a_trainer_that_is_busy_for_seconds_there_is_no_slow_link(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    for _ in range(20):
        world.uplink.send(sample(8, LARGE), ["cat"] * 8)
        (batch,) = of(ActivationBatch, world.pump())
        world.now += 0.5
        world.now += 4.5  # a step of training
        world.trainer()
        world.receipt(batch.sequence, held=4.5)
        world.pump()
    assert world.uplink.pace.goodput == pytest.approx(8 * 8192 / 0.5, rel=0.2)
    for _ in range(3):
        world.uplink.send(sample(8, LARGE), ["cat"] * 8)
    world.pump()
    assert not world.uplink.is_behind


def test_a_trainer_that_falls_silent_is_away(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 1)
    world.pump()
    world.pump(AWAY_SECONDS - 1)
    assert world.uplink.waits_for == ""
    world.pump(2)
    assert world.uplink.waits_for.startswith("a cloud trainer")
    send(world, 1)
    assert sequences(world.pump()) == []
    world.trainer()  # the same process, awake again
    state, *batches = world.pump()
    assert state == STATE
    assert sequences(batches) == [0, 1]


def test_its_heart_beats_on_while_the_trainer_is_away(make: MakeWorld) -> None:
    world = make.joined()
    said = [world.pump(1.0) for _ in range(60)]
    assert world.uplink.waits_for.startswith("a cloud trainer")
    assert [one for one in said if one] == [[STATE]] * (60 // int(HEARTBEAT_SECONDS))


def test_a_trainer_in_trouble_gets_nothing_until_it_is_out_of_it(make: MakeWorld) -> None:
    world = make.joined()
    world.trainer(dataclasses.replace(TRAINER, trouble="its disk is full"))
    send(world, 1)
    assert world.pump() == []
    assert world.uplink.waits_for == "the cloud trainer (its disk is full)"
    world.trainer()
    assert sequences(world.pump()) == [0]


def test_of_several_trainers_the_one_that_trains_it_must_be_well(make: MakeWorld) -> None:
    world = make.joined()
    troubled = pack(dataclasses.replace(TRAINER, boot="2" * 16, trouble="its disk is full"))
    world.cloud.publish(topics.topic("trainer", "t2", "state"), troubled)
    send(world, 1)
    assert sequences(world.pump()) == [0], "it may be the other one's robot"
    tell(world, "t2", figures("r1", STATE.boot, 64))
    world.pump()
    send(world, 1)
    assert world.pump() == []
    assert world.uplink.waits_for == "the cloud trainer (its disk is full)"
    world.cloud.publish(topics.topic("trainer", "t2", "state"), pack(dataclasses.replace(TRAINER, online=False)))
    assert sequences(world.pump()) == [1], "t1 may be there in its place"


def test_a_trainer_that_comes_beside_its_own_is_no_reason_to_send_again(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 1)
    assert sequences(world.pump()) == [0]
    other = pack(dataclasses.replace(TRAINER, boot="2" * 16))
    world.cloud.publish(topics.topic("trainer", "t2", "state"), other)
    assert sequences(world.pump()) == [0], "t1 may not be its own"
    tell(world, "t1", figures("r1", STATE.boot, 64))
    world.pump()
    world.cloud.publish(topics.topic("trainer", "t3", "state"), other)
    assert sequences(world.pump()) == []
    world.trainer(dataclasses.replace(TRAINER, boot="3" * 16))
    assert sequences(world.pump()) == [0], "its own has started anew"


def test_a_quarantine_is_said_once_and_shown(make: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world = make.joined()
    own = dataclasses.replace(figures("r1", STATE.boot, 64), quarantine="20 bad messages")
    for one in (own, dataclasses.replace(own, images=65), dataclasses.replace(own, robot="r2", quarantine="other")):
        tell(world, "t1", one)
    world.pump()
    assert world.uplink.quarantine == "20 bad messages"
    assert caplog.messages == ["the trainer takes nothing from this robot for now: 20 bad messages"]


def test_that_it_is_apart_from_its_fleet_is_said_once(make: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world = make.joined()
    own = dataclasses.replace(figures("r1", STATE.boot, 64), apart="r7 has another front")
    for one in (own, dataclasses.replace(own, images=65), dataclasses.replace(own, images=66, apart="")):
        tell(world, "t1", one)
    world.pump()
    assert caplog.messages == ["the cloud's half is not all of the fleet's: r7 has another front"]


def test_a_link_that_is_silent_is_dialled_again(make: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world = make.joined()
    world.link.silent = True
    for _ in range(int(AWAY_SECONDS) + 6):
        world.trainer()  # in vain
        world.pump(1.0)
    assert world.link.connections == 2
    assert "connecting again" in caplog.text
    for _ in range(10):
        world.pump(1.0)
    assert world.link.connections == 2, "it does not give the new connection time"


def test_a_robot_that_was_held_up_itself_takes_the_broker_for_no_less_than_it_is(make: MakeWorld) -> None:
    world = make.joined()
    world.link.silent = True  # nothing comes in while a step takes a minute
    world.pump(3 * AWAY_SECONDS)
    assert world.link.connections == 1
    world.link.silent = False
    for _ in range(int(2 * AWAY_SECONDS)):
        world.pump(1.0)
    assert world.link.connections == 1


def test_while_only_the_trainer_is_gone_the_link_is_left_alone(make: MakeWorld) -> None:
    world = make.joined()
    for _ in range(120):
        world.pump(1.0)
    assert world.link.connections == 1


def test_a_robot_that_was_killed_sends_what_its_former_process_left(make: MakeWorld) -> None:
    world = make.joined()
    send(world, 3)
    world.pump()
    world.receipt(1)
    world.pump()
    world.robot(dataclasses.replace(STATE, online=False))  # its last will
    world.link.close()
    again = dataclasses.replace(STATE, boot="e" * 16, started=200.0, weights="checkpoint")
    world.start(again)
    world.uplink.send(sample(), ["dog"], position=99)
    state, *batches = world.pump()
    assert state == again
    assert [(one.boot, one.sequence) for one in of(ActivationBatch, batches)] == [
        (STATE.boot, 0),
        (STATE.boot, 2),
        (again.boot, 0),
    ]
    world.receipt(2)
    world.receipt(0, "rejected", boot=again.boot, reason="no")
    world.pump()
    counts = world.uplink.outbox.counts()
    assert counts["cat"] == ClassCounts(taken=3, queued=1, receipted=2, rejected=0, dropped=0)
    assert counts["dog"] == ClassCounts(taken=1, queued=0, receipted=0, rejected=1, dropped=0)
    assert world.uplink.outbox.messages_rejected == 1
    assert world.uplink.outbox.position == 99


def test_it_says_goodbye_if_it_has_said_hello(make: MakeWorld) -> None:
    gone = dataclasses.replace(STATE, online=False)
    topic, payload = will("r1", STATE)
    assert (topic, unpack(payload)) == (topics.topic("robot", "r1", "state"), gone)
    world = make.joined()
    world.uplink.close()
    assert world.heard() == [gone]
    world = make()
    world.uplink.close()
    assert world.heard() == []


def test_a_broker_that_has_withdrawn_our_rights_is_not_taken_for_a_missing_trainer(make: MakeWorld) -> None:
    world = make.joined()
    for _ in range(int(HEARTBEAT_SECONDS)):
        world.pump(1.0)
    world.link.silent = True
    said: list[str] = []
    while world.link.connections == 1:
        world.pump(1.0)
        said.append(world.uplink.waits_for)
    missing = "the broker (connected, but it passes nothing on: perhaps it refuses us access by now)"
    assert list(dict.fromkeys(said[:-1])) == ["", missing]


def test_a_trainer_that_is_gone_is_not_taken_for_withdrawn_rights(make: MakeWorld) -> None:
    world = make.joined()
    world.trainer(dataclasses.replace(TRAINER, online=False))
    for _ in range(int(4 * QUIET_SECONDS)):
        world.pump(1.0)
        assert world.uplink.waits_for.startswith("a cloud trainer")


def test_samples_travel_with_their_numbers_and_count_once(make: MakeWorld) -> None:
    world = make.joined(dataclasses.replace(STATE, split=LARGE))
    names = [f"class {index % 3}" for index in range(20)]
    world.uplink.send(sample(20, LARGE), names, samples=list(range(70_000, 70_020)), session=4)
    world.uplink.send(sample(2, LARGE), ["class 0", "class 1"], samples=[70_001, 5], again=True)
    world.uplink.send(sample(1, LARGE), ["class 0"], evaluation=1)
    batches = of(ActivationBatch, world.pump())
    assert [batch.samples.tolist() for batch in batches] == [
        list(range(70_000, 70_010)),
        list(range(70_010, 70_020)),
        [70_001, 5],
        [0],
    ]
    assert [(batch.again, batch.session) for batch in batches] == [(False, 4), (False, 4), (True, 0), (False, 0)]
    outbox = world.uplink.outbox
    assert sum(one.queued for one in outbox.counts().values()) == 20, "what comes again was counted before"
    assert outbox.bytes_made == sum(len(pack(batch)) for batch in batches[:3]), "its bytes are training's all the same"


def test_a_small_outbox_full_of_what_went_up_before_has_room_for_what_is_new(make: MakeWorld) -> None:
    world = make(when_full="balanced", limit=10 * PAGE_BYTES)
    for count, again in ((12, True), (8, False)):
        for _ in range(count):
            world.uplink.send(sample(), ["cat"], samples=[7], again=again)
        world.pump()
    assert world.uplink.outbox.counts()["cat"] == ClassCounts(taken=8, queued=8, receipted=0, rejected=0, dropped=0)
    world.pump(LIVE_SECONDS + 1)
    world.trainer()
    assert [batch.again for batch in of(ActivationBatch, world.pump())] == [False] * 8 + [True] * 2


def test_numbers_run_over_after_four_billion_samples(make: MakeWorld) -> None:
    world = make.joined()
    world.uplink.send(sample(2), ["cat", "dog"], samples=[2**32 - 1, 2**32 + 7])
    (batch,) = of(ActivationBatch, world.pump())
    assert batch.samples.tolist() == [2**32 - 1, 7]


class LimitedLink(ClockedLink):
    """A broker that lets nothing larger than ``most`` through: it ends the connection, or only says nothing."""

    most, ends = 20_000, True

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if self.connected and len(payload) > self.most:
            self.connected = not self.ends
            return True
        return super().publish(topic, payload, qos=qos, retain=retain)


@pytest.mark.parametrize("ends", [True, False])
def test_a_broker_that_takes_less_gets_smaller_messages(
    make: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: bool
) -> None:
    split = dataclasses.replace(SPLIT, shape=(64, 16, 16), bits=8)
    monkeypatch.setattr(LimitedLink, "ends", ends)
    monkeypatch.setitem(globals(), "ClockedLink", LimitedLink)
    world = make.joined(dataclasses.replace(STATE, split=split))
    world.cloud.subscribe(topics.topic("robot", "r1", "probe"))
    names = [f"class {number % 3}" for number in range(12)]
    world.uplink.send(sample(12, split), names, samples=range(1, 13), position=12)
    trained: Counter[str] = Counter()
    for _ in range(200):
        if not world.link.connected:
            world.reconnect()
        world.trainer()
        for message in world.pump(1.0):
            if isinstance(message, Probe):
                result = ProbeResult(boot=message.boot, number=message.number, seconds=0.0, samples=0, trouble="")
                world.cloud.publish(topics.topic("robot", "r1", "probe-result"), pack(result))
            elif isinstance(message, ActivationBatch):
                trained.update(message.names)
                world.receipt(message.sequence)
    assert trained == Counter(names)
    assert len(world.uplink.outbox) == 0
    counts = world.uplink.outbox.counts()
    assert {name: (one.taken, one.receipted) for name, one in counts.items()} == dict.fromkeys(names, (4, 4))
    assert "the broker lets no message of" in caplog.text
    assert "max_packet_size" in caplog.text
    assert world.link.connected


def test_a_sample_that_no_message_can_hold_waits_and_is_named(
    make: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LimitedLink, "most", 10_000)
    monkeypatch.setitem(globals(), "ClockedLink", LimitedLink)
    split = dataclasses.replace(SPLIT, shape=(64, 16, 16), bits=8)
    world = make.joined(dataclasses.replace(STATE, split=split))
    world.uplink.send(sample(1, split), ["cat"])
    for _ in range(60):
        if not world.link.connected:
            world.reconnect()
        world.trainer()
        world.pump(1.0)
    assert world.link.connected, "it does not go on breaking the connection"
    assert len(world.uplink.outbox) == 1
    assert caplog.text.count("one sample takes") == 1


class FloodedLink(ClockedLink):
    """A link at which garbage comes faster than anybody reads it."""

    def receive(self, timeout: float) -> Delivery | None:
        for channel in ("command", "receipt", "state", "probe-result"):
            for _ in range(2):
                self.offer(Delivery(f"{topics.PREFIX}/robot/r1/{channel}", b"\xff garbage", retained=False))
        self.offer(Delivery(f"{topics.PREFIX}/trainer/x/state", b"\xff garbage", retained=False))
        return super().receive(timeout)


def test_a_flood_ends_no_turn_and_displaces_only_what_comes_under_the_same_topic(
    make: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make.joined()
    world.now += 10.0
    world.trainer()
    world.link.__class__ = FloodedLink
    for _ in range(3):
        world.pump()  # it comes back at all
    world.now += FLOOD_REPORT_SECONDS
    world.pump()
    assert "messages on reflexarc/1/robot/r1/command dropped unread" in caplog.text
    assert "messages on strangers dropped unread" in caplog.text
    world.now += AWAY_SECONDS - 15.0
    assert world.uplink.presence.trainer_online, "its heartbeat did not wait behind the flood"
