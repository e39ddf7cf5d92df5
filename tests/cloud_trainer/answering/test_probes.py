"""Probes: the link's are answered at once, networks timed between steps; neither garbage nor floods cost much."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
import torch

from broker.errors import MalformedMessage
from broker.link.inbox import Delivery
from broker.link.mailbox import FairMailbox, Lane
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Probe, ProbeResult
from cloud_trainer.answering import probes as probes_module
from cloud_trainer.answering.probes import MAX_WAITING
from tests.cloud_trainer.fuzz import SPOILERS
from tests.cloud_trainer.world import SPLIT, STATE, Cloud, of

ROOM = 10**9


def make_probe(number: int = 0, **changes: object) -> Probe:
    probe = Probe(boot=STATE.boot, number=number, split=None, rest=b"\xff" * 100)
    return dataclasses.replace(probe, **changes)  # type: ignore[arg-type]


class Probing:
    """A trainer whose probing thread is this one."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.probes = cloud, cloud.training.probes
        self.probes._clock = cloud.clock.monotonic
        cloud.robots.subscribe(topics.topic("robot", topics.ANYONE, "probe-result"))

    def send(self, *probes: Probe, robot: str = "r1") -> list[ProbeResult]:
        for probe in probes:
            self.cloud.publish(robot, "probe", pack(probe))
            self.probes.work(timeout=0)
        return self.results()

    def results(self) -> list[ProbeResult]:
        return of(ProbeResult, list(self.cloud._answers()))


@pytest.fixture(name="probing")
def _probing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Probing:
    monkeypatch.setattr(probes_module, "TIMING_SECONDS", 0.0)
    return Probing(cloud)


def test_the_links_probes_are_answered_at_once(probing: Probing) -> None:
    results = probing.send(make_probe(0), make_probe(1, rest=b""))
    assert results == [
        ProbeResult(boot=STATE.boot, number=number, seconds=0.0, samples=0, trouble="") for number in (0, 1)
    ]


def test_a_network_is_timed_by_the_main_thread(probing: Probing) -> None:
    assert probing.send(make_probe(4, split=SPLIT)) == []
    assert probing.probes.time_next(ROOM, training=True)
    (result,) = probing.results()
    assert (result.number, result.samples, result.trouble) == (4, probing.cloud.config.batch, "")
    assert 0 < result.seconds < 60
    assert not probing.probes.time_next(ROOM, training=True)


def test_timing_leaves_the_random_numbers_of_training_alone(probing: Probing) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probing.send(make_probe(split=SPLIT))
    probing.probes.time_next(ROOM, training=True)
    assert probing.results()[0].samples
    assert torch.equal(torch.get_rng_state(), before)


def test_half_of_the_time_is_left_for_those_that_train(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = probing.cloud.clock

    def slow(*_: object) -> float:
        clock.now += 3.0
        return 0.1

    monkeypatch.setattr(probing.probes, "_training_seconds", slow)
    probing.send(make_probe(0, split=SPLIT))
    assert probing.probes.time_next(ROOM, training=True)
    probing.send(make_probe(1, split=SPLIT))
    assert not probing.probes.time_next(ROOM, training=True)
    assert probing.probes.time_next(ROOM, training=False), "where nobody trains there is nothing to wait for"
    probing.send(make_probe(2, split=SPLIT))
    clock.now += 3.0
    assert probing.probes.time_next(ROOM, training=True)


def test_one_network_of_each_robot_waits_the_last_that_it_asked_for(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing.probes, "_training_seconds", lambda *_: 0.1)
    assert probing.send(*(make_probe(number, split=SPLIT) for number in range(50))) == []
    assert probing.probes.time_next(ROOM, training=False)
    assert not probing.probes.time_next(ROOM, training=False)
    assert [result.number for result in probing.results()] == [49]


def test_more_robots_than_can_wait_are_told_so(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.probes, "_training_seconds", lambda *_: 0.1)
    for number in range(MAX_WAITING):
        assert probing.send(make_probe(split=SPLIT), robot=f"r{number}") == []
    (result,) = probing.send(make_probe(split=SPLIT), robot="late")
    assert "try again" in result.trouble
    assert sum(probing.probes.time_next(ROOM, training=False) for _ in range(2 * MAX_WAITING)) == MAX_WAITING


def test_who_asks_again_is_told_the_same(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.probes, "_training_seconds", lambda *_: 0.1)
    probing.send(make_probe(7, split=SPLIT))
    probing.probes.time_next(ROOM, training=False)
    (first,) = probing.results()
    assert probing.send(make_probe(7, split=SPLIT)) == [first]
    assert not probing.probes.time_next(ROOM, training=False)


def test_a_robot_that_is_not_listened_to_is_not_answered(probing: Probing) -> None:
    probing.send(make_probe(split=SPLIT))
    assert not probing.probes.time_next(ROOM, training=False, may_ask=lambda robot: robot != "r1")
    assert probing.results() == []


def test_a_probe_that_the_broker_kept_is_not_answered(probing: Probing) -> None:
    topic = topics.topic("robot", "r1", "probe")
    assert isinstance(probing.probes._mailbox, FairMailbox)
    probing.probes._mailbox.put(Delivery(topic, pack(make_probe()), retained=True), Lane(topic, topic))
    probing.probes.work(timeout=0)
    assert probing.results() == []


# Zeros alone, normalised twice, have no variance: their gradient was infinite, and that ended the trainer.
EFFICIENTNET = dataclasses.replace(SPLIT, backbone="efficientnet_b0", cut="features.3", bottleneck=0, shape=(40, 4, 4))


def test_a_network_that_normalises_all_it_is_given_is_timed(probing: Probing) -> None:
    probing.send(make_probe(split=EFFICIENTNET))
    assert probing.probes.time_next(ROOM, training=False)
    (result,) = probing.results()
    assert (result.trouble, result.samples) == ("", probing.cloud.config.batch)


@pytest.mark.parametrize("error", [MalformedMessage("bad"), RuntimeError("no room"), MemoryError(), ValueError("?")])
def test_whatever_goes_wrong_is_the_robots_trouble(
    probing: Probing, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> float:
        raise error

    monkeypatch.setattr(probing.probes, "_training_seconds", fails)
    probing.send(make_probe(split=SPLIT))
    assert probing.probes.time_next(ROOM, training=False)
    (result,) = probing.results()
    assert result.trouble
    assert result.samples == 0


@pytest.mark.parametrize(
    ("split", "room", "trouble"),
    [
        (SPLIT, 1000, "--networks-gb"),
        (dataclasses.replace(SPLIT, backbone="resnet9000"), ROOM, "resnet9000"),
        (dataclasses.replace(SPLIT, shape=(3, 8, 8)), ROOM, "gives"),
    ],
)
def test_what_cannot_be_timed_is_said(probing: Probing, split: object, room: int, trouble: str) -> None:
    probing.send(make_probe(split=split))
    probing.probes.time_next(room, training=True)
    (result,) = probing.results()
    assert trouble in result.trouble
    assert (result.seconds, result.samples) == (0.0, 0)


@pytest.mark.parametrize("spoil", SPOILERS)
def test_garbage_is_ignored(probing: Probing, spoil: Callable[[bytes, random.Random], bytes]) -> None:
    for seed in range(20):
        payload = spoil(pack(make_probe(split=SPLIT)), random.Random(seed))
        probing.cloud.publish("r1", "probe", payload)
        probing.probes.work(timeout=0)
    assert probing.send(make_probe(9))[-1].number == 9
