"""What a bag's messages say that its pictures show, and when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from broker.errors import MalformedMessage
from robot_edge.sources.ros_images import Box, best_detection, decode_string, stamp_of

# A detection says where something was, so it holds for pictures of the next second at most; a name holds until another.
DETECTION_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is shown from a time on, in nanoseconds: nothing that has a name, a name, or a name in a box."""

    time: int
    name: str | None
    box: Box | None = None


class BagLabels:
    """The labels of one topic, by time.

    by_stamp: whether times are those of the messages' stamps, as of detections; names, which have no stamp, are matched
    by when they were recorded. count: how many messages there were. bad: how many of them were no labels, so that
    nothing is known from their time on; why_bad: what was wrong with the first one.
    """

    def __init__(self, messages: Iterable[tuple[int, Any]] = (), *, by_stamp: bool = False) -> None:
        """Take (when it was recorded, message, or the ValueError with which it could not be read) of each."""
        self.by_stamp = by_stamp
        self.bad = 0
        self.why_bad = ""
        self._labels = sorted((self._read(*one) for one in messages), key=lambda label: label.time)
        self._times = [label.time for label in self._labels]
        self.count = len(self._labels)

    @property
    def span(self) -> tuple[int, int] | None:
        """The times of the first and the last name; None where there is no name."""
        named = [label.time for label in self._labels if label.name is not None]
        return (named[0], named[-1]) if named else None

    @property
    def names(self) -> frozenset[str]:
        """All names that are said."""
        return frozenset(label.name for label in self._labels if label.name is not None)

    def at(self, *, recorded: int, stamp: int) -> Label | None:
        """Return the label of a picture of those times."""
        time = stamp if self.by_stamp else recorded
        place = bisect_right(self._times, time)
        label = self._labels[place - 1] if place else None
        is_old = label is not None and label.box is not None and time - label.time > DETECTION_NANOSECONDS
        return None if is_old else label

    def _read(self, recorded: int, message: Any) -> Label:
        time = recorded
        try:
            if isinstance(message, ValueError):
                raise message
            if not self.by_stamp:
                return Label(time=time, name=decode_string(message))
            time = stamp_of(message) or recorded
            name, box = best_detection(message) or (None, None)
            return Label(time=time, name=name, box=box)
        except (MalformedMessage, ValueError) as error:
            self.bad += 1
            self.why_bad = self.why_bad or str(error)
            return Label(time=time, name=None)
