from __future__ import annotations

import json
from collections import Counter

import pytest

from hierarchy.rehearsal import BalancedMemory


def filled(limit: int, **counts: int) -> BalancedMemory[int]:
    """Add so many samples of each class, one class after the other; a sample is its number in its class."""
    memory: BalancedMemory[int] = BalancedMemory(limit, seed=0)
    for name, count in counts.items():
        for number in range(count):
            memory.add(name, number)
    return memory


def sizes(pairs: list[tuple[str, int]]) -> Counter[str]:
    return Counter(name for name, _ in pairs)


@pytest.mark.parametrize("limit", [1, 7, 30])
def test_it_never_holds_more_than_its_limit(limit: int) -> None:
    memory: BalancedMemory[int] = BalancedMemory(limit, seed=0)
    for number in range(3 * limit):
        memory.add("abc"[number % 3], number)
        assert len(memory) == len(memory.all()) == min(number + 1, limit)


def test_it_says_which_sample_goes() -> None:
    memory: BalancedMemory[int] = BalancedMemory(7, seed=0)
    gone = [memory.add("abc"[number % 3], number) for number in range(30)]
    assert gone[:7] == [None] * 7
    left = {number for _, number in memory.all()}
    assert {number for number in gone if number is not None} == set(range(30)) - left


@pytest.mark.parametrize("limit", [0, -1])
def test_without_room_it_holds_nothing(limit: int) -> None:
    memory = filled(limit, cat=5)
    assert len(memory) == 0
    assert memory.add("cat", 5) == 5
    assert memory.draw(3) == []


def test_classes_end_up_equally_large_whatever_their_order_and_number() -> None:
    assert sizes(filled(30, cat=1000, dog=10, ant=200).all()) == {"cat": 10, "dog": 10, "ant": 10}


def test_a_small_class_keeps_all_it_has() -> None:
    memory = filled(30, cat=1000, dog=4, ant=200)
    assert sizes(memory.all()) == {"cat": 13, "dog": 4, "ant": 13}
    assert sorted(number for name, number in memory.all() if name == "dog") == [0, 1, 2, 3]


def test_where_there_are_fewer_places_than_classes_old_ones_keep_some_too() -> None:
    kept = [int(name) for name, _ in filled(52, **{str(number): 3 for number in range(200)}).all()]
    assert len(set(kept)) == 52
    assert 2 <= sum(number < 100 for number in kept) <= 26, "an old class had to be lucky oftener"


def test_what_stays_is_a_mix_of_old_and_new() -> None:
    kept = [number for _, number in filled(100, cat=1000).all()]
    # A new sample is not more likely to go than the oldest one, so those that stay are mostly of the last few hundred.
    assert min(kept) < 900
    assert max(kept) >= 990


def test_a_draw_repeats_no_sample() -> None:
    memory = filled(100, cat=50, dog=50)
    for _ in range(20):
        drawn = memory.draw(60)
        assert len(set(drawn)) == len(drawn) == 60
    assert len(memory) == 100


def test_whatever_comes_first_of_a_draw_is_balanced_too() -> None:
    names = [name for name, _ in filled(99, ant=33, cat=33, dog=33).draw(60)]
    for start in range(0, 60, 3):
        assert sorted(names[start : start + 3]) == ["ant", "cat", "dog"]


def test_a_draw_of_more_than_there_is_returns_all() -> None:
    memory = filled(100, cat=3, dog=2)
    assert sorted(memory.draw(10)) == sorted(memory.all())


def test_small_classes_are_drawn_as_often_as_large_ones() -> None:
    memory = filled(1000, cat=900, dog=10, ant=10)
    assert sizes(memory.draw(30)) == {"cat": 10, "dog": 10, "ant": 10}
    assert sizes(memory.draw(60)) == {"cat": 40, "dog": 10, "ant": 10}  # small ones are used up
    # Where a draw does not go round evenly, no class is preferred for its name or place.
    first = Counter(memory.draw(1)[0][0] for _ in range(300))
    assert min(first[name] for name in ("cat", "dog", "ant")) > 60


def test_a_seed_repeats_what_is_kept_and_drawn() -> None:
    one, other = filled(20, cat=50, dog=50), filled(20, cat=50, dog=50)
    assert one.all() == other.all()
    assert one.draw(10) == other.draw(10)


def test_a_restored_memory_goes_on_as_the_first() -> None:
    one: BalancedMemory[int] = BalancedMemory(10, seed=1)
    for number in range(30):
        one.add("odd" if number % 2 else "even", number)
    other: BalancedMemory[int] = BalancedMemory(10, seed=2)
    other.restore(one.all(), json.loads(json.dumps(one.random_state())))
    assert len(other) == 10
    for number in range(30, 40):
        for memory in (one, other):
            memory.add("third", number)
        assert one.draw(5) == other.draw(5)
