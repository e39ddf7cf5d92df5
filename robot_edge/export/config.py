"""Settings of `robot-edge export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from broker.errors import ConfigError
from broker.program.paths import typed_path
from hierarchy.runtime.command_line import check_range
from robot_edge.run.given_paths import check_files, check_folder_to_write, check_former_run
from robot_edge.sources.kinds import check_source

Format = Literal["onnx", "torchscript"]
Part = Literal["exit", "edge", "whole"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of `robot-edge export`."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of the robot."""
    format: Format = "onnx"
    """Which runtime is to run it: ONNX Runtime, or PyTorch's C++ library without Python (torchscript)."""
    part: Part = "exit"
    """exit: what the exit says. edge: that, and the activations that cross the cut, for a program that sends them
    itself. whole: what the cloud's half says, behind the robot's front; it needs --rest."""
    rest: str = ""
    """The cloud's half for --part whole: the folder that `cloud-trainer export` wrote."""
    precision: Literal["fp32", "int8"] = "fp32"
    """int8: a quarter of the size, and faster on most processors, for some accuracy. With --format onnx."""
    out: str = ""
    """File to write; its metadata goes beside it, too, into FILE.json. Default: export/ in the run folder."""
    source: str = field(default="", repr=False)  # its URL may have a password
    """Labelled frames to compare on, as for `robot-edge run`. Default: those that the run held out."""
    labels: str = ""
    """Labels of --source, as for `robot-edge run`."""
    images: int = 0
    """Frames to compare on at most; 0 for all."""
    most_accuracy_lost: float = 1.0
    """Percentage points of accuracy that int8 may lose. More fail the export."""
    threads: int = 0
    """Processor cores to compute and to time on; 0 for all."""

    def __post_init__(self) -> None:
        for name in ("run", "rest", "out"):
            if text := getattr(self, name):
                object.__setattr__(self, name, str(typed_path(text)))
        check_range("images", self.images, 0, 10**9)
        check_range("most-accuracy-lost", self.most_accuracy_lost, 0, 100)
        check_range("threads", self.threads, 0, 1024)
        if self.precision == "int8" and self.format != "onnx":
            raise ConfigError(f"--precision int8 --format {self.format}: int8 is there for --format onnx alone")
        if (self.part == "whole") != bool(self.rest):
            raise ConfigError(
                "--part whole needs --rest FOLDER, the cloud's half as `cloud-trainer export` writes it"
                if not self.rest
                else f"--rest {self.rest} is for --part whole"
            )

    @property
    def path(self) -> Path:
        """The file to write."""
        suffix = SUFFIXES[self.format]
        name = self.part if self.precision == "fp32" else f"{self.part}-{self.precision}"
        path = Path(self.out) if self.out else Path(self.run) / "export" / f"{name}{suffix}"
        return path if path.suffix == suffix else path.with_name(path.name + suffix)

    def check_paths(self) -> None:
        """Raise ConfigError for a path at which nothing can be read or written."""
        check_former_run(Path(self.run), "robot-edge export", "the --run-dir of a robot")
        if self.source:
            check_source(self.source, "--source")
        check_files(labels=self.labels)
        if self.path.is_dir():
            raise ConfigError(f"--out {self.path} is a folder; name a file")
        check_folder_to_write(self.path.parent, "--out")
