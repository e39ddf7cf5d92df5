"""Device, dtype, memory format and threads, chosen by measurement. The one place that knows of devices."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import ConfigError, ReflexarcError
from hierarchy.small_maps import multiply_small_maps

# Timed steps of each candidate, after one to warm up. They take turns and the fastest of each counts, as others
# may use the machine too: two steps each were too few on a busy machine to tell layouts apart that differ by a fifth.
TIMED_STEPS = 5
# Samples in a timed step at most. Half a step tells as much, and a robot's first samples wait for it at the trainer.
TIMED_AT_ONCE = 32
# At least, as normalisation over one sample's only pixel has no variance.
MIN_AT_ONCE = 2
# Whoever is this much slower than the fastest in so many steps is not timed again. One alone may have been held up:
# bfloat16 went out that way in four of eight runs on a busy machine.
HOPELESS, CHANCES = 1.5, 3
# No step is begun after so many seconds: a robot's first samples wait for the measurement, as all else at the trainer,
# whom robots take for gone after 20.
MAX_SECONDS = 5.0
# Plain float32 stays unless another way is at least this much faster: near ties should not change with the weather.
WORTH_CHANGING = 0.95
# The gradient's norm may be off by this share of float32's. Right kernels were off by 4 % at most with eight samples or
# more; a wrong one of oneDNN's by 22 % and 40 %, behind two and four other layers (docs/results/computing.md).
# Normalisation over two samples' only pixels has no gradient to speak of: there right bfloat16 is off by 76 %, and left
# out as well.
MAX_OFF = 0.15
# Of which a median says something.
MIN_STEPS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a segment is computed.

    small_maps: convolutions with a small output as matrix products. folded: of a network that stands still,
    normalisation folded into convolutions, without Python between the layers.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    small_maps: bool = False
    folded: bool = False

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        products = ", small maps as matrices" if self.small_maps else ""
        folded = ", folded" if self.folded else ""
        return f"{self.device.type}, {self.dtype_name}{layout}{products}{folded}"

    @property
    def dtype_name(self) -> str:
        """The dtype as a checkpoint or a log holds it, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def settings(self) -> dict[str, Any]:
        """All but the device, as JSON can hold it."""
        settings = {"dtype": self.dtype_name, "channels_last": self.channels_last, "small_maps": self.small_maps}
        return {**settings, "folded": True} if self.folded else settings

    @classmethod
    def from_settings(cls, device: torch.device, settings: dict[str, Any]) -> Compute:
        """Return the way to compute on a device, of such settings."""
        return cls(
            device=device,
            dtype=getattr(torch, settings["dtype"]),
            channels_last=settings["channels_last"],
            small_maps=settings["small_maps"],
            folded=settings.get("folded", False),
        )

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and into the memory format, in place, and have its convolutions computed so."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        multiply_small_maps(module, yes=self.small_maps)
        return module

    def tensor(self, values: NDArray[np.float32]) -> Tensor:
        """Return float32 (N, C, ...) on the device and in the memory format."""
        placed = torch.from_numpy(values).to(self.device)
        layout = torch.channels_last if self.channels_last and placed.ndim == 4 else torch.contiguous_format
        return placed.contiguous(memory_format=layout)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which a forward pass runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_device(name: str) -> torch.device:
    """Return the device of that name, for auto the fastest kind there is. Raises ConfigError where it is missing."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if name not in available:
        raise ConfigError(f"--device {name}: use auto, {', '.join(available)}")
    if not available[name]:
        raise ConfigError(f"--device {name}: this machine has none; use --device auto or --device cpu")
    return torch.device(name)


def set_threads(threads: int) -> None:
    """Let PyTorch use that many processor cores; 0 leaves its own choice."""
    if threads:
        torch.set_num_threads(threads)


def ways_to_compute(device: torch.device) -> list[Compute]:
    """Return the ways to compute that are worth trying there, plain float32 first, then by how often each wins.

    On a machine that is busy there may be no time for the last ones.
    """
    plain, channels_last = Compute(device=device), Compute(device=device, channels_last=True)
    half = replace(channels_last, dtype=torch.bfloat16)
    if device.type != "cpu":  # a GPU's library has better ways than small maps as matrix products
        return [plain, half, channels_last]
    found = [plain, replace(half, small_maps=True), channels_last, replace(plain, small_maps=True), half]
    return [one for one in found if one.dtype == torch.float32 or has_bfloat16()]


def has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor: where it does not, a step takes seven times as long."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fastest(
    device: torch.device, training_step: Callable[[Compute, int], Callable[[], float]], samples: int
) -> Compute:
    """Return the way to compute that takes a training step in the least time on this machine, and computes it right.

    training_step: given a way and a number of samples, returns a function that takes one step, and returns the norm of
    its gradient; the measurement calls it a few times. Each way's first step must be of the same weights and samples.
    samples: of a step as it will be; fewer where they are many, or slow.
    """
    plain, *others = ways_to_compute(device)
    count = min(samples, TIMED_AT_ONCE)
    step = training_step(plain, count)
    seconds, norm = _timed(step)
    end = time.perf_counter() + MAX_SECONDS
    most = MAX_SECONDS / (2 * (1 + len(others)))  # for two steps of each way
    if seconds > most:
        count = max(MIN_AT_ONCE, int(count * most / seconds))
        step = training_step(plain, count)
        seconds, norm = _timed(step)
    steps, first, best = {plain: step}, {plain: seconds}, dict[Compute, float]()

    def time_again(way: Compute) -> None:
        if time.perf_counter() <= end:
            best[way] = min(_timed(steps[way])[0], best.get(way, float("inf")))

    # Each is timed right behind its first step, which takes seconds longer on a busy machine: there may be no time for
    # anything behind the last one.
    time_again(plain)
    for candidate in others:
        if time.perf_counter() > end:
            break
        try:
            step = training_step(candidate, count)
            seconds, its_norm = _timed(step)
        except RuntimeError:  # this device has no kernel for that dtype or layout
            continue
        except ReflexarcError as error:
            log.warning("not computed as %s: %s", candidate, error)
            continue
        if not abs(its_norm - norm) <= MAX_OFF * norm:  # true for NaN, too
            log.warning("not computed as %s: its gradient is %.3g here, and float32's %.3g", candidate, its_norm, norm)
            continue
        steps[candidate], first[candidate] = step, seconds
        time_again(candidate)
    for taken in range(1, TIMED_STEPS):
        for candidate in steps:
            if taken >= CHANCES and candidate in best and best[candidate] > HOPELESS * min(best.values()):
                continue
            time_again(candidate)
    best = first | best  # a first step is better than nothing
    fastest_other = min(best, key=best.__getitem__)
    return fastest_other if best[fastest_other] < WORTH_CHANGING * best[plain] else plain


def _timed(step: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds that a step takes, and what it returns."""
    start = time.perf_counter()
    norm = step()
    return time.perf_counter() - start, norm


def step_seconds(step: Callable[[], object], seconds: float, until: Callable[[], bool] = lambda: True) -> float:
    """Return the median time that a step takes, of those in so many seconds, and of MIN_STEPS at least.

    until: steps go on until it says so, too.
    """
    step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_STEPS or time.perf_counter() < end or not until():
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
