from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cloud_trainer.sequences import Range, join_ranges

ranges = st.lists(
    st.builds(
        lambda boot, first, length: (boot, first, first + length),
        st.sampled_from("ab"),
        st.integers(0, 60),
        st.integers(0, 8),
    ),
    max_size=30,
)


def covered(some: list[Range]) -> set[tuple[str, int]]:
    return {(boot, one) for boot, first, last in some for one in range(first, last + 1)}


@given(ranges)
def test_joined_ranges_hold_the_same_and_are_as_few_as_can_be(some: list[Range]) -> None:
    joined = join_ranges(some, 1000)
    assert covered(joined) == covered(some)
    assert joined == sorted(joined)
    for (boot, _, last), (its_boot, first, _) in pairwise(joined):
        assert boot != its_boot or first > last + 1


@given(ranges, st.integers(2, 6))
def test_ranges_are_bounded_and_what_came_still_counts_as_come(some: list[Range], most: int) -> None:
    joined = join_ranges(some, most)
    assert len(joined) <= most
    assert covered(joined) >= covered(some)
    assert len(joined) >= min(most, len(join_ranges(some, 1000))), "more is joined than must be"


def test_the_smallest_gaps_are_closed_first() -> None:
    some = [("a", 0, 1), ("a", 9, 9), ("a", 11, 12), ("a", 20, 20)]
    assert join_ranges(some, 3) == [("a", 0, 1), ("a", 9, 12), ("a", 20, 20)]


def test_of_too_many_boots_the_last_are_kept() -> None:
    assert join_ranges([(boot, 0, 0) for boot in "abc"], 2) == [("b", 0, 0), ("c", 0, 0)]
