from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import cloud_trainer.session.batches
from broker.errors import StorageError
from broker.wire.quantize import unpack_activations
from cloud_trainer.replay import digest
from cloud_trainer.session.batches import InflatedBatch, KeptBatches
from hierarchy.runtime.checkpoint import tensors_of
from tests.cloud_trainer.world import STATE, Cloud, batches, database, make_batch, outcomes

ONE = InflatedBatch.of(make_batch(["cat", "dog"]))


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Count how often each batch is inflated."""
    counts: Counter[bytes] = Counter()

    def counted(packed: Any) -> Any:
        counts[packed.data] += 1
        return unpack_activations(packed)

    monkeypatch.setattr(cloud_trainer.session.batches, "unpack_activations", counted)
    return counts


def test_a_batch_is_inflated_once_on_its_way_into_the_weights(
    start: Callable[..., Cloud], inflated: Counter[bytes]
) -> None:
    cloud = start(practice=0.0)
    sent = [*batches(5), make_batch(["cat", "dog"] * 3, sequence=5, evaluation=1)]
    assert outcomes(cloud.say("r1", STATE, *sent)) == ["accepted"] * 6
    assert cloud.session().images == 20
    assert cloud.session().members["r1"].rounds.newest.count == 6
    assert list(inflated.values()) == [1] * 6


def test_without_room_for_any_the_weights_are_the_same(
    start: Callable[..., Cloud], inflated: Counter[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing = replace(STATE, rehearse=1.0)
    ends = []
    for name, room in (("kept", 10**6), ("read", 0)):
        monkeypatch.setattr(cloud_trainer.session.batches, "KEPT_BYTES", room)
        cloud = start(name)
        cloud.say("r1", rehearsing, *batches(8))
        ends.append(digest(tensors_of(cloud.session().checkpoint())))
    assert ends[0] == ends[1]


def test_what_the_disk_did_not_take_is_not_handed_over_under_another_events_number(
    start: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = start(practice=0.0)
    cloud.say("r1", STATE, *batches(1))

    def full() -> None:
        if database(cloud.store).in_transaction:
            database(cloud.store).execute("ROLLBACK")
            raise StorageError("the store cannot be written: disk full")

    with monkeypatch.context() as on_full_disk:
        on_full_disk.setattr(cloud.store, "commit", full)
        assert cloud.say("r1", *batches(4, first=1, size=40)) == []
    cloud.work(60)
    assert outcomes(cloud.say("r1", *batches(3, first=10))) == ["accepted"] * 3
    assert cloud.session().images == 16, "of the numbers that the larger ones had"


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_trainer.session.batches, "KEPT_BYTES", 3 * ONE.size)
    kept = KeptBatches()
    for event in range(1, 6):
        kept.keep("r1", event, ONE)
    assert [kept.take("r1", event) is ONE for event in range(1, 6)] == [True, True, True, False, False]
    kept.keep("r2", 7, ONE)
    kept.keep("r2", 8, ONE)
    assert kept.take("r2", 8) is ONE
    assert kept.take("r2", 7) is None, "it was passed over"
    for event in range(9, 12):
        kept.keep("r1", event, ONE)
    kept.drop("r1")
    assert kept.take("r1", 9) is None
    kept.keep("r2", 12, ONE)
    assert kept.take("r2", 12) is ONE, "what is dropped leaves its room"
