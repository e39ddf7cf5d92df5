"""Activations to messages that are as large as they may be. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from broker.errors import PayloadTooLarge
from broker.wire.activations import samples_per_message
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, Change, ClassEdit, SplitSpec
from broker.wire.names import PLAIN_NAMES, ClassNames
from broker.wire.quantize import Quantized, pack_activations, unpack_activations
from robot_edge.uplink.outbox import Part


class Metadata(TypedDict):
    """What all parts of one message have in common, as an ActivationBatch names it."""

    split: str
    evaluation: int
    progress: float | None
    edge_version: int
    edits: int
    session: int
    again: bool


class Batching:
    """Gives each message of this process its sequence number."""

    def __init__(self, boot: str, split: SplitSpec, names: ClassNames = PLAIN_NAMES) -> None:
        """names: as they leave the robot, so that each message is made as large as it will be."""
        self._boot = boot
        self._split = split
        self._names = names
        self._sequence = 0

    def parts(
        self,
        metadata: Metadata,
        quantized: Quantized,
        names: Sequence[str],
        numbers: NDArray[np.uint32],
        limit: int,
    ) -> Iterator[Part]:
        """Yield messages with these samples. limit: bytes that each should have at most. numbers: of the samples."""
        most = self._samples_per_message(len(set(names)), limit)
        for chosen in np.array_split(np.arange(len(names)), -(-len(names) // most)):
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            classes = tuple(dict.fromkeys(names[part]))
            sequence = self._next_sequence()
            batch = ActivationBatch(
                boot=self._boot,
                sequence=sequence,
                classes=classes,
                labels=np.array([classes.index(name) for name in names[part]], np.uint16),
                samples=numbers[part],
                activations=pack_activations(quantized[part]),
                **metadata,
            )
            payload = pack(self._names.conceal(batch))
            counted = {} if metadata["evaluation"] or metadata["again"] else Counter(names[part])
            yield Part(sequence, payload, counted, metadata["evaluation"], metadata["again"])

    def cut(self, payload: bytes, limit: int) -> list[Part]:
        """Return the samples of a message as messages of at most so many bytes, or of one sample each."""
        batch = self._names.reveal(unpack_as(ActivationBatch, payload))
        metadata = Metadata(**{name: getattr(batch, name) for name in Metadata.__annotations__})  # type: ignore[typeddict-item]
        return list(self.parts(metadata, unpack_activations(batch.activations), batch.names, batch.samples, limit))

    def edit(
        self, number: int, change: Change, name: str, *, to: str, session: int, everywhere: bool = False
    ) -> ClassEdit:
        """Return a class edit. number: of all edits of the run, from 1."""
        return ClassEdit(
            boot=self._boot,
            sequence=self._next_sequence(),
            number=number,
            change=change,
            name=name,
            to=to,
            session=session,
            everywhere=everywhere,
        )

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _samples_per_message(self, classes: int, limit: int) -> int:
        try:
            return samples_per_message(self._split, classes, limit)
        except PayloadTooLarge:
            return 1  # the link is so slow that one sample takes longer than a message should
