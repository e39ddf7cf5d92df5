"""What training a robot's network would take, in memory and arithmetic, computed without building it.

A state of 300 bytes names any network and picture size. Its cloud half is put together on PyTorch's meta device, where
tensors have shapes and no values: a training step there allocates nothing, computes nothing and draws no random number,
and shows which tensors would be alive at the same time.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from hierarchy.cloud import CloudSegment
from hierarchy.device import MIN_AT_ONCE, TIMED_AT_ONCE, ways_to_compute

# Weights, gradients and momentum of float32, and two copies of the weights to answer asks with.
BYTES_PER_PARAMETER = 20
# Weights and momentum once more while a checkpoint is written.
BYTES_PER_SAVED_PARAMETER = 8
# The same in each copy that measuring trains, and weights in bfloat16 and in a kernel's own order.
BYTES_PER_COPIED_PARAMETER = 18
# Weights while the whole backbone is built, and as a file of pretrained ones is read.
BYTES_PER_BUILT_PARAMETER = 8
# Classes that a network is taken to have, the default of --most-classes: heads grow after the network was let in.
COUNTED_CLASSES = 1000
# Kernels lay inputs and outputs out anew, and the heap has gaps. docs/costs.md has the peaks measured beside this.
SCRATCH = 1.5
# A step of any network at all: code of kernels, their threads' buffers.
MIN_WORK = 100_000_000
# Values that cross for a whole step: 512 MB. For 64 pictures of 224 pixels, cut after ResNet-50's layer1, it is 51M.
MAX_VALUES_IN_STEP = 2**27
# Bytes of each of those: as codes, dequantized, put together, and on the device.
BYTES_PER_VALUE = 16
# Seconds that a step may take at the speed of plain matrix products, which no network reaches. Other robots' training
# waits for a step, which cannot be broken off; receipts do not.
MAX_STEP_SECONDS = 60.0
# Of a step that is only timed, at that speed; what networks reach is a third of it or less.
TIMED_STEP_SECONDS = 0.3
# Networks whose costs are remembered, those that cannot be built included. Computing them takes a second or two.
MAX_REMEMBERED = 256
# Rows and columns of the matrices that the speed of this machine is measured with, and how often: the best time counts.
SPEED_SIZE, SPEED_TIMES = 1024, 5
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a robot's network takes.

    network: bytes for as long as the trainer has the robot. work: more bytes while it is built, trained or tested;
    only one robot's network works at a time. measuring: more bytes, network and work apart, while the fastest way to
    compute is measured. flops: floating point operations of a training step.
    """

    network: int
    work: int
    measuring: int
    flops: int


class TooCostly(ConfigError):
    """A network that takes more than this trainer has."""


def room_beside(others: Iterable[Cost], cost: Cost, total: int) -> int:
    """Return the bytes that are left of so many beside a network and others: each stays, and the largest work adds.

    Raises TooCostly for less than none.
    """
    known = [*others, cost]
    networks, work = sum(one.network for one in known), max(one.work for one in known)
    if networks + work > total:
        raise TooCostly(
            f"its network takes {cost.network / 1e9:.2f} GB and training it {cost.work / 1e9:.2f} GB more; "
            f"{max(0, total - networks + cost.network) / 1e9:.2f} GB are left (--networks-gb): use smaller pictures, a "
            "later cut or a smaller network"
        )
    return total - networks - cost.work


def cost_of(split: SplitSpec, batch: int, device: torch.device) -> Cost:
    """Return what training a split's cloud half in steps of ``batch`` samples takes, without building it.

    Raises TooCostly where a step is too large, and ConfigError where there is no such network.
    """
    values = batch * math.prod(split.shape)
    if values > MAX_VALUES_IN_STEP:
        raise TooCostly(
            f"a step of {batch} samples of {split.shape} holds {values:,} values, limit {MAX_VALUES_IN_STEP:,}: use a "
            "later cut, a bottleneck or a smaller --batch"
        )
    found = _cost_or_reason(replace(split, bits=1), batch, len(ways_to_compute(device)))
    if isinstance(found, str):
        raise ConfigError(found)
    return found


def check_time(cost: Cost, speed: float) -> None:
    """Raise TooCostly where a step takes too long here. speed: floating point operations a second, at best."""
    if (seconds := cost.flops / speed) > MAX_STEP_SECONDS:
        raise TooCostly(
            f"a training step takes {cost.flops / 1e12:,.1f} TFLOP, here {seconds:,.0f} s at best, limit "
            f"{MAX_STEP_SECONDS:g} s: use a later cut, smaller pictures or a smaller --batch"
        )


