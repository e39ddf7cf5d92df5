"""A network as the bytes of a file that another runtime reads, and that runtime."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import ConfigError
from robot_edge.export.config import Format
from robot_edge.sources.frames import Pixels

# The input, and what the metadata is filed under.
INPUT, METADATA = "frames", "reflexarc"
ANSWERS, CROSSING = ("probabilities", "confidence", "unknown"), "activations"
# Where the head is, which takes next to no time and decides between classes: it stays in float32.
HEAD = "judgement"
# Operators with weights.
HEAVY = ["Conv", "Gemm", "MatMul"]

# What a file makes of frames uint8 (N, H, W, 3): its outputs, in their order.
Runner = Callable[[Pixels], list[NDArray[Any]]]


def exported(network: nn.Module, kind: Format, example: Pixels, outputs: Sequence[str], metadata: str) -> bytes:
    """Return a network as a file, with metadata (JSON) inside. example: frames uint8 (N, H, W, 3), N > 1.

    Raises ConfigError where packages are missing.
    """
    frames = torch.from_numpy(example)
    if kind == "torchscript":
        return _torchscript(network, frames, metadata)
    with _needs_export_packages():
        import onnx
    model = onnx.load_from_string(_onnx(network, frames, outputs))
    return _with_metadata(model, metadata)


def int8(model: bytes, calibration: Pixels, metadata: str) -> bytes:
    """Return an ONNX model whose layers compute in int8, but for the head.

    calibration: frames uint8 (N, H, W, 3) that ranges of activations are taken from.
    """
    with _needs_export_packages():
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Pixels] = iter(calibration[:, None])

        def get_next(self) -> dict[str, Pixels] | None:
            frame = next(self._left, None)
            return None if frame is None else {INPUT: frame}

    whole = onnx.load_from_string(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder, "int8.onnx")
        quantize_static(
            whole,
            target,
            Frames(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=HEAVY,
            nodes_to_exclude=[node.name for node in whole.graph.node if _is_head(node)],
            per_channel=True,
            reduce_range=True,  # processors without VNNI saturate otherwise
        )
        return _with_metadata(onnx.load(target), metadata)


def runner(kind: Format, model: bytes, threads: int) -> Runner:
    """Return what runs a file's bytes. threads: processor cores; 0 leaves the runtime its choice."""
    if kind == "torchscript":
        with _quiet():
            loaded = torch.jit.load(io.BytesIO(model))  # type: ignore[no-untyped-call]

        @torch.inference_mode()
        def run(frames: Pixels) -> list[NDArray[Any]]:
            # The executor would otherwise compile anew for each number of frames.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return [one.numpy() for one in loaded(torch.from_numpy(frames))]

        return run
    with _needs_export_packages():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda frames: list(session.run(None, {INPUT: frames}))


def _torchscript(network: nn.Module, frames: Tensor, metadata: str) -> bytes:
    with _quiet(), torch.inference_mode():  # what is to replace it needs a C compiler at the other end
        traced = torch.jit.trace(network, frames, check_trace=False)  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files={f"{METADATA}.json": metadata})
    return buffer.getvalue()


def _onnx(network: nn.Module, frames: Tensor, outputs: Sequence[str]) -> bytes:
    """Return an ONNX model by tracing; where that lacks an operator, by torch.export, which takes ten times as long."""
    buffer, export = io.BytesIO(), partial(torch.onnx.export, network, input_names=[INPUT], output_names=list(outputs))
    with _quiet(), torch.no_grad():
        try:
            axes = {name: {0: "batch"} for name in (INPUT, *outputs)}
            export(args=(frames,), f=buffer, dynamo=False, dynamic_axes=axes)  # type: ignore[arg-type]  # it takes a stream
            return buffer.getvalue()
        except (torch.onnx.errors.UnsupportedOperatorError, torch.onnx.errors.SymbolicValueError):
            shapes = ({0: torch.export.Dim("batch")},)
            program = export(args=(frames,), dynamo=True, dynamic_shapes=shapes, verbose=False)
            assert program
            model: bytes = program.model_proto.SerializeToString()
            return model


def _with_metadata(model: Any, metadata: str) -> bytes:
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    found: bytes = model.SerializeToString()
    return found


def _is_head(node: Any) -> bool:
    """Whether a node is of the head, by its name or by the scopes that torch.export notes."""
    return HEAD in node.name or any(HEAD in one.value for one in node.metadata_props)


@contextmanager
def _needs_export_packages() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"--format onnx: {error}: pip install 'reflexarc[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters' warnings about themselves from the terminal."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
