"""What the wire does to activations: how small they get, beside their entropy, and how fast, beside memcpy.

    python benchmarks/codec.py [--source folder:PATH]

On activations of a network that was trained on the source for a while. "Ours" is what goes up; beside it are other
codecs of the same bit planes, which are of Gray codes, bit planes of the codes in another form or order, and codes in a
row, each with all its bits. "Zlib runs" looks for runs of one byte only, as ours does up to 6 bits. Zstandard is there
where it is installed. Its figures are in docs/results/codec.md.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import lz4.block
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from recording import Table, record
from whole_network import frames_of

from broker.wire.quantize import (
    PackedActivations,
    Quantized,
    dequantize,
    pack_activations,
    pack_planes,
    packed_size,
    quantize,
    unpack_activations,
)
from hierarchy.edge import EdgeTrainer, fastest_compute, normalise
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

Codes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size and speed on the wire."""

    source: str = "sim:"
    steps: int = 300
    """Training steps before activations are looked at."""
    samples: int = 64
    """In a message, as a step sends them."""
    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    bottlenecks: tuple[int, ...] = (0, 16)
    seconds: float = 0.3
    """How long each speed is measured."""


class Codec(NamedTuple):
    """Codes of so many bits to bytes."""

    name: str
    encode: Callable[[Codes, int], bytes]


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    tables: list[Table] = []
    for channels in settings.bottlenecks:
        values = activations(settings, channels)
        name = f"{channels} channels" if channels else "all channels"
        tables += [*ratios(settings, values, name), speeds(settings, values, name)]
    record(*tables)


def activations(settings: Settings, channels: int) -> NDArray[np.float32]:
    """Train for a while, and return activations float32 (samples, C, H, W) of frames that come next."""
    torch.manual_seed(0)
    config = RobotConfig.from_flags(source=settings.source, bottleneck=channels)
    segment, _, _ = build_edge(config.network)
    cpu = torch.device("cpu")
    compute = fastest_compute(segment, image_size=32, batch=config.learning.batch, device=cpu)
    trainer = EdgeTrainer(segment, bits=4, compute=compute, peak_learning_rate=0.05)
    images = config.learning.batch * settings.steps + settings.samples
    reader = frames_of(settings.source, 32, batch=config.learning.batch, images=images, epochs=1000)
    while trainer.steps < settings.steps and (taken := reader.next()) is not None:
        trainer.step(taken.images, taken.names, fresh=len(taken.names), progress=trainer.steps / settings.steps)
    last = reader.next()
    assert last is not None, "the source is too short"
    segment.eval()
    with torch.inference_mode(), compute.autocast():
        encoded = segment.encode(compute.tensor(normalise(last.images)))
    return encoded.float().contiguous().numpy()


def ratios(settings: Settings, values: NDArray[np.float32], name: str) -> list[Table]:
    """Return by how much each codec shortens packed codes, and how fast."""
    table = Table(f"Packed codes / compressed, {name}", "bits", "order-0 entropy", *(one.name for one in codecs()))
    speed: dict[int, list[float]] = {}
    for bits in settings.bits:
        codes = quantize(values, bits).codes
        packed = packed_size(codes.size, bits)
        shorter = [packed / len(one.encode(codes, bits)) for one in codecs()]
        table.row(bits, *(round(one, 2) for one in (bits / max(entropy(codes), 1e-9), *shorter)))
        times = [seconds_of(partial(one.encode, codes, bits), settings) for one in codecs()]
        speed[bits] = [round(packed / one / 1e9, 2) for one in times]
    rates = Table(f"Speed of packed codes, GB/s, {name}", "bits", *(one.name for one in codecs()))
    for bits, cells in speed.items():
        rates.row(bits, *cells)
    return [table, rates]


