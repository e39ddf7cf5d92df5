"""What a run leaves behind: config.toml, metrics.jsonl, summary.json, curves.png, checkpoint/."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import tomli_w

from broker.errors import ConfigError
from hierarchy.checkpoint import write_json
from hierarchy.curves import draw_curves


class RunFolder:
    """A run's folder, open for writing."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        """Create the folder and write config.toml. Raises ConfigError where it holds a run, or cannot be written."""
        self.path = path
        self.checkpoint = path / "checkpoint"
        try:
            if (path / "metrics.jsonl").exists():
                raise ConfigError(f"{path} holds a run already: choose another --run-dir, or remove it")
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.toml").write_text(tomli_w.dumps(config))
            self._metrics = (path / "metrics.jsonl").open("w", buffering=1)
        except OSError as error:
            raise ConfigError(f"--run-dir {path}: {error}") from error

    def add_metrics(self, **values: Any) -> None:
        """Append a line to metrics.jsonl, with the time."""
        self._metrics.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json and curves.png, and close the files."""
        self._metrics.close()
        write_json(self.path / "summary.json", summary)
        draw_curves(self.path / "metrics.jsonl", self.path / "curves.png")
