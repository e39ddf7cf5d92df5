"""Activation batches and asks as the maps that they are on the wire, and how many samples fit one message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage, PayloadTooLarge
from broker.wire.bounds import (
    MAX_CHANNELS,
    MAX_CLASS_NAME,
    MAX_SAMPLES,
    MAX_VALUES,
    SEND_LIMIT_BYTES,
    BatchShape,
    Bits,
    check_class_names,
    check_values,
)
from broker.wire.messages import ActivationBatch, Ask, SplitSpec
from broker.wire.quantize import Codec, PackedActivations, packed_size
from broker.wire.validation import read

Scalar = TypeVar("Scalar", bound=np.generic)

# What a byte can stand for at most. In an lz4 block one makes a match 255 bytes longer; in deflate two bits are a match
# of 258 bytes (RFC 1951), so eight are four of them.
MAX_EXPANSION: dict[Codec, int] = {"none": 1, "lz4": 255, "zlib": 1032}
# Map keys, numbers, identifiers and msgpack's own marks of a batch, apart from names, labels, samples and ranges.
BATCH_OVERHEAD_BYTES = 350
# Label and number of a sample.
SAMPLE_BYTES = 2 + 4


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """PackedActivations as they are on the wire: arrays are bytes, little-endian."""

    shape: BatchShape
    bits: Bits
    low: bytes
    step: bytes
    codec: Codec
    data: bytes


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """What a batch says of each sample, on the wire."""

    classes: tuple[str, ...]
    labels: bytes
    samples: bytes


def batch_fields(batch: ActivationBatch) -> dict[str, Any]:
    labels, samples = batch.labels.astype("<u2").tobytes(), batch.samples.astype("<u4").tobytes()
    return _with_packed({**vars(batch), "labels": labels, "samples": samples})


def read_batch(values: Mapping[str, Any]) -> ActivationBatch:
    """Return the batch that a map says. Raises MalformedMessage."""
    packed = _read_packed(values)
    raw, count = read(values, _Samples), packed.shape[0]
    check_class_names("classes", raw.classes, most=count)
    labels = _array("labels", raw.labels, np.uint16, count)
    if labels.max(initial=0) >= len(raw.classes):
        raise MalformedMessage(f"label {labels.max(initial=0)} of {len(raw.classes)} classes")
    arrays = {"labels": labels, "samples": _array("samples", raw.samples, np.uint32, count), "activations": packed}
    return read({**values, **arrays}, ActivationBatch)


def ask_fields(ask: Ask) -> dict[str, Any]:
    return _with_packed(vars(ask))


def read_ask(values: Mapping[str, Any]) -> Ask:
    """Return the ask that a map says. Raises MalformedMessage."""
    packed = _read_packed(values)
    if packed.shape[0] != 1:
        raise MalformedMessage(f"shape {packed.shape} is not of one sample")
    return read({**values, "activations": packed}, Ask)


def samples_per_message(split: SplitSpec, classes: int, limit: int = SEND_LIMIT_BYTES) -> int:
    """Return how many samples of a split always fit one message, even where compression does not help.

    classes: how many different names the batch may hold. Raises PayloadTooLarge where not even one sample fits.
    """
    channels, values = split.shape[0], math.prod(split.shape)
    fixed = BATCH_OVERHEAD_BYTES + 8 * channels
    name_bytes = 4 * MAX_CLASS_NAME + 5

    def size(samples: int, bits: int = split.bits) -> int:
        names = min(samples, classes) * name_bytes
        return fixed + names + SAMPLE_BYTES * samples + packed_size(samples * values, bits)

    if size(1) > limit:
        fitting = next((bits for bits in range(split.bits, 0, -1) if size(1, bits) <= limit), None)
        advice = f"at {fitting} bits it would be {size(1, fitting):,}" if fitting else "no number of bits would do"
        raise PayloadTooLarge(
            f"one sample of {split.backbone} cut at {split.cut} is {size(1):,} bytes, limit {limit:,}; {advice}; "
            f"a bottleneck of fewer than {channels} channels or a later cut makes it smaller"
        )
    # A sample takes its label, its number and its codes at least.
    most = min(MAX_SAMPLES, MAX_VALUES // values, 8 * limit // (8 * SAMPLE_BYTES + values * split.bits))
    return next(samples for samples in range(max(1, most), 0, -1) if size(samples) <= limit or samples == 1)


def _with_packed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with activations in pieces, which are the last on the wire."""
    packed: PackedActivations = fields["activations"]
    low, step = packed.low.astype("<f4").tobytes(), packed.step.astype("<f4").tobytes()
    others = {name: value for name, value in fields.items() if name != "activations"}
    return {**others, **vars(packed), "low": low, "step": step}


def _read_packed(values: Mapping[str, Any]) -> PackedActivations:
    raw = read(values, _Packed)
    check_values(raw.shape)
    if len(raw.shape) < 2 or raw.shape[0] > MAX_SAMPLES or raw.shape[1] > MAX_CHANNELS:
        raise MalformedMessage(f"shape {raw.shape} is not (samples <= {MAX_SAMPLES}, channels <= {MAX_CHANNELS}, ...)")
    size = packed_size(math.prod(raw.shape), raw.bits)
    # A short message that declares more than its codec can make of it is lying about its size.
    if size > MAX_EXPANSION[raw.codec] * len(raw.data) or (raw.codec == "none" and size != len(raw.data)):
        raise MalformedMessage(
            f"shape {raw.shape} at {raw.bits} bits needs {size:,} bytes, the message holds {len(raw.data):,}"
        )
    return PackedActivations(
        shape=raw.shape,
        bits=raw.bits,
        low=_ranges("low", raw.low, raw.shape[1]),
        step=_ranges("step", raw.step, raw.shape[1]),
        codec=raw.codec,
        data=raw.data,
    )


def _array(name: str, data: bytes, kind: type[Scalar], count: int) -> NDArray[Scalar]:
    """Return so many numbers of a numpy type."""
    little_endian = np.dtype(kind).newbyteorder("<")
    if len(data) != count * little_endian.itemsize:
        raise MalformedMessage(f"field {name!r} has {len(data):,} bytes, expected {count * little_endian.itemsize:,}")
    return np.frombuffer(data, little_endian).astype(kind)


def _ranges(name: str, data: bytes, channels: int) -> NDArray[np.float32]:
    values = _array(name, data, np.float32, channels)
    # Activations beyond a million mean a diverged network; beyond 1e38 they would overflow float32 when scaled.
    if not np.isfinite(values).all() or np.abs(values).max() > 1e6:
        raise MalformedMessage(f"field {name!r} has values that are not finite or above 1e6")
    return values
