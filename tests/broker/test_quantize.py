"""Codes of 1 to 8 bits: the error they make, the bytes they take, and what damaged bytes do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.quantize import (
    MAX_BITS,
    MIN_BITS,
    Quantized,
    dequantize,
    pack_activations,
    packed_size,
    quantize,
    unpack_activations,
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


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_large_odd_shapes_and_every_code(bits: int) -> None:
    quantized = random_codes((7, 3, 31, 29), bits)
    assert set(np.unique(quantized.codes)) == set(range(2**bits))
    packed = pack_activations(quantized)
    assert not packed.compressed, "random codes do not compress"
    assert len(packed.data) == packed_size(quantized.codes.size, bits) <= math.ceil(quantized.codes.size * bits / 8) + 2
    np.testing.assert_array_equal(unpack_activations(packed).codes, quantized.codes)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_repeating_codes_are_compressed(bits: int) -> None:
    quantized = quantize(np.zeros((64, 16, 8, 8), np.float32), bits)
    packed = pack_activations(quantized)
    assert packed.compressed
    size = packed_size(quantized.codes.size, bits)
    assert size / 255 <= len(packed.data) < size / 100, "codec.py takes 255 for the most that lz4 can do"
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


@pytest.mark.parametrize(
    ("data", "compressed"),
    [
        (b"", False),
        (bytes(59), False),
        (bytes(61), False),
        (b"", True),
        (b"garbage that is no lz4 block", True),
        (b"\x00", True),  # a valid block of no bytes
        (b"\x30abc", True),  # three bytes
        (b"\x1f\x00\x01\x00\xff\xff\xff\xff\x00\x50zeros", True),  # over a thousand zeros
    ],
)
def test_damaged_data_is_malformed(data: bytes, compressed: bool) -> None:
    packed = pack_activations(random_codes((5, 2, 3, 4), 4))
    assert (len(packed.data), packed.compressed) == (60, False)
    with pytest.raises(MalformedMessage):
        unpack_activations(replace(packed, data=data, compressed=compressed))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=80), bits=BITS)
def test_arbitrary_lz4_gives_codes_or_is_malformed(data: bytes, bits: int) -> None:
    packed = replace(pack_activations(random_codes((5, 2, 3, 4), bits)), data=data, compressed=True)
    try:
        codes = unpack_activations(packed).codes
    except MalformedMessage:
        return
    assert codes.shape == (5, 2, 3, 4)
    assert (codes < 2**bits).all()


@pytest.mark.parametrize("samples", [64, 128, 256, 512, 1024])
def test_the_range_is_that_of_the_whole_map_and_not_of_its_border(samples: int) -> None:
    # Maps of 8 x 8 as they cross in a ResNet-18 at 32 pixels: a stride of 8 over them would read the border alone.
    values = np.random.default_rng(samples).standard_normal((samples, 3, 8, 8), np.float32)
    values[:, :, :, 0] *= 0.1
    error = np.square(values - dequantize(quantize(values, 4))).mean()
    assert error < 0.03
