"""Where a backbone can be cut in two, and the two halves.

A cut is a node of the traced graph behind which nothing else is still needed: exactly one tensor crosses. On
the wire that tensor is (N, C, ...), channels first, whatever layout the network itself uses there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torchvision.models.feature_extraction import NodePathTracer

from broker.errors import CutError
from hierarchy.backbone import Backbone
from hierarchy.strided import StridedViewConv2d
from hierarchy.tracing import traced_apart

# How many cuts an error lists: about a screen. The deepest networks have some hundred.
LISTED = 16
# Axes of a batch of features: samples, channels; and of tokens: samples, tokens, channels.
FEATURES, TOKENS = 2, 3
# In place of a cut: prints all.
LIST_ALL = "list"


@dataclass(frozen=True, kw_only=True)
class CutPoint:
    """A place where the network can be cut.

    name: the node, such as "layer2.1.relu_1".
    module: the outermost module that ends with it, such as "layer2"; None where it ends none.
    shape: of one sample on the wire, channels first.
    channel_axis: where the network itself has the channels of a batch: 1, or the last axis.
    """

    name: str
    module: str | None
    shape: tuple[int, ...]
    channel_axis: int

    @property
    def values(self) -> int:
        """How many numbers one sample has here."""
        return math.prod(self.shape)

    def bytes_at(self, bits: int) -> int:
        """Bytes of one sample, packed at so many bits a value."""
        return -(-self.values * bits // 8)


@dataclass(frozen=True, kw_only=True)
class Divided:
    """Both halves of a backbone; with the same random state rest(front(x)) equals the whole bit for bit.

    The halves hold the backbone's own modules under their own names, not copies: each `state_dict` is a part
    of the whole's, and what one end does not keep is freed together with the backbone.

    front: (N, 3, H, W) -> (N, *shape).
    rest: (N, *shape) -> (N, features).
    cut: the resolved node name.
    shape: of one sample on the wire, channels first.
    features: of a sample behind the rest.
    """

    front: nn.Module
    rest: nn.Module
    cut: str
    shape: tuple[int, ...]
    features: int


def find_cut_points(backbone: Backbone) -> list[CutPoint]:
    """Every place where exactly one tensor crosses, in the order of computation.

    Left out are those before the first layer with parameters, which would send the frame itself, and the features at
    the end, which would leave nothing to the rest.
    """
    return _cut_points(backbone, _trace(backbone, training=True), _trace(backbone, training=False))


def deepest_cut(backbone: Backbone) -> CutPoint:
    """Return the last end of a module that leaves a convolution or a linear layer to the rest.

    Raises CutError where no module ends so.
    """
    train, evaluation = _trace(backbone, training=True), _trace(backbone, training=False)
    places = {name: place for place, name in enumerate(evaluation.names.values())}
    mixes = [places[name] for node, name in evaluation.names.items() if _mixes(node, backbone.module)]
    points = _cut_points(backbone, train, evaluation)
    ends = [point for point in points if point.module is not None and places[point.name] < max(mixes, default=0)]
    if not ends:
        raise CutError(f"{backbone.name} has no module that ends before its last layer: choose a --cut")
    return ends[-1]


def split_backbone(backbone: Backbone, cut: str) -> Divided:
    """Cut behind a node, or behind the last node of a module ("layer2" is "layer2.1.relu_1").

    Raises CutError, with a list of cuts that work, where other than one tensor would cross.
    """
    train, evaluation = _trace(backbone, training=True), _trace(backbone, training=False)
    points = {point.name: point for point in _cut_points(backbone, train, evaluation)}
    name = evaluation.last_nodes().get(cut)
    if name not in points:
        raise CutError(_refusal(backbone.name, cut, exists=name is not None, points=list(points.values())))
    point = points[name]
    layout = _layout(evaluation.node(point.name), point)
    halves = zip(_split(train, point, layout), _split(evaluation, point, layout), strict=True)
    front, rest = (_Half(backbone.module, train=t, evaluation=e) for t, e in halves)
    return Divided(front=front, rest=rest, cut=name, shape=point.shape, features=backbone.features)


class _Half(nn.Module):
    """Runs one part of another module's graph with that module's own submodules and parameters.

    A trace freezes what depended on `self.training` while it ran (functional dropout, stochastic depth), so
    there is one for each mode.
    """

    def __init__(self, whole: nn.Module, *, train: fx.Graph, evaluation: fx.Graph) -> None:
        super().__init__()
        for node in chain(train.nodes, evaluation.nodes):
            if node.op in ("call_module", "get_attr"):
                self._adopt(whole, str(node.target))
        # A GraphModule compiles its graph to a function of its class. Called with this module as `self` it
        # finds the same names here; switching between modes then costs nothing.
        self._forwards: dict[bool, Callable[[nn.Module, Tensor], Tensor]] = {
            True: type(fx.GraphModule(whole, train)).forward,
            False: type(fx.GraphModule(whole, evaluation)).forward,
        }

    def forward(self, x: Tensor) -> Tensor:
        return self._forwards[self.training](self, x)

    def _adopt(self, whole: nn.Module, name: str) -> None:
        path, _, leaf = name.rpartition(".")
        parent: nn.Module = self
        for part in filter(None, path.split(".")):
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        owner = whole.get_submodule(path)
        value = getattr(owner, leaf)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            # A buffer; or a constant of the tracer's, which moves between devices too but is nobody's state.
            saved = leaf in owner._buffers and leaf not in owner._non_persistent_buffers_set
            parent.register_buffer(leaf, value, persistent=saved)
        else:
            setattr(parent, leaf, value)


@dataclass(frozen=True)
class _Trace:
    graph: fx.Graph
    names: dict[fx.Node, str]  # of every node but parameters: the path of its module, and the operation

    def last_nodes(self) -> dict[str, str]:
        """Each module's and node's name -> the name of the last node in it."""
        return {prefix: name for name in self.names.values() for prefix in _prefixes(name)}

    def node(self, name: str) -> fx.Node:
        return next(node for node, its_name in self.names.items() if its_name == name)


def _prefixes(name: str) -> list[str]:
    """Split a.b.c into a, a.b and a.b.c."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _trace(backbone: Backbone, *, training: bool) -> _Trace:
    """Trace as torchvision's and timm's own feature extraction does, their building blocks being single nodes."""
    module, (leaves, functions) = backbone.module, backbone.leaves
    blocks = [op for op in vars(torchvision.ops).values() if isinstance(op, type) and issubclass(op, nn.Module)]
    tracer = NodePathTracer(
        autowrap_modules=(math, torchvision.ops),
        autowrap_functions=functions,
        leaf_modules=[*blocks, StridedViewConv2d, *leaves],
    )
    before = module.training
    try:
        with traced_apart():
            graph = tracer.trace(module.train(training))
    finally:
        module.train(before)
    _fix_options(graph)
    return _Trace(graph, {n: name for n, name in tracer.node_to_qualname.items() if n.op != "get_attr"})