def timed_samples(cost: Cost, batch: int, device: torch.device) -> int:
    """Return how many samples a step should have that is only timed: as many as take about a second, two at least."""
    seconds = cost.flops / machine_speed(device)
    return min(batch, max(MIN_AT_ONCE, int(batch * TIMED_STEP_SECONDS / seconds)))


@lru_cache(maxsize=8)
def machine_speed(device: torch.device) -> float:
    """Measure how many floating point operations a second matrix products do on a device, in some 50 ms.

    A processor's own seconds count: what others take of a busy machine makes no network too slow for it.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    matrix = torch.ones(SPEED_SIZE, SPEED_SIZE, device=device)
    best = math.inf
    for _ in range(SPEED_TIMES):
        start = clock()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU, too
        best = min(best, clock() - start)
    return 2 * SPEED_SIZE**3 / best


@lru_cache(maxsize=MAX_REMEMBERED)
def _cost_or_reason(split: SplitSpec, batch: int, ways: int) -> Cost | str:
    try:
        return _cost(split, batch, ways)
    # All of this comes from the robot's words, and torchvision's networks raise whatever they like at them. Nothing is
    # built for real that did not come through here.
    except Exception as error:
        return str(error)[:400] or type(error).__name__


def _cost(split: SplitSpec, batch: int, ways: int) -> Cost:
    with ExitStack() as modes:
        building = modes.enter_context(_Alive())
        modes.enter_context(torch.device("meta"))
        if split.backbone.startswith("regnet_"):
            modes.enter_context(_RealNumbers())
        segment = CloudSegment(split, weights="none")
    rest = nn.Sequential(segment.expansion, segment.rest)
    parameters = sum(one.numel() for one in rest.parameters()) + COUNTED_CLASSES * segment.head.weight.shape[1]
    counter = FlopCounterMode(
        display=False,
        custom_mapping={FLASH: _attention_flops, CONVOLUTION_BACKWARD: _convolution_backward_flops},
    )
    _attend_as_devices_do(rest)
    with _Alive() as step, counter:
        features = rest(torch.empty(batch, *split.shape, device="meta"))
        if features.requires_grad:  # behind a cut at the last layer of all nothing learns but the head
            torch.autograd.backward(features.sum())
    values = BYTES_PER_VALUE * batch * math.prod(split.shape)
    peak = max(
        step.peak + values, BYTES_PER_BUILT_PARAMETER // 4 * building.peak, BYTES_PER_SAVED_PARAMETER * parameters
    )
    work = round(SCRATCH * peak) + MIN_WORK
    copies = ways * BYTES_PER_COPIED_PARAMETER * parameters
    share = min(1.0, TIMED_AT_ONCE / batch)
    return Cost(
        network=BYTES_PER_PARAMETER * parameters,
        work=work,
        measuring=max(0, copies + building.peak + round(share * work) - work - BYTES_PER_PARAMETER * parameters),
        flops=counter.get_total_flops(),
    )


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made in here, as long as anything holds them. peak: the most at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._note(one.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def gone(_reference: object) -> None:
            del self._storages[key]
            self._now -= size

        self._storages[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


def _attend_as_devices_do(rest: nn.Module) -> None:
    """Have attention computed in pieces: on the meta device it would be one matrix for each head and sample."""
    for one in rest.modules():
        if isinstance(one, nn.MultiheadAttention):
            one.forward = partial(_attention, one)  # type: ignore[method-assign]


def _attention(layer: nn.MultiheadAttention, tokens: Tensor, *_same: Tensor, **_options: Any) -> tuple[Tensor, None]:
    """Attend from tokens (N, T, D) to themselves, as vision transformers do."""
    together = nn.functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (
        one.reshape(*one.shape[:2], layer.num_heads, -1).transpose(1, 2).contiguous() for one in together
    )
    mixed = FLASH(query, key, value)[0].transpose(1, 2).flatten(2)
    return layer.out_proj(mixed), None


def _attention_flops(query: Any, key: Any, value: Any, *_more: Any, out_shape: Any = None, **_options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _convolution_backward_flops(gradient: Any, inputs: Any, weight: Any, *more: Any, **_options: Any) -> int:
    """Count each gradient as the convolution itself. torch 2.14 counts a depthwise one's weights channels times."""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, (to_inputs, to_weight, _) = more
    return int(conv_flop_count(inputs, weight, gradient, transposed=transposed) * (to_inputs + to_weight))


class _RealNumbers(TorchFunctionMode):
    """Lets small tensors have values on the meta device: RegNet computes its layers' widths with them."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)
