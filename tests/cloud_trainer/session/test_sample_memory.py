from __future__ import annotations

import random
from collections import Counter
from dataclasses import astuple

import pytest

from cloud_trainer.session.sample_memory import SLACK, SPAN, SampleMemory, SampleRef
from tests.saved_state import read_again


def ref(sample: int, *, version: int = 0, event: int | None = None, session: int = 0) -> SampleRef:
    return SampleRef(event=sample if event is None else event, row=0, sample=sample, session=session, version=version)


def samples(memory: SampleMemory) -> dict[str, list[int]]:
    """The numbers of the samples in there, by class."""
    found: dict[str, list[int]] = {}
    for name, one in memory.draw(len(memory)):
        found.setdefault(name, []).append(one.sample)
    return {name: sorted(numbers) for name, numbers in sorted(found.items())}


def filled(count: int, limit: int = 1000) -> SampleMemory:
    memory = SampleMemory(limit, seed=0)
    for number in range(1, count + 1):
        memory.add("abc"[number % 3], ref(number, version=number // 8))
    return memory


def test_a_sample_that_comes_again_is_where_it_came_last() -> None:
    memory = SampleMemory(10, seed=0)
    memory.add("cat", ref(7, version=3, event=1))
    memory.add("cat", ref(7, version=9, event=2))
    ((name, held),) = memory.draw(5)
    assert (name, held.event, held.version, len(memory)) == ("cat", 2, 9, 1)


def test_of_two_activations_of_a_sample_the_newer_counts_whatever_comes_first() -> None:
    memory = SampleMemory(10, seed=0)
    memory.add("cat", ref(7, version=9, event=2))
    memory.add("cat", ref(7, version=3, event=1))
    assert [one.event for _, one in memory.draw(5)] == [2]


def test_samples_without_a_number_take_nobodys_place() -> None:
    memory = SampleMemory(10, seed=0)
    for event in range(3):
        memory.add("cat", ref(0, version=event, event=event))
    assert sorted(one.event for _, one in memory.draw(5)) == [0, 1, 2]


def test_what_an_older_segment_encoded_goes_when_newer_ones_of_its_class_have_come() -> None:
    memory = SampleMemory(100, seed=0)
    for number in range(1, 11):
        memory.add("cat", ref(number, version=0))
    memory.add("dog", ref(11, version=5))
    memory.add("cat", ref(1, version=SPAN))
    assert len(memory) == 11
    memory.add("cat", ref(2, version=SPAN + 1))
    assert samples(memory) == {"cat": [1, 2], "dog": [11]}, "of the dog there is nothing newer"
    memory.add("cat", ref(3, version=0))
    assert samples(memory)["cat"] == [1, 2], "it is too old to come back"


def test_what_is_old_goes_although_it_came_behind_what_is_newer() -> None:
    memory = SampleMemory(100, seed=0)
    for number, version in enumerate((5 * SPAN, 4 * SPAN + 20, 6 * SPAN - 1), start=1):
        memory.add("cat", ref(number, version=version))
    assert samples(memory) == {"cat": [1, 3]}


def test_a_full_memory_gives_up_the_oldest_of_its_largest_class() -> None:
    memory = SampleMemory(6, seed=0)
    for number in range(1, 5):
        memory.add("cat", ref(number, version=number))
    memory.add("cat", ref(1, version=5))
    for number in range(10, 14):
        memory.add("dog", ref(number, version=6))
    assert samples(memory) == {"cat": [1, 3, 4], "dog": [11, 12, 13]}


def test_where_there_are_fewer_places_than_classes_old_ones_keep_some_too() -> None:
    memory = SampleMemory(52, seed=0)
    for number in range(600):
        memory.add(str(number // 3), ref(number + 1))
    kept = [int(name) for name, count in memory.counts().items() if count]
    assert len(kept) == 52
    assert 2 <= sum(number < 100 for number in kept) <= 26


def test_none_is_kept_without_room() -> None:
    memory = SampleMemory(0, seed=0)
    memory.add("cat", ref(1))
    assert (len(memory), memory.draw(3), memory.oldest_event()) == (0, [], None)


def test_classes_are_drawn_in_turn() -> None:
    memory = SampleMemory(1000, seed=0)
    for number in range(1, 301):
        memory.add("cat", ref(number))
    memory.add("dog", ref(400))
    drawn = memory.draw(20)
    assert Counter(name for name, _ in drawn) == {"cat": 19, "dog": 1}
    assert len({one.sample for _, one in drawn}) == 20


@pytest.mark.parametrize("count", [0, 5, 300])
def test_a_restored_memory_goes_on_as_the_first(count: int) -> None:
    one, other = filled(count, limit=60), SampleMemory(60, seed=5)
    for number in range(1, count, 3):
        one.add("abc"[number % 3], ref(number, version=count))
    other.restore(read_again(one.state()))
    rng = random.Random(0)
    for number in range(400):
        again = rng.randrange(1, 500)
        for memory in (one, other):
            memory.add("abcd"[number % 4], ref(again, version=count + number))
        left, right = one.draw(4), other.draw(4)
        assert [(name, astuple(its)) for name, its in left] == [(name, astuple(its)) for name, its in right]
    assert samples(one) == samples(other)


def test_forgetting_by_event_by_session_and_by_class() -> None:
    memory = SampleMemory(100, seed=0)
    for number in range(1, 7):
        memory.add("cat" if number % 2 else "dog", ref(number, session=number // 4))
    memory.forget(lambda _, one: one.event <= 2)
    assert samples(memory) == {"cat": [3, 5], "dog": [4, 6]}
    memory.forget(lambda _, one: one.session == 1)
    assert samples(memory) == {"cat": [3]}
    memory.forget(lambda name, _: name == "cat")
    assert (samples(memory), len(memory), memory.counts()) == ({}, 0, {})
    memory.add("cat", ref(3))
    assert samples(memory) == {"cat": [3]}, "a forgotten sample may come again"


def test_a_renamed_class_and_a_merged_one() -> None:
    memory = filled(9)
    memory.rename("a", "d")
    assert samples(memory) == {"b": [1, 4, 7], "c": [2, 5, 8], "d": [3, 6, 9]}
    memory.rename("d", "b")
    memory.rename("no such", "b")
    assert memory.counts() == {"c": 3, "b": 6}
    memory.add("b", ref(3, version=5))
    assert len(memory) == 9, "it is known by its number under the other name as well"


def test_another_run_counts_its_samples_from_1_again() -> None:
    memory = filled(9)
    memory.begin_run()
    memory.add("a", ref(3, version=0, event=99))
    assert len(memory) == 10
    memory.add("a", ref(4, version=SPAN, event=100))
    assert sorted(one.event for name, one in memory.draw(99) if name == "a") == [99, 100]
    assert memory.counts() == {"a": 2, "b": 3, "c": 3}


def test_what_a_robot_sends_that_lost_its_last_steps_is_kept() -> None:
    memory = SampleMemory(100, seed=0)
    for number in range(1, 11):
        memory.add("cat", ref(number, version=5 * SPAN + number))
    memory.add("dog", ref(20, version=SPAN))
    memory.go_back(3 * SPAN)
    memory.add("cat", ref(11, version=3 * SPAN))
    memory.add("cat", ref(1, version=3 * SPAN + 1, event=99))
    assert samples(memory) == {"cat": [*range(1, 12)], "dog": [20]}
    assert {one.event for _, one in memory.draw(20) if one.sample == 1} == {99}, "it came as it is encoded now"
    memory.add("cat", ref(12, version=4 * SPAN + 1))
    assert samples(memory) == {"cat": [1, 12], "dog": [20]}, "what was there ages from then on"


def test_it_keeps_no_trace_of_what_was_superseded() -> None:
    """Each activation that comes again leaves a mark of its old age, which has to go in time."""
    memory = SampleMemory(50, seed=0)
    for step in range(3000):
        for number in range(1 + step % 10, 50, 10):
            memory.add("cat", ref(number, version=step))
    assert len(memory) == 49
    assert len(memory._classes["cat"].order) < 50 * (SPAN // 10 + 2)


def test_places_that_come_again_and_again_take_no_more_room() -> None:
    memory = SampleMemory(100, seed=0)
    memory.add("cat", ref(1))  # never again, so its entry stays in front of all others
    for version in range(1, SPAN + 1):
        for sample in (2, 3, 4):
            memory.add("cat", ref(sample, version=version))
    its = memory._classes["cat"]
    assert len(its.order) <= 2 * len(memory) + SLACK
    assert samples(memory) == {"cat": [1, 2, 3, 4]}