def speeds(settings: Settings, values: NDArray[np.float32], name: str) -> Table:
    """Return how fast the way to the wire and back is, in bytes of float32, beside copying them."""
    table = Table(
        f"To the wire and back, {name}",
        *("bits", "quantize, pack, compress, GB/s", "of memcpy", "back, GB/s", "back, of memcpy"),
    )
    target = np.empty_like(values)
    copying = seconds_of(lambda: np.copyto(target, values), settings)
    for bits in settings.bits:
        packed = to_wire(values, bits)
        there = seconds_of(partial(to_wire, values, bits), settings)
        back = seconds_of(partial(from_wire, packed), settings)
        cells = [(round(values.nbytes / one / 1e9, 2), round(copying / one, 3)) for one in (there, back)]
        table.row(bits, *cells[0], *cells[1])
    return table


def to_wire(values: NDArray[np.float32], bits: int) -> PackedActivations:
    return pack_activations(quantize(values, bits))


def from_wire(packed: PackedActivations) -> NDArray[np.float32]:
    return dequantize(unpack_activations(packed))


def codecs() -> list[Codec]:
    known = [
        Codec("ours", ours),
        Codec("bit planes, lz4", lambda codes, bits: lz4.block.compress(pack_planes(codes, bits), store_size=False)),
        Codec("bit planes, zlib 1", lambda codes, bits: zlib.compress(pack_planes(codes, bits), 1)),
        Codec("bit planes, zlib 6", lambda codes, bits: zlib.compress(pack_planes(codes, bits), 6)),
        Codec("bit planes, zlib runs", lambda codes, bits: runs(pack_planes(codes, bits))),
        Codec("plain bit planes, zlib runs", lambda codes, bits: runs(pack_planes(plain(codes), bits))),
        Codec("channel by channel, zlib runs", lambda codes, bits: runs(pack_planes(by_channel(codes), bits))),
        Codec(
            "difference to the sample before, zlib runs",
            lambda codes, bits: runs(pack_planes(deltas(codes, bits), bits)),
        ),
        Codec("in a row, lz4", lambda codes, bits: lz4.block.compress(in_a_row(codes, bits), store_size=False)),
        Codec(
            "in a row, lz4, high compression",
            lambda codes, bits: lz4.block.compress(in_a_row(codes, bits), mode="high_compression", store_size=False),
        ),
        Codec("in a row, zlib 1", lambda codes, bits: zlib.compress(in_a_row(codes, bits), 1)),
    ]
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]  # it comes with mcap
    except ImportError:
        return known
    squeeze = zstandard.ZstdCompressor(level=1)
    return [
        *known,
        Codec("bit planes, zstd 1", lambda codes, bits: squeeze.compress(pack_planes(codes, bits))),
        Codec("in a row, zstd 1", lambda codes, bits: squeeze.compress(in_a_row(codes, bits))),
    ]


def ours(codes: Codes, bits: int) -> bytes:
    """Return the data of a message with these codes."""
    any_range = np.ones(codes.shape[1], np.float32)
    return pack_activations(Quantized(codes=codes, low=any_range, step=any_range, bits=bits)).data


def runs(data: bytes) -> bytes:
    """Return a zlib stream whose matches are all runs of one byte."""
    stream = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return stream.compress(data) + stream.flush()


def in_a_row(codes: Codes, bits: int) -> bytes:
    """Return the codes one after another, each with all its bits."""
    each = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(each, bitorder="little").tobytes()


def plain(codes: Codes) -> Codes:
    """Return the codes of which these are the Gray codes: packed, they are the plain bit planes of these."""
    numbers = codes.copy()
    for shift in (1, 2, 4):
        numbers ^= numbers >> np.uint8(shift)
    return numbers


def by_channel(codes: Codes) -> Codes:
    """Return codes (C, N, ...): all that a channel says lies together."""
    return np.ascontiguousarray(np.moveaxis(codes, 1, 0))


def deltas(codes: Codes, bits: int) -> Codes:
    """Return the difference of each sample's codes to those before, modulo the number of levels."""
    result = codes.copy()
    result[1:] -= codes[:-1]
    return result & np.uint8(2**bits - 1)


def entropy(codes: Codes) -> float:
    """Return the order-0 entropy of the codes, in bits."""
    shares = np.bincount(codes.reshape(-1)) / codes.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def seconds_of(work: Callable[[], object], settings: Settings) -> float:
    """Return the median time of a call."""
    work()
    times: list[float] = []
    end = time.perf_counter() + settings.seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
