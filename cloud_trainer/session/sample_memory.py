"""What the cloud rehearses from: where the newest activation of each sample is in the log. No I/O."""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from hierarchy.rehearsal import draw_in_turn, largest_class, random_state, restore_random_state

# An activation is rehearsed until the robot's segment has taken so many steps more for another one of its class. What
# an older segment encoded is worth less than nothing: docs/results/edge-choices.md.
SPAN = 100
# Entries of places as they were before, beside as many as there are places.
SLACK = 64
# Of a robot's number of a sample, as on the wire.
SAMPLE_BITS = 32


@dataclass(slots=True, eq=False)
class SampleRef:
    """Where a sample's activation is in the log: the event that is its batch, and its row in there.

    sample: the robot's number of it, 0 for none. session: of teaching. version: of the segment that encoded it. member:
    the robot's number among those whose samples are here.
    """

    event: int
    row: int
    sample: int
    session: int
    version: int
    member: int = 0

    @property
    def name(self) -> tuple[int, int]:
        """What no other sample is called, where it has a number."""
        return self.member, self.sample

    def pack(self) -> tuple[int, ...]:
        """Return five numbers. A robot's number of a sample has 32 bits; those above them are the robot's own."""
        return self.event, self.row, self.member << SAMPLE_BITS | self.sample, self.session, self.version

    @classmethod
    def unpack(cls, event: int, row: int, sample: int, session: int, version: int) -> SampleRef:
        """Return what such numbers say."""
        member = sample >> SAMPLE_BITS
        return cls(event, row, sample - (member << SAMPLE_BITS), session, version, member)


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryState:
    """All that a memory needs to go on.

    refs: int64 (N, 7), a packed SampleRef, its slot and the index of its class in each row. newest: version by class.
    random: of the random numbers.
    """

    refs: Tensor
    newest: dict[str, int]
    random: list[Any]


@dataclass(slots=True)
class _OneClass:
    """Places of one class, to be drawn at random from ``places`` and let go of from the oldest one on."""

    refs: list[SampleRef] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)  # where each place is in there, by its identity
    order: deque[tuple[int, SampleRef]] = field(default_factory=deque)  # by their versions when they came
    newest: int = -1

    def add(self, ref: SampleRef) -> None:
        self.slots[id(ref)] = len(self.refs)
        self.refs.append(ref)
        self.note(ref)

    def go_back(self, version: int) -> None:
        """Let nothing count as encoded by a newer segment than that one."""
        refs = self.in_order()
        self.order.clear()
        self.newest = min(self.newest, version)
        for ref in refs:
            ref.version = min(ref.version, version)
            self.note(ref)

    def note(self, ref: SampleRef) -> None:
        """Note a place as it is now. Most are the newest; messages may overtake one another."""
        entry = ref.version, ref
        if self.order and self.order[-1][0] > ref.version:
            insort(self.order, entry, key=itemgetter(0))
        else:
            self.order.append(entry)
        self.newest = max(self.newest, ref.version)
        if len(self.order) > 2 * len(self.refs) + SLACK:  # places that came again and again
            self.order = deque(one for one in self.order if self._is_as_it_came(*one))

    def oldest(self) -> SampleRef:
        """Return the place that the oldest segment encoded, of those the one that came first."""
        while not self._is_as_it_came(*self.order[0]):
            self.order.popleft()
        return self.order[0][1]

    def remove(self, ref: SampleRef) -> None:
        """Let go of a place in constant time: the last one fills its slot."""
        slot, last = self.slots.pop(id(ref)), self.refs.pop()
        if last is not ref:
            self.refs[slot] = last
            self.slots[id(last)] = slot

    def in_order(self) -> list[SampleRef]:
        """Return every place, the oldest first."""
        return [ref for version, ref in self.order if self._is_as_it_came(version, ref)]

    def _is_as_it_came(self, version: int, ref: SampleRef) -> bool:
        return id(ref) in self.slots and ref.version == version


