from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from broker.wire import topics
from broker.wire.topics import MAX_WORKERS, Channel, topic
from cloud_trainer.shard import Shard, worker_of
from tests.cloud_trainer.world import STATE, Cloud, batches

Start = Callable[..., Cloud]

NAMES = ["r1", "r2", "r10", "007", "arm", "arm_left", "Z" * 64, "9" * 64, "-", "r1-2"]


def shard(number: int, workers: int = 2) -> Shard:
    return Shard(trainer="cloud", number=number, workers=workers)


def test_a_robots_worker_never_changes() -> None:
    """These numbers are on disks: with others, robots would not find their networks again."""
    assert [worker_of(name, 4) for name in NAMES] == [2, 3, 3, 3, 0, 0, 1, 3, 0, 1]


@pytest.mark.parametrize("workers", range(1, MAX_WORKERS + 1))
@pytest.mark.parametrize("channel", get_args(Channel))
def test_each_robot_is_heard_by_exactly_one_worker(workers: int, channel: Channel) -> None:
    shares = [shard(number, workers) for number in range(workers)]
    for name in NAMES:
        assert [one.wants(topic("robot", name, channel)) for one in shares].count(True) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_robots_that_are_numbered_are_shared_out_evenly(first: int) -> None:
    for workers in range(1, MAX_WORKERS + 1):
        counts = Counter(worker_of(f"robot-{first + number}", workers) for number in range(16))
        assert max(counts.values()) == -(-16 // workers)


def test_names_without_numbers_are_shared_out_by_chance() -> None:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefghij"), 8)) for _ in range(1000)]
    counts = Counter(worker_of(name, 4) for name in names)
    assert all(200 < count < 300 for count in counts.values()), counts


def test_a_worker_hears_trainers_but_not_its_siblings() -> None:
    heard = [
        name
        for name in ("cloud-0", "cloud-1", "cloud-2", "cloud", "other")
        if shard(1).wants(topic("trainer", name, "state"))
    ]
    assert heard == ["cloud-1", "cloud-2", "cloud", "other"], "cloud-2 is none of two"


def test_one_worker_complains_of_what_is_nobodys() -> None:
    assert [shard(number).wants("reflexarc/1/robot/two words/state") for number in range(2)] == [True, False]


def test_what_others_robots_send_is_neither_stored_nor_answered(start: Start) -> None:
    own, other = sorted(("r1", "r2"), key=lambda name: worker_of(name, 2))
    cloud = start(wanted=shard(0).wants)
    assert cloud.say(other, STATE, *batches(2)) == []
    assert len(cloud.say(own, STATE, *batches(2))) == 2
    assert cloud.store.robots() == [own]
    channels: tuple[Channel, ...] = ("ask", "probe")
    for channel in channels:
        for name in (own, other):
            cloud.publish(name, channel, b"")
        mailbox = cloud.link._inbox.own[topic("robot", topics.ANYONE, channel)]
        assert [getattr(mailbox.take(0), "topic", None) for _ in range(2)] == [topic("robot", own, channel), None]
