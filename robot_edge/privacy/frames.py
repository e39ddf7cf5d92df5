"""Frames of a source, what crosses of each, and which of them an attacker owns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from hierarchy.attack.pairs import Pairs, Values, shrunk
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.progress import RunProgress
from robot_edge.privacy.config import LEAST_ATTACKED, LEAST_OWN
from robot_edge.privacy.wire import Wire
from robot_edge.sources.frames import Frames, Pixels

# What crosses of all frames may take so much memory; with a bottleneck it is a hundredth.
MAX_BYTES = 500_000_000
# Frames that are encoded a second time, as whoever has them and the front would: where nothing random is added, it is
# what crossed.
ENCODED_AGAIN = 200
# How long to wait for a camera's frame before looking whether to stop.
SOURCE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Of N frames. labels: of the source; None where it has none. said: by the exit. scenes: of near-duplicates.

    What crossed and the pictures, as large as they are reconstructed, are in pairs. again: what crosses of the first
    ones when they are encoded once more, float32 (M, C, ...).
    """

    pairs: Pairs
    again: Values
    labels: Sequence[str | None]
    said: Sequence[str]
    scenes: Sequence[int]

    def __len__(self) -> int:
        return len(self.pairs)

    def at(self, places: NDArray[np.int64]) -> Seen:
        """Return the frames at these places."""
        chosen = places.tolist()
        return Seen(
            pairs=self.pairs[places],
            again=self.again[:0],
            labels=[self.labels[one] for one in chosen],
            said=[self.said[one] for one in chosen],
            scenes=[self.scenes[one] for one in chosen],
        )


def read_frames(
    source: Frames,
    wire: Wire,
    see: Callable[[Pixels], Pixels],
    *,
    most: int,
    side: int,
    name: str,
    least: int,
    stop: StopRequest,
) -> Seen:
    """Return at most so many frames of a source.

    see: returns what the network sees of one. side: of pictures at most. name: of the source's flag.

    Raises SourceError where there are fewer than least, and Diverged; and what `see` raises.
    """
    values: list[Values] = []
    again: list[Values] = []
    pictures: list[Pixels] = []
    labels: list[str | None] = []
    said: list[str] = []
    scenes: list[int] = []
    message: list[Pixels] = []

    def send() -> None:
        images = np.stack(message)
        message.clear()
        crossed, logits = wire.crossed(images)
        if len(again) * wire.batch < ENCODED_AGAIN:
            again.append(wire.crossed(images)[0])
        values.append(crossed)
        pictures.append(shrunk(images, side))
        said.extend(wire.classes[index] for index in logits.argmax(1))

    total = min(most, source.length) if source.length is not None else most
    with RunProgress(total, "frames encoded") as progress:
        while len(labels) < most and not source.ended and not stop.made:
            frame = source.next(SOURCE_SECONDS)
            if frame is None:
                continue
            message.append(see(frame.image))
            labels.append(frame.label)
            scenes.append(frame.scene)
            if len(message) == wire.batch:
                send()
                if len(values) == 1:
                    most = min(most, max(least, MAX_BYTES // values[0][0].nbytes))
            progress.show(len(labels), [name])
        if message:
            send()
    if len(labels) < least and not stop.made:
        raise SourceError(f"{name} has {len(labels):,} frames that can be read; an audit needs {least:,} at least")
    if not values:  # Ctrl-C was quicker than the first frame
        values, again, pictures = [np.zeros((0, 1), np.float32)], [np.zeros((0, 1), np.float32)], [_NO_PICTURES]
    pairs = Pairs(values=np.concatenate(values), pictures=np.concatenate(pictures))
    return Seen(pairs=pairs, again=np.concatenate(again), labels=labels, said=said, scenes=scenes)


_NO_PICTURES = np.zeros((0, 1, 1, 3), np.uint8)


def divided(seen: Seen, attacked: int, seed: int) -> tuple[Seen, Seen]:
    """Return the attacker's own frames and those attacked, in random order; no scene is on both sides.

    Raises SourceError where there are too few scenes for that.
    """
    rng = random.Random(seed)
    scenes = sorted(set(seen.scenes))
    rng.shuffle(scenes)
    place = {scene: number for number, scene in enumerate(scenes)}
    # By scene, and within one by chance: of few scenes the attacked frames are not all of the first one.
    order = sorted(range(len(seen)), key=lambda one: (place[seen.scenes[one]], one))
    cut = min(attacked, max(LEAST_ATTACKED, len(seen) // 5))
    while cut < len(order) and seen.scenes[order[cut]] == seen.scenes[order[cut - 1]]:
        cut += 1
    if len(order) - cut < LEAST_OWN:
        raise SourceError(
            f"--source shows {len(scenes):,} scenes in {len(seen):,} frames, and no scene may be both the attacker's "
            f"and attacked: give more of them, as {LEAST_OWN} frames have to be left to the attacker"
        )
    chosen, rest = order[:cut], order[cut:]
    rng.shuffle(chosen)
    rng.shuffle(rest)
    return seen.at(np.array(rest)), seen.at(np.array(chosen[:attacked]))