class SampleMemory:
    """Holds at most ``limit`` places. A full one gives up the oldest of its largest class for each new one."""

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self._random = random.Random(seed)
        self._classes: dict[str, _OneClass] = {}
        self._numbered: dict[tuple[int, int], tuple[str, SampleRef]] = {}  # by their names
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def counts(self) -> dict[str, int]:
        """Return how many places there are of each class."""
        return {name: len(its.refs) for name, its in self._classes.items()}

    def add(self, name: str, ref: SampleRef) -> None:
        """Keep where a sample is, in place of where it was, unless a newer segment had encoded it there."""
        if self.limit <= 0:
            return
        name, held = self._numbered.get(ref.name, (name, None)) if ref.sample else (name, None)
        its = self._classes.setdefault(name, _OneClass())
        if held is not None and ref.version > held.version:
            held.event, held.row, held.version = ref.event, ref.row, ref.version
            its.note(held)
        elif held is None and ref.version >= its.newest - SPAN:
            its.add(ref)
            self._count += 1
            if ref.sample:
                self._numbered[ref.name] = (name, ref)
        while its.refs and its.oldest().version < its.newest - SPAN:
            self._remove(its, its.oldest())
        if self._count > self.limit:
            largest = self._classes[largest_class(self.counts(), self._random)]
            self._remove(largest, largest.oldest())

    def draw(self, count: int) -> list[tuple[str, SampleRef]]:
        """Return ``count`` different places with their class names, or all where there are fewer, classes in turn."""
        return draw_in_turn({name: its.refs for name, its in self._classes.items()}, count, self._random)

    def all(self) -> list[tuple[str, SampleRef]]:
        """Return every place with its class name."""
        return [(name, ref) for name, its in self._classes.items() for ref in its.refs]

    def oldest_event(self) -> int | None:
        """Return the first event that something in here refers to; None where nothing does."""
        return min((ref.event for its in self._classes.values() for ref in its.refs), default=None)

    def forget(self, gone: Callable[[str, SampleRef], bool]) -> None:
        """Give up the places that are gone, by their class names and themselves."""
        for name, its in self._classes.items():
            for ref in [one for one in its.refs if gone(name, one)]:
                self._remove(its, ref)
        # Among equal classes their order decides which gives one up, so leave none without places.
        self._classes = {name: its for name, its in self._classes.items() if its.refs}

    def rename(self, old: str, new: str, member: int = 0) -> None:
        """Give a robot's samples of a class another name, which may be that of another class."""
        if old == new or old not in self._classes:
            return
        former = self._classes[old].in_order()
        moved = [one for one in former if one.member == member]
        if former and not moved:
            return
        del self._classes[old]
        if stay := [one for one in former if one.member != member]:
            self._classes[old] = _filled(stay)
        both = [*moved, *self._classes.pop(new, _OneClass()).in_order()]
        self._classes[new] = _filled(sorted(both, key=lambda one: one.version))
        for ref in moved:
            if ref.sample:
                self._numbered[ref.name] = (new, ref)

    def begin_run(self, member: int = 0) -> None:
        """Keep a robot's samples beside what another run of it will send, which counts everything from 1 again."""
        self.go_back(-1)
        self._numbered = {name: its for name, its in self._numbered.items() if name[0] != member}
        for its in self._classes.values():
            for ref in its.refs:
                if ref.member == member:
                    ref.sample, ref.session = 0, 0

    def go_back(self, version: int) -> None:
        """Let nothing count as newer than that: the robot was killed, and its segment has lost the steps behind it.

        Else what it sends from then on would be too old to be kept, until it has caught up.
        """
        for its in self._classes.values():
            if its.newest > version:
                its.go_back(version)

    def state(self) -> MemoryState:
        """Return what a checkpoint must hold."""
        rows = [
            (*ref.pack(), its.slots[id(ref)], index)
            for index, its in enumerate(self._classes.values())
            for ref in its.in_order()
        ]
        newest = {name: its.newest for name, its in self._classes.items()}
        refs = torch.tensor(rows, dtype=torch.int64).reshape(-1, 7)
        return MemoryState(refs=refs, newest=newest, random=random_state(self._random))

    def restore(self, state: MemoryState) -> None:
        """Go on from a state."""
        rows, names = state.refs, list(state.newest)
        self._classes = {name: _OneClass(newest=newest) for name, newest in state.newest.items()}
        self._numbered.clear()
        self._count = len(rows)
        for *place_and_slot, index in rows.tolist():
            its, ref = self._classes[names[index]], SampleRef.unpack(*place_and_slot[:5])
            its.slots[id(ref)] = place_and_slot[5]
            its.order.append((ref.version, ref))
            if ref.sample:
                self._numbered[ref.name] = (names[index], ref)
        for its in self._classes.values():
            its.refs = sorted((ref for _, ref in its.order), key=lambda one: its.slots[id(one)])
        restore_random_state(self._random, state.random)

    def _remove(self, its: _OneClass, ref: SampleRef) -> None:
        its.remove(ref)
        self._numbered.pop(ref.name, None)
        self._count -= 1


def _filled(refs: Iterable[SampleRef]) -> _OneClass:
    """Return a class with those places. refs: in the order of their versions."""
    its = _OneClass()
    for ref in refs:
        its.add(ref)
    return its
