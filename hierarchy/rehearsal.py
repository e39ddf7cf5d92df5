"""A bounded, class-balanced memory of samples to rehearse.

The robot keeps raw frames in it and the cloud keeps the quantized activations it was sent. Neither leaves its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
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
        largest = max(self._by_class, key=lambda name: len(self._by_class[name]))
        gone = _remove_random(self._by_class[largest], self._random)
        self._count -= 1
        self._drop_empty()
        return gone

    def draw(self, count: int) -> list[tuple[str, Sample]]:
        """Return ``count`` different samples with their class names, or all where there are fewer.

        Each draw takes the classes in turn, so that small classes are rehearsed as often as large ones.
        """
        left = {name: list(samples) for name, samples in self._by_class.items() if samples}
        drawn: list[tuple[str, Sample]] = []
        while left and len(drawn) < count:
            for name in self._random.sample(sorted(left), len(left)):
                if len(drawn) < count:
                    drawn.append((name, _remove_random(left[name], self._random)))
                if not left[name]:
                    del left[name]
        return drawn

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

    def forget_class(self, name: str) -> None:
        """Give up all samples of a class."""
        self._count -= len(self._by_class.pop(name, ()))

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
        version, numbers, gauss = self._random.getstate()
        return [version, list(numbers), gauss]

    def restore(self, samples: Iterable[tuple[str, Sample]], random_state: list[Any]) -> None:
        """Take over what `all` and `random_state` of another memory gave."""
        self._by_class.clear()
        for name, sample in samples:
            self._by_class.setdefault(name, []).append(sample)
        self._count = sum(len(its) for its in self._by_class.values())
        version, numbers, gauss = random_state
        self._random.setstate((version, tuple(numbers), gauss))


def _remove_random(samples: list[Sample], rng: random.Random) -> Sample:
    """Take a random sample out, in constant time: the last one fills its place."""
    place = rng.randrange(len(samples))
    samples[place], samples[-1] = samples[-1], samples[place]
    return samples.pop()
