"""Codes of 1 to 8 bits: the error they make, the bytes they take, and what damaged bytes do."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import replace
from itertools import pairwise

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.wire.activations import MAX_EXPANSION
from broker.wire.quantize import (
    MAX_BITS,
    MIN_BITS,
    ZLIB_MOST_BITS,
    Codec,
    Quantized,
    dequantize,
    pack_activations,
    pack_planes,
    packed_size,
    quantize,
    unpack_activations,
    unpack_planes,
)

EVERY_BITS = range(MIN_BITS, MAX_BITS + 1)
BITS = st.integers(MIN_BITS, MAX_BITS)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=5, max_side=5)
ACTIVATIONS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-65536, 65536, width=32))

# Least mean squared error of a uniform quantizer of a unit Gaussian (J. Max, 1960, table II).
MAX_1960 = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154}


def restored(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    return dequantize(quantize(values, bits))


def mean_square(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).mean())


def gaussian(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def random_codes(shape: tuple[int, ...], bits: int, seed: int = 0) -> Quantized:
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape, np.uint8)
    channels = np.ones(shape[1], np.float32)
    return Quantized(codes=codes, low=-channels, step=channels, bits=bits)


@settings(max_examples=100, deadline=None)
@given(values=ACTIVATIONS, bits=BITS)
def test_error_is_half_a_step_inside_the_range_and_the_nearest_end_outside(
    values: NDArray[np.float32], bits: int
) -> None:
    quantized = quantize(values, bits)
    by_channel = (1, -1) + (1,) * (values.ndim - 2)
    low, step = (ends.reshape(by_channel).astype(np.float64) for ends in (quantized.low, quantized.step))
    high = low + step * (2**bits - 1)
    nearest = np.clip(values, low, high)
    # Taking `low` away and adding it again round to float32, so a value half way between levels may go either way.
    rounding = 1e-6 * (np.abs(low) + np.abs(high)) + 1e-27
    inside = nearest == values
    allowed = np.where(inside, step * 0.5001, 0) + rounding
    assert (step >= 0).all()
    assert (np.abs(dequantize(quantized) - nearest) <= allowed).all()


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES, bits=BITS, seed=st.integers(0, 99))
def test_packing_loses_nothing_and_never_grows(shape: tuple[int, ...], bits: int, seed: int) -> None:
    quantized = random_codes(shape, bits, seed)
    packed = pack_activations(quantized)
    assert len(packed.data) <= packed_size(math.prod(shape), bits)
    unpacked = unpack_activations(packed)
    assert unpacked.codes.dtype == np.uint8
    np.testing.assert_array_equal(unpacked.codes, quantized.codes, strict=True)
    np.testing.assert_array_equal(unpacked.low, quantized.low)
    np.testing.assert_array_equal(unpacked.step, quantized.step)
    assert unpacked.bits == bits


@settings(max_examples=100, deadline=None)
@given(codes=hnp.arrays(np.uint8, st.integers(1, 70)), bits=BITS)
def test_plane_k_holds_bit_k_of_every_gray_code_the_first_one_lowest(codes: NDArray[np.uint8], bits: int) -> None:
    codes &= np.uint8(2**bits - 1)
    data = pack_planes(codes, bits)
    assert len(data) == packed_size(len(codes), bits)
    # Without numpy, as somebody would who writes another client by docs/protocol.md.
    length = math.ceil(len(codes) / 8)
    expected = bytearray(bits * length)
    for place, code in enumerate(codes.tolist()):
        gray = code ^ code >> 1
        for bit in range(bits):
            expected[bit * length + place // 8] |= (gray >> bit & 1) << place % 8
    assert data == expected
    np.testing.assert_array_equal(unpack_planes(data, len(codes), bits), codes, strict=True)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_levels_next_to_each_other_differ_in_one_bit(bits: int) -> None:
    packed = [pack_planes(np.array([level], np.uint8), bits) for level in range(2**bits)]
    assert all(sum(a != b for a, b in zip(*pair, strict=True)) == 1 for pair in pairwise(packed))
    for level, planes in enumerate(packed):
        assert unpack_planes(planes, 1, bits).tolist() == [level]


def test_bits_behind_the_last_code_are_ignored() -> None:
    codes = np.arange(11, dtype=np.uint8)
    data = bytearray(pack_planes(codes, 4))
    for last in range(1, 8, 2):
        data[last] |= 0b1111_1000
    np.testing.assert_array_equal(unpack_planes(bytes(data), 11, 4), codes)


def test_codes_that_lie_scattered_are_packed_in_order() -> None:
    codes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for scattered in (codes.transpose(2, 0, 1), codes[:, ::2], codes[::-1]):
        np.testing.assert_array_equal(unpack_planes(pack_planes(scattered, 5), scattered.size, 5), scattered.ravel())


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_large_odd_shapes_and_every_code(bits: int) -> None:
    quantized = random_codes((7, 3, 31, 29), bits)
    assert set(np.unique(quantized.codes)) == set(range(2**bits))
    packed = pack_activations(quantized)
    assert packed.codec == "none", "random codes do not compress"
    assert len(packed.data) == packed_size(quantized.codes.size, bits) == bits * math.ceil(quantized.codes.size / 8)
    np.testing.assert_array_equal(unpack_activations(packed).codes, quantized.codes)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_repeating_codes_are_compressed(bits: int) -> None:
    quantized = quantize(np.zeros((64, 16, 8, 8), np.float32), bits)
    packed = pack_activations(quantized)
    assert packed.codec == ("zlib" if bits <= ZLIB_MOST_BITS else "lz4")
    size = packed_size(quantized.codes.size, bits)
    assert size / MAX_EXPANSION[packed.codec] <= len(packed.data) < size / 100
    np.testing.assert_array_equal(unpack_activations(packed).codes, quantized.codes)


@pytest.mark.parametrize(("bits", "expected"), MAX_1960.items())
def test_error_on_gaussian_values_is_near_the_least_possible(bits: int, expected: float) -> None:
    values = gaussian(32, 8, 16, 16)
    assert mean_square(restored(values, bits) - values) == pytest.approx(expected, rel=0.10)


def test_each_further_bit_makes_the_error_smaller() -> None:
    values = gaussian(8, 4, 16, 16)
    errors = [mean_square(restored(values, bits) - values) for bits in EVERY_BITS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_one_outlier_does_not_eat_the_levels(bits: int) -> None:
    values = gaussian(16, 4, 16, 16)
    expected = mean_square(restored(values, bits) - values)
    values[0, :, 0, 0] = 1e4
    others = np.delete(values.reshape(16, 4, -1), 0, axis=2)
    error = np.delete(restored(values, bits).reshape(16, 4, -1), 0, axis=2) - others
    assert mean_square(error) < 1.2 * expected


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_channels_have_ranges_of_their_own(bits: int) -> None:
    values = gaussian(16, 2, 8, 8)
    scales = np.array([1e-3, 1e3], np.float32).reshape(1, 2, 1, 1)
    alone = restored(values, bits)
    np.testing.assert_allclose(restored(values * scales, bits) / scales, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_a_rare_value_of_a_rectified_channel_is_kept(bits: int) -> None:
    values = np.zeros((16, 2, 32, 32), np.float32)
    values[3, 0, 5, 7] = 2.5
    np.testing.assert_allclose(restored(values, bits), values, rtol=1e-6)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_constant_channels_are_exact(bits: int) -> None:
    values = np.broadcast_to(np.array([0, -3.7, 1e5], np.float32).reshape(1, 3, 1, 1), (2, 3, 4, 4))
    np.testing.assert_array_equal(restored(values, bits), values)


def test_a_channel_of_subnormal_values_counts_as_constant() -> None:
    values = np.array([[0.0], [1e-40]], np.float32)  # the reciprocal of their step is infinite
    np.testing.assert_allclose(restored(values, 8), values, atol=1e-39)


def test_a_part_of_a_batch_is_its_samples() -> None:
    quantized = random_codes((5, 2, 3), 4)
    assert len(quantized) == 5
    np.testing.assert_array_equal(dequantize(quantized[1:3]), dequantize(quantized)[1:3])


@pytest.mark.parametrize("codec", ["zlib", "lz4"])
def test_no_codec_does_better_than_its_bound(codec: Codec) -> None:
    zeros = bytes(4_000_000)
    best = zlib.compress(zeros, 9) if codec == "zlib" else lz4.block.compress(zeros, store_size=False)
    assert 0.98 * MAX_EXPANSION[codec] < len(zeros) / len(best) <= MAX_EXPANSION[codec]


ZEROS = zlib.compress(bytes(60), 1)
WITH_DICTIONARY = zlib.compressobj(zdict=bytes(20))


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (b"", "none"),
        (bytes(59), "none"),
        (bytes(61), "none"),
        (b"", "lz4"),
        (b"garbage that is no lz4 block", "lz4"),
        (b"\x00", "lz4"),  # a valid block of no bytes
        (b"\x30abc", "lz4"),  # three bytes
        (b"\x1f\x00\x01\x00\xff\xff\xff\xff\x00\x50zeros", "lz4"),  # over a thousand zeros
        (b"", "zlib"),
        (b"garbage that is no zlib stream", "zlib"),
        (zlib.compress(bytes(59)), "zlib"),
        (zlib.compress(bytes(61)), "zlib"),
        (zlib.compress(bytes(10_000_000)), "zlib"),
        (zlib.compress(b""), "zlib"),
        (ZEROS + b"\0", "zlib"),
        (ZEROS + ZEROS, "zlib"),
        *((ZEROS[:length], "zlib") for length in range(len(ZEROS))),
        (ZEROS[:-1] + b"\xff", "zlib"),  # another checksum
        (zlib.compress(bytes(60))[2:-4], "zlib"),  # raw deflate
        (gzip.compress(bytes(60), mtime=0), "zlib"),  # mtime: the header holds the second, and workers must agree
        (WITH_DICTIONARY.compress(bytes(60)) + WITH_DICTIONARY.flush(), "zlib"),
    ],
)
def test_damaged_data_is_malformed(data: bytes, codec: Codec) -> None:
    packed = pack_activations(random_codes((5, 2, 3, 4), 4))
    assert (len(packed.data), packed.codec) == (60, "none")
    with pytest.raises(MalformedMessage):
        unpack_activations(replace(packed, data=data, codec=codec))


@pytest.mark.parametrize("codec", ["zlib", "lz4"])
@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), bits=BITS)
def test_arbitrary_data_gives_codes_or_is_malformed(codec: Codec, data: bytes, bits: int) -> None:
    packed = replace(pack_activations(random_codes((5, 2, 3, 4), bits)), data=data, codec=codec)
    try:
        codes = unpack_activations(packed).codes
    except MalformedMessage:
        return
    assert codes.shape == (5, 2, 3, 4)
    assert (codes < 2**bits).all()


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 99), place=st.integers(0, 10_000), wrong=st.integers(1, 255), bits=BITS)
def test_a_wrong_byte_in_compressed_data(seed: int, place: int, wrong: int, bits: int) -> None:
    quantized = random_codes((4, 2, 8, 8), bits, seed)
    quantized.codes[1:] = 0
    packed = pack_activations(quantized)
    assert packed.codec != "none"
    data = bytearray(packed.data)
    data[place % len(data)] ^= wrong
    try:
        codes = unpack_activations(replace(packed, data=bytes(data))).codes
    except MalformedMessage:
        return
    assert codes.shape == (4, 2, 8, 8)
    assert (codes < 2**bits).all()
    # lz4 has no checksum; in a zlib stream a byte may only be wrong where it makes no difference.
    assert packed.codec == "lz4" or (codes == quantized.codes).all()


@pytest.mark.parametrize("samples", [64, 128, 256, 512, 1024])
def test_the_range_is_that_of_the_whole_map_and_not_of_its_border(samples: int) -> None:
    # Maps of 8 x 8 as they cross in a ResNet-18 at 32 pixels: a stride of 8 over them would read the border alone.
    values = np.random.default_rng(samples).standard_normal((samples, 3, 8, 8), np.float32)
    values[:, :, :, 0] *= 0.1
    error = np.square(values - dequantize(quantize(values, 4))).mean()
    assert error < 0.03
