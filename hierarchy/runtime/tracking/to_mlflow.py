"""MLflow: a database in the run's folder, or the server of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from hierarchy.runtime.tracking.figures import Pair, of_classes
from hierarchy.runtime.tracking.worker import TrackedRun

# Its experiment, and the tag that a run which goes on is found by.
EXPERIMENT, TAG = "reflexarc", "reflexarc.run"
# What a metric's name may not have; and how long it, and a parameter, may be.
FORBIDDEN, MAX_NAME, MAX_PARAM = re.compile(r"[^/\w.\- ]"), 250, 500


class Mlflow:
    """Logs to one run of the experiment."""

    def __init__(self, run: TrackedRun) -> None:
        here = run.folder.as_posix()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{here}/mlflow.db")
        found = self._client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        files = None if uri else f"file://{here}/mlflow-artifacts"
        experiment = found.experiment_id if found else self._client.create_experiment(name, files)
        former = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        if former:
            self._run = former[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
        else:
            self._run = self._client.create_run(experiment, run_name=run.name, tags={TAG: run.id}).info.run_id
            params = [Param(key, value[:MAX_PARAM]) for key, value in run.settings.items()]
            self._client.log_batch(self._run, params=params)

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        names = {FORBIDDEN.sub("_", f"{prefix}{name}")[:MAX_NAME]: value for name, value in values.items()}
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in names.items()])

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        self.scalars(prefix, step, of_classes(end, by_class))
        columns = dict(zip(("true", "predicted", "frames"), zip(*confusion, strict=True), strict=False))
        self._client.log_dict(self._run, {"images": step, **columns}, f"{prefix}{end}/confusion.json")

    def close(self) -> None:
        self._client.set_terminated(self._run)


def open_tracker(run: TrackedRun) -> Mlflow:
    return Mlflow(run)
