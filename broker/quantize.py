"""Float activations to packed 1..8-bit codes and back. Pure numpy; no I/O.

Uniform quantization with one range per channel, shared by the samples of a message: a code q stands for
``low + q * step``. Inside the range the error is at most step / 2; outside it, a value takes the nearest end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import lz4.block
import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage

MIN_BITS, MAX_BITS = 1, 8

# The share of values clipped at each end of a channel's range. A uniform quantizer of a Gaussian errs least when its
# outermost levels sit at these tail probabilities (J. Max, "Quantizing for minimum distortion", 1960, table II):
# at one bit the two levels are the middles of the two halves, at eight bits nearly the extremes.
CLIPPED_TAIL = {1: 0.212, 2: 0.068, 3: 0.020, 4: 0.006, 5: 1.8e-3, 6: 5e-4, 7: 1.5e-4, 8: 4e-5}

# A channel's range is read off at most this many of its values: sorting them all costs more than quantizing.
RANGE_SAMPLE = 2048

# Below this a step counts as none, the channel as constant: the reciprocal of a subnormal float32 is infinite.
SMALLEST_STEP = 1e-30

# A byte holds fields of 8, 4, 2 or 1 bits without a remainder; other widths are stored as a sum of these.
FIELD_WIDTHS = (8, 4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Codes of a batch of activations.

    codes: uint8 (N, C, ...), each below 2**bits. low, step: float32 (C,).
    """

    codes: NDArray[np.uint8]
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    bits: int

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, samples: slice) -> Quantized:
        return Quantized(codes=self.codes[samples], low=self.low, step=self.step, bits=self.bits)


@dataclass(frozen=True, kw_only=True)
class PackedActivations:
    """Quantized activations as they travel.

    shape: (N, C, ...). low, step: float32 (C,). data: the bit-packed codes, lz4-compressed where that is shorter.
    """

    shape: tuple[int, ...]
    bits: int
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    data: bytes
    compressed: bool


def quantize(values: NDArray[np.float32], bits: int) -> Quantized:
    """Quantize float32 (N, C, ...) to codes of ``bits`` bits, with one range for each channel."""
    low, step = _channel_ranges(values, bits)
    along_channels = (1, -1) + (1,) * (values.ndim - 2)
    per_step = np.divide(1, step, out=np.zeros_like(step), where=step > 0).reshape(along_channels)
    scaled = values - low.reshape(along_channels)
    scaled *= per_step
    scaled += np.float32(0.5)  # truncation below then rounds to the nearest level
    np.clip(scaled, 0, 2**bits - 1, out=scaled)
    return Quantized(codes=scaled.astype(np.uint8), low=low, step=step, bits=bits)


def dequantize(quantized: Quantized) -> NDArray[np.float32]:
    """Return the float32 (N, C, ...) values that the codes stand for."""
    along_channels = (1, -1) + (1,) * (quantized.codes.ndim - 2)
    values = quantized.codes.astype(np.float32)
    values *= quantized.step.reshape(along_channels)
    values += quantized.low.reshape(along_channels)
    return values


def pack_activations(quantized: Quantized) -> PackedActivations:
    """Bit-pack the codes and compress them with lz4 where that makes them shorter."""
    packed = _pack_bits(quantized.codes.reshape(-1), quantized.bits).tobytes()
    squeezed = lz4.block.compress(packed, store_size=False)
    compressed = len(squeezed) < len(packed)
    return PackedActivations(
        shape=quantized.codes.shape,
        bits=quantized.bits,
        low=quantized.low,
        step=quantized.step,
        data=squeezed if compressed else packed,
        compressed=compressed,
    )


def unpack_activations(packed: PackedActivations) -> Quantized:
    """Return the codes again. Raises MalformedMessage where the data is not what its header declares."""
    size = packed_size(math.prod(packed.shape), packed.bits)
    data = packed.data
    if packed.compressed:
        try:
            # The size comes from the header, which codec.py has bounded: lz4 never writes past it.
            data = lz4.block.decompress(data, uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise MalformedMessage(f"activations do not decompress: {error}") from error
    if len(data) != size:
        raise MalformedMessage(f"activations of shape {packed.shape} need {size} bytes, got {len(data)}")
    codes = _unpack_bits(np.frombuffer(data, np.uint8), math.prod(packed.shape), packed.bits)
    return Quantized(codes=codes.reshape(packed.shape), low=packed.low, step=packed.step, bits=packed.bits)


def packed_size(values: int, bits: int) -> int:
    """Return how many bytes that many codes take before compression."""
    return sum(-(-values * width // 8) for width, _ in _fields(bits))


def _channel_ranges(values: NDArray[np.float32], bits: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return low and step, float32 (C,), of each channel of values (N, C, ...)."""
    by_channel = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    sample = by_channel[:, :: _stride(by_channel.shape[1])]
    last = sample.shape[1] - 1
    # Of a full sample one value at least: at 7 and 8 bits a single outlier would else take all the levels.
    tail = max(round(CLIPPED_TAIL[bits] * last), sample.shape[1] // RANGE_SAMPLE)
    ordered = np.sort(sample, axis=1)  # vectorized, and so an eighth of the time that np.partition takes
    low, high = ordered[:, tail].copy(), ordered[:, last - tail].copy()
    # A channel that is nearly always the same (a rectified one, mostly zero) would lose its rare values with its tails.
    flat = high <= low
    if flat.any():
        low[flat], high[flat] = by_channel[flat].min(axis=1), by_channel[flat].max(axis=1)
    step = (high - low) / np.float32(2**bits - 1)
    step[step < SMALLEST_STEP] = 0
    return low.astype(np.float32), step.astype(np.float32)


def _stride(count: int) -> int:
    """Return the widest stride over so many values that reads RANGE_SAMPLE of them, from every row and column alike.

    A stride that shares a divisor with the width of a map would meet the same columns in every row, its border perhaps,
    whose values are not like the others.
    """
    stride = max(1, count // RANGE_SAMPLE)
    while math.gcd(stride, count) > 1:
        stride -= 1
    return stride


def _fields(bits: int) -> list[tuple[int, int]]:
    """Split a code of ``bits`` bits into (width, shift) fields that fill whole bytes: 7 -> 4 + 2 + 1."""
    fields, shift = [], 0
    for width in FIELD_WIDTHS:
        if bits & width:
            fields.append((width, shift))
            shift += width
    return fields


def _pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    packed = []
    for width, shift in _fields(bits):
        field = codes if width == bits else (codes >> np.uint8(shift)) & np.uint8(2**width - 1)
        per_byte = 8 // width
        length = packed_size(len(codes), width)
        if len(field) < length * per_byte:
            field = np.pad(field, (0, length * per_byte - len(field)))
        # Byte i holds codes i, i + length, i + 2 * length, ...: contiguous reads, both ways.
        sections = field.reshape(per_byte, length)
        total = sections[0].copy()
        for place in range(1, per_byte):
            total |= sections[place] << np.uint8(place * width)
        packed.append(total)
    return packed[0] if len(packed) == 1 else np.concatenate(packed)


def _unpack_bits(packed: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    codes = np.zeros(count, np.uint8)
    start = 0
    for width, shift in _fields(bits):
        per_byte = 8 // width
        length = packed_size(count, width)
        total = packed[start : start + length]
        start += length
        sections = np.empty((per_byte, length), np.uint8)
        for place in range(per_byte):
            np.right_shift(total, np.uint8(place * width), out=sections[place])
        sections &= np.uint8(2**width - 1)
        codes |= sections.reshape(-1)[:count] << np.uint8(shift)
    return codes
