"""A bounded, class-balanced memory of samples to rehearse, and the draw that both ends rehearse by."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

Sample = TypeVar("Sample")


class BalancedMemory(Generic[Sample]):
    """Holds at most ``limit`` samples. A full one gives up a random sample of its largest class for each new one.

    So classes end up equally large whatever their order and number (Prabhu et al., "GDumb", 2020).
    """

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self._random = random.Random(seed)
        self._by_class: dict[str, list[Sample]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, sample: Sample) -> Sample | None:
        """Keep a sample of the class of that name; return the one that goes for it, if one has to."""
        if self.limit <= 0:
            return sample
        samples = self._by_class.setdefault(name, [])
        samples.append(sample)
        self._count += 1
        if self._count <= self.limit:
            return None
        gone = _remove_random(self._by_class[largest_class(self.counts(), self._random)], self._random)
        self._count -= 1
        self._drop_empty()
        return gone

    def draw(self, count: int) -> list[tuple[str, Sample]]:
        """Return ``count`` different samples with their class names, or all where there are fewer.

        Each draw takes the classes in turn, so that small classes are rehearsed as often as large ones.
        """
        return draw_in_turn(self._by_class, count, self._random)

    def forget(self, gone: Callable[[Sample], bool]) -> None:
        """Give up the samples that are gone."""
        for samples in self._by_class.values():
            samples[:] = [sample for sample in samples if not gone(sample)]
        self._count = sum(len(samples) for samples in self._by_class.values())
        self._drop_empty()

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, which may be that of another class."""
        if old != new and old in self._by_class:
            self._by_class.setdefault(new, []).extend(self._by_class.pop(old))

    def counts(self) -> dict[str, int]:
        """Return how many samples there are of each class."""
        return {name: len(samples) for name, samples in self._by_class.items()}

    def _drop_empty(self) -> None:
        """Leave no class without samples: `restore` cannot know of it, and among equal classes their order decides."""
        for name in [name for name, samples in self._by_class.items() if not samples]:
            del self._by_class[name]

    def all(self) -> list[tuple[str, Sample]]:
        """Return every sample with its class name."""
        return [(name, sample) for name, samples in self._by_class.items() for sample in samples]

    def random_state(self) -> list[Any]:
        """Return the state of the random numbers, as JSON can hold it; with `all` it is the state of the memory."""
        return random_state(self._random)

    def restore(self, samples: Iterable[tuple[str, Sample]], state: list[Any]) -> None:
        """Take over what `all` and `random_state` of another memory gave."""
        self._by_class.clear()
        for name, sample in samples:
            self._by_class.setdefault(name, []).append(sample)
        self._count = sum(len(its) for its in self._by_class.values())
        restore_random_state(self._random, state)


def largest_class(counts: Mapping[str, int], rng: random.Random) -> str:
    """Return the class that has most samples, a random one of those that have.

    Where there are more classes than places, all have one or none: always the first of them would be all the old ones.
    """
    most = max(counts.values())
    return rng.choice([name for name, count in counts.items() if count == most])


def draw_in_turn(by_class: Mapping[str, Sequence[Sample]], count: int, rng: random.Random) -> list[tuple[str, Sample]]:
    """Return ``count`` different samples with their class names, or all where there are fewer, the classes in turn.

    So whatever part of them comes first is balanced, too. It takes as long as the samples are many that it returns,
    however many there are.
    """
    turns: list[str] = []
    chosen: dict[str, int] = {}
    left = min(count, sum(len(samples) for samples in by_class.values()))
    while left:
        open_ones = sorted(name for name, samples in by_class.items() if chosen.get(name, 0) < len(samples))
        for name in rng.sample(open_ones, min(left, len(open_ones))):
            turns.append(name)
            chosen[name] = chosen.get(name, 0) + 1
            left -= 1
    samples = {name: iter(rng.sample(by_class[name], times)) for name, times in chosen.items()}
    return [(name, next(samples[name])) for name in turns]


def random_state(rng: random.Random) -> list[Any]:
    """Return the state of random numbers, as JSON can hold it."""
    version, numbers, gauss = rng.getstate()
    return [version, list(numbers), gauss]


def restore_random_state(rng: random.Random, state: list[Any]) -> None:
    """Go on from a state."""
    version, numbers, gauss = state
    rng.setstate((version, tuple(numbers), gauss))


def _remove_random(samples: list[Sample], rng: random.Random) -> Sample:
    """Take a random sample out, in constant time: the last one fills its place."""
    place = rng.randrange(len(samples))
    samples[place], samples[-1] = samples[-1], samples[place]
    return samples.pop()
