"""Settings of a cloud trainer, from the command line or a TOML file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from broker.address import parse_broker_url
from broker.topics import check_name
from hierarchy.command_line import DeviceName, check_range


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of `cloud-trainer run`."""

    broker: str = "mqtt://127.0.0.1:1883"
    """The MQTT broker, mqtt://HOST:PORT or mqtts://HOST:PORT for an encrypted connection."""
    credentials: str = ""
    """TOML file with what the broker asks for: ca, certificate and key, or username and password (docs/security.md).
    Default: the environment variables REFLEXARC_MQTT_USERNAME, REFLEXARC_MQTT_PASSWORD and so on."""
    trainer: str = "trainer"
    """This trainer's name."""
    run_dir: str = ""
    """Folder for metrics, curves, summary and checkpoints. Default: runs/TRAINER-DATE-TIME."""
    weights: str = "none"
    """Where robots start from: none, or the run folder of a former run of this trainer, which has a checkpoint for each
    robot's name. (Pretrained weights are the robot's choice.)"""

    batch: int = 64
    """Samples in a training step, fresh and rehearsed together."""
    learning_rate: float = 0.02
    """Peak learning rate of SGD, one-cycle where the length of the robot's run is known. Lower than the robot's: what
    the cloud learns from moves while the robot learns."""
    rehearsal_mb: float = 64.0
    """Memory for each robot's quantized activations to rehearse, in megabytes."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice."""
    seed: int = 0
    """Seed of weights and rehearsal."""

    def __post_init__(self) -> None:
        check_name(self.trainer, "--trainer")
        parse_broker_url(self.broker)
        check_range("batch", self.batch, 2, 4096)
        check_range("learning-rate", self.learning_rate, 1e-7, 100)
        check_range("rehearsal-mb", self.rehearsal_mb, 0, 10**6)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir or time.strftime(f"runs/{self.trainer}-%Y%m%d-%H%M%S"))

    def as_toml(self) -> dict[str, Any]:
        """Return the settings as --config takes them."""
        return {name: value for name, value in asdict(self).items() if value != ""}
