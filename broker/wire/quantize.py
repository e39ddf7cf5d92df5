"""Float activations to packed 1..8-bit codes and back. Pure numpy; no I/O.

Uniform quantization with one range per channel, shared by the samples of a message: a code q stands for
``low + q * step``. Inside the range the error is at most step / 2; outside it, a value takes the nearest end.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Literal

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

# What the data of a message is compressed with.
Codec = Literal["none", "lz4", "zlib"]

# zlib up to here, which has an entropy coder; lz4 above, which has none and takes a sixth of the time. Who sends 7 or 8
# bits has a link that is hardly the bottleneck. What zlib would save there, too, is in docs/results/codec.md.
ZLIB_MOST_BITS = 6


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

    shape: (N, C, ...). low, step: float32 (C,). data: the codes as Gray-coded bit planes, compressed as codec says.
    """

    shape: tuple[int, ...]
    bits: int
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    codec: Codec
    data: bytes


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
    """Lay the codes out in bit planes, and compress these where that makes them shorter."""
    planes = pack_planes(quantized.codes, quantized.bits)
    codec: Codec = "zlib" if quantized.bits <= ZLIB_MOST_BITS else "lz4"
    squeezed = _deflate(planes) if codec == "zlib" else lz4.block.compress(planes, store_size=False)
    shorter = len(squeezed) < len(planes)
    return PackedActivations(
        shape=quantized.codes.shape,
        bits=quantized.bits,
        low=quantized.low,
        step=quantized.step,
        codec=codec if shorter else "none",
        data=squeezed if shorter else planes,
    )


def unpack_activations(packed: PackedActivations) -> Quantized:
    """Return the codes again. Raises MalformedMessage where the data is not what its header declares."""
    values = math.prod(packed.shape)
    size = packed_size(values, packed.bits)
    data = _decompress(packed, size)
    if len(data) != size:
        raise MalformedMessage(f"activations of shape {packed.shape} need {size} bytes, got {len(data)}")
    codes = unpack_planes(data, values, packed.bits)
    return Quantized(codes=codes.reshape(packed.shape), low=packed.low, step=packed.step, bits=packed.bits)


def packed_size(values: int, bits: int) -> int:
    """Return how many bytes that many codes take before compression."""
    return bits * -(-values // 8)


def pack_planes(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Return bit planes of the codes in Gray code, the lowest bits first; eight to a byte, the first code's lowest.

    A byte is then eight neighbours of a map that are often alike, which compresses better than whole codes do (the
    "bitshuffle" of Masui et al., 2015). In Gray code (F. Gray, US patent 2,632,058, 1953) levels next to each other
    differ in one bit; as plain numbers the two in the middle, where a bottleneck's values crowd, differ in all.
    """
    flat = codes.reshape(-1)
    # packbits takes whatever is not 0 for a 1, so a plane need not be shifted down.
    planes = np.stack([np.packbits(flat & np.uint8(1 << bit), bitorder="little") for bit in range(bits)])
    planes[:-1] ^= planes[1:]  # codes ^ (codes >> 1), eight at a time
    return planes.tobytes()


def unpack_planes(data: bytes, values: int, bits: int) -> NDArray[np.uint8]:
    """Return the codes, uint8 (values,), of which these are the planes. data: packed_size(values, bits) bytes."""
    planes = np.frombuffer(data, np.uint8).reshape(bits, -1)
    plane = planes[-1].copy()  # both as Gray code and as a number the highest bit is the same
    codes = np.unpackbits(plane, count=values, bitorder="little")
    for gray in planes[-2::-1]:
        plane ^= gray
        codes += codes  # numpy adds 16 bytes and more at a time, but shifts them one by one
        codes |= np.unpackbits(plane, count=values, bitorder="little")
    return codes


def _decompress(packed: PackedActivations, size: int) -> bytes:
    """Return the data as it was before compression; where it is longer than size, at most size + 1 bytes of it.

    size: by the header, whose bounds activations.py has checked.
    """
    try:
        match packed.codec:
            case "none":
                return packed.data
            case "lz4":
                planes: bytes = lz4.block.decompress(packed.data, uncompressed_size=size)
                return planes
            case "zlib":
                return _inflate(packed.data, size)
    except (lz4.block.LZ4BlockError, zlib.error) as error:
        raise MalformedMessage(f"activations do not decompress: {error}") from error


def _deflate(planes: bytes) -> bytes:
    # Planes hardly repeat themselves but for runs of one byte. To look for nothing else takes half the time, and gives
    # 2 to 6 % less: longer matches would be seldom worth their bits.
    stream = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return stream.compress(planes) + stream.flush()


def _inflate(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    planes = stream.decompress(data, size + 1)  # one byte more than it should have shows that there is more
    if not stream.eof or stream.unused_data:
        raise MalformedMessage(f"activations are not one whole zlib stream of {size:,} bytes, and nothing else")
    return planes


def _channel_ranges(values: NDArray[np.float32], bits: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return low and step, float32 (C,), of each channel of values (N, C, ...)."""
    by_channel = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    stride, tail = range_sample(by_channel.shape[1], bits)
    sample = by_channel[:, ::stride]
    last = sample.shape[1] - 1
    ordered = np.sort(sample, axis=1)  # vectorized, and so an eighth of the time that np.partition takes
    low, high = ordered[:, tail].copy(), ordered[:, last - tail].copy()
    # A channel that is nearly always the same (a rectified one, mostly zero) would lose its rare values with its tails.
    flat = high <= low
    if flat.any():
        low[flat], high[flat] = by_channel[flat].min(axis=1), by_channel[flat].max(axis=1)
    step = (high - low) / np.float32(2**bits - 1)
    step[step < SMALLEST_STEP] = 0
    return low.astype(np.float32), step.astype(np.float32)


def range_sample(count: int, bits: int) -> tuple[int, int]:
    """Return how a channel of so many values gets its range: the stride that reads some of them, and how many of these
    are clipped at each end.
    """
    stride = _stride(count)
    read = -(-count // stride)
    # Of a full sample one value at least: at 7 and 8 bits a single outlier would else take all the levels.
    return stride, max(round(CLIPPED_TAIL[bits] * (read - 1)), read // RANGE_SAMPLE)


def _stride(count: int) -> int:
    """Return the widest stride over so many values that reads RANGE_SAMPLE of them, from every row and column alike.

    A stride that shares a divisor with the width of a map would meet the same columns in every row, its border perhaps,
    whose values are not like the others.
    """
    stride = max(1, count // RANGE_SAMPLE)
    while math.gcd(stride, count) > 1:
        stride -= 1
    return stride