def _fix_options(graph: fx.Graph) -> None:
    """Give what a network takes beside its images, as timm's transformers take a mask, the value that it has unasked.

    It would cross every cut.
    """
    _images, *options = [node for node in graph.nodes if node.op == "placeholder"]
    for option in options:
        unasked = option.args[0] if option.args else None
        for user in list(option.users):
            user.args = fx.node.map_arg(user.args, lambda node: unasked if node is option else node)  # noqa: B023
            user.kwargs = fx.node.map_arg(user.kwargs, lambda node: unasked if node is option else node)  # noqa: B023
        graph.erase_node(option)


def _cut_points(backbone: Backbone, train: _Trace, evaluation: _Trace) -> list[CutPoint]:
    whole, size = fx.GraphModule(backbone.module, evaluation.graph), backbone.image_size
    before = backbone.module.training
    try:
        backbone.module.eval()
        with torch.no_grad():
            ShapeProp(whole).propagate(torch.zeros(2, 3, size, size))
    finally:
        backbone.module.train(before)
    axes = _channel_axes(whole)
    last_nodes = evaluation.last_nodes()
    modules = {name for name, _ in backbone.module.named_modules()}
    in_training = {train.names[node] for node in _alone(train.graph, backbone.module)}
    points = []
    for node in _alone(evaluation.graph, backbone.module):
        name, batch = evaluation.names[node], node.meta.get("tensor_meta")
        if name not in in_training or not isinstance(batch, TensorMetadata):
            continue  # a tuple crosses, or a tensor that the other mode does not have
        if len(batch.shape) == FEATURES and not _learns_behind(evaluation.graph, node, backbone.module):
            continue  # the features already, with no more than a dropout behind them
        ends = (prefix for prefix in _prefixes(name) if prefix in modules and last_nodes[prefix] == name)
        axis, sizes = axes[node], list(batch.shape[1:])
        shape = (sizes.pop(axis - 1), *sizes)
        points.append(CutPoint(name=name, module=next(ends, None), shape=shape, channel_axis=axis))
    return points


