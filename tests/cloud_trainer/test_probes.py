"""Probes: the link's are answered at once, networks timed between steps; neither garbage nor floods cost much."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
import torch

from broker import topics
from broker.codec import pack
from broker.messages import Probe, ProbeResult
from cloud_trainer import probes as probes_module
from cloud_trainer.probes import MOST_WAITING
from tests.cloud_trainer.fuzz import SPOILERS
from tests.cloud_trainer.world import SPLIT, STATE, Cloud, of

ROOM = 10**9


def make_probe(number: int = 0, **changes: object) -> Probe:
    probe = Probe(boot=STATE.boot, number=number, split=None, rest=b"\xff" * 100)
    return dataclasses.replace(probe, **changes)  # type: ignore[arg-type]


class Probing:
    """A trainer whose probing thread is this one."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.probes = cloud, cloud.node.probes
        self.probes._clock = cloud.clock.monotonic
        cloud.robots.subscribe(topics.topic("robot", topics.ANYONE, "probe-result"))

    def send(self, *probes: Probe) -> list[ProbeResult]:
        for probe in probes:
            self.cloud.publish("r1", "probe", pack(probe))
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
    assert probing.probes.time_next(ROOM)
    (result,) = probing.results()
    assert (result.number, result.samples, result.trouble) == (4, probing.cloud.config.batch, "")
    assert 0 < result.seconds < 60
    assert not probing.probes.time_next(ROOM)


def test_timing_leaves_the_random_numbers_of_training_alone(probing: Probing) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probing.send(make_probe(split=SPLIT))
    probing.probes.time_next(ROOM)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_of_the_time_is_left_for_training(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = probing.cloud.clock

    def slow(*_: object) -> float:
        clock.now += 3.0
        return 0.1

    monkeypatch.setattr(probing.probes, "_training_seconds", slow)
    probing.send(make_probe(0, split=SPLIT), make_probe(1, split=SPLIT))
    assert probing.probes.time_next(ROOM)
    assert not probing.probes.time_next(ROOM)
    clock.now += 3.0
    assert probing.probes.time_next(ROOM)


def test_a_flood_of_networks_is_dropped(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.probes, "_training_seconds", lambda *_: 0.1)
    probing.send(*(make_probe(number, split=SPLIT) for number in range(3 * MOST_WAITING)))
    assert sum(probing.probes.time_next(ROOM) for _ in range(3 * MOST_WAITING)) == MOST_WAITING


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
    probing.probes.time_next(room)
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
