"""Weights & Biases: a folder for `wandb sync`; online where WANDB_MODE says so, or there is a WANDB_API_KEY."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from hierarchy.runtime.tracking.figures import Pair, of_classes
from hierarchy.runtime.tracking.worker import TrackedRun


class WeightsAndBiases:
    """Logs to one run. Its steps count calls, so each curve has its images as an axis."""

    def __init__(self, run: TrackedRun) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._axes: set[str] = set()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "reflexarc"),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=run.folder,
            config=dict(run.settings),
            mode=mode,
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
        )

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**{f"{prefix}{name}": value for name, value in values.items()}, self._axis(prefix): step})

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        self.scalars(prefix, step, of_classes(end, by_class))
        table = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=[list(pair) for pair in confusion])
        fields = {column: column for column in table.columns}
        self._run.log({f"{prefix}{end}/confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, fields)})

    def close(self) -> None:
        self._run.finish()

    def _axis(self, prefix: str) -> str:
        axis = f"{prefix}images"
        if axis not in self._axes:
            self._axes.add(axis)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{prefix}*", step_metric=axis)
        return axis


def open_tracker(run: TrackedRun) -> WeightsAndBiases:
    return WeightsAndBiases(run)