def _alone(graph: fx.Graph, module: nn.Module) -> Iterator[fx.Node]:
    """Nodes behind which nothing else is still needed, from the first parameters to before the features.

    Parameters do not count as crossing: each half fetches those that it uses.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in order}
    *_, output = order
    (features,) = output.all_input_nodes
    needed: set[fx.Node] = set()
    learned = False
    for node, place in order.items():
        if node is features:
            return
        learned = learned or _learns(node, module)
        if node.op == "get_attr":
            continue
        needed = {other for other in needed if last_use[other] > place} | {node}
        if learned and needed == {node}:
            yield node


def _mixes(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node is a layer with a matrix; a normalisation has none."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer is not None and any(parameter.ndim > 1 for parameter in layer.parameters())


def _learns(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return any(True for _ in module.get_submodule(str(node.target)).parameters())
    return node.op == "get_attr"


def _learns_behind(graph: fx.Graph, cut: fx.Node, module: nn.Module) -> bool:
    nodes = list(graph.nodes)
    behind = nodes[nodes.index(cut) + 1 :]
    return any(_learns(one, module) or any(source.op == "get_attr" for source in one.all_input_nodes) for one in behind)


def _channel_axes(traced: fx.GraphModule) -> dict[fx.Node, int]:
    """Find the channel axis of everything computed from the images: 1, or the last.

    Followed from node to node, since shapes alone do not tell 8 x 8 x 8 apart. Needs ShapeProp's notes.
    """
    axes: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        batch = node.meta.get("tensor_meta")
        known = [axes[source] for source in node.all_input_nodes if source in axes]
        if batch is None or not (known or node.op == "placeholder"):
            continue  # a size, or what depends on parameters only
        layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.MultiheadAttention):
            axes[node] = 2  # (N, tokens, D); its result is a tuple
        elif not isinstance(batch, TensorMetadata):
            axes[node] = known[0]
        elif order := _permutation(node, layer, len(batch.shape)):
            axes[node] = order.index(known[0])
        elif isinstance(layer, nn.LayerNorm) and known:
            axes[node] = known[0]  # timm has some that work on the first axis
        else:
            works_on_last = isinstance(layer, nn.Linear) or (known and known[0] > 1)
            axes[node] = len(batch.shape) - 1 if works_on_last else 1
    return axes


def _permutation(node: fx.Node, layer: nn.Module | None, axes: int) -> Sequence[int] | None:
    if isinstance(layer, torchvision.ops.Permute):
        return list(layer.dims)
    if node.target in ("transpose", torch.transpose) and axes == TOKENS:  # with more, a ShuffleNet mixes its groups
        order, (one, other) = list(range(axes)), node.args[1:]
        order[one], order[other] = order[other], order[one]  # type: ignore[index]
        return order
    if node.target not in ("permute", torch.permute):
        return None
    dims: tuple[Any, ...] = node.args[1:]
    return list(dims[0] if len(dims) == 1 else dims)  # x.permute((0, 2, 1)) or x.permute(0, 2, 1)


def _layout(node: fx.Node, point: CutPoint) -> torch.memory_format:
    """Decide how the rest lays out what it receives. Needs ShapeProp's notes."""
    if point.channel_axis != 1:
        return torch.contiguous_format  # as the network has it, before its axis was moved
    if node.meta["tensor_meta"].memory_format == torch.channels_last:
        return torch.channels_last  # permuted back, and so in the middle of a ConvNeXt
    return torch.preserve_format  # as the owner chose for speed


def _split(trace: _Trace, point: CutPoint, layout: torch.memory_format) -> tuple[fx.Graph, fx.Graph]:
    nodes, cut = list(trace.graph.nodes), trace.node(point.name)
    behind = nodes.index(cut) + 1
    moved = point.channel_axis != 1

    front = fx.Graph()
    activation = _copy(nodes[:behind], front, {})
    if moved:
        activation = front.call_function(torch.movedim, (activation, point.channel_axis, 1))
    front.output(activation)

    rest = fx.Graph()
    activation = rest.placeholder("activation")
    if moved:
        activation = rest.call_function(torch.movedim, (activation, 1, point.channel_axis))
    # A copy, because the next layer may work in place and the activation is its owner's, who may still
    # rehearse from it; in the layout that the whole network has here, because kernels round by layout.
    activation = rest.call_method("clone", (activation,), {"memory_format": layout})
    _copy(nodes[behind:], rest, {cut: activation})
    return front, rest


def _copy(nodes: Iterable[fx.Node], graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Append copies of the nodes to the graph and return the last; parameters come along where used."""

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    return [copied(node) for node in nodes if node.op != "get_attr"][-1]


def _described(name: str, point: CutPoint) -> str:
    return f"  {name}: {' x '.join(map(str, point.shape))}, {point.bytes_at(8):,} bytes at 8 bits"


def _refusal(backbone: str, cut: str, *, exists: bool, points: Sequence[CutPoint]) -> str:
    wrong = "not exactly one tensor of inner features crosses there" if exists else "it has no such node or module"
    if cut == LIST_ALL:
        return "\n".join([f"{backbone} can be cut behind", *(_described(point.name, point) for point in points)])
    ends = [point for point in points if point.module is not None]
    # The outermost modules where there is no room for all: those are the stages.
    stages = sorted(ends, key=lambda point: str(point.module).count("."))[:LISTED]
    listed = [_described(str(point.module), point) for point in ends if point in stages]
    return "\n".join(
        [
            f"cannot cut {backbone} at {cut!r}: {wrong}. It can be cut behind",
            *listed,
            f"({len(listed)} of {len(points)}; --cut {LIST_ALL} prints all)",
        ]
    )
