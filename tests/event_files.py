"""What a run told TensorBoard, as TensorBoard's own reader finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def of_tensorboard(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return steps and values of each tag. run: the run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(run / "tracking" / "tensorboard"))
    events.Reload()
    return {
        tag: [(one.step, make_ndarray(one.tensor_proto).item()) for one in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
