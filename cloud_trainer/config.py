"""Settings of a cloud trainer, from the command line or a TOML file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.address import parse_broker_urls
from broker.errors import ConfigError
from broker.program.paths import typed_path, what_is_wrong
from broker.wire.topics import check_name
from hierarchy.runtime.command_line import DeviceName, check_range
from hierarchy.runtime.page.options import PageOptions
from hierarchy.runtime.settings import flattened, is_weights_file
from hierarchy.runtime.tracking.options import TrackOptions

# Of URLs of databases.
SCHEMES = ("postgresql://", "postgres://")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the weights depend on beside the log; each is described at TrainerConfig. Kept in the store."""

    batch: int
    learning_rate: float
    rehearse_from: int
    weights: str
    seed: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of `cloud-trainer run`."""

    broker: str = "mqtt://127.0.0.1:1883"
    """The MQTT broker, mqtt://HOST:PORT or mqtts://HOST:PORT for an encrypted connection. Several nodes of
    a cluster have commas between: where one does not answer, the next is tried."""
    credentials: str = ""
    """TOML file with what the broker asks for: ca, certificate and key, or username and password (docs/security.md).
    Default: the environment variables REFLEXARC_MQTT_USERNAME, REFLEXARC_MQTT_PASSWORD and so on."""
    payload_key: str = ""
    """File with the keys that payloads are sealed with, so that the broker's operator reads nothing: payload.key of
    `local-broker provision --seal`. Both ends need theirs. Default: payload_key of --credentials, or no sealing."""
    trainer: str = "trainer"
    """This trainer's name."""
    run_dir: str = ""
    """Folder for metrics, curves, summary and checkpoints. Default: runs/TRAINER-DATE-TIME."""
    store: str = ""
    """Where what robots sent is kept: a file, or a PostgreSQL database, postgresql://USER@HOST/DATABASE
    (docs/how-to/keep-a-run-in-postgresql.md). Default: store.db in --run-dir."""
    checkpoints: str = ""
    """Where checkpoints are kept beside a store in PostgreSQL: a folder, or a URL of fsspec such as s3://BUCKET/RUN.
    Default: --run-dir."""
    weights: str = "none"
    """Where robots start from: none, the run folder of a former run of this trainer, which has a checkpoint for each
    robot's name, or the state dict (.pth, .safetensors) that robots were given with --weights FILE. (Other pretrained
    weights are the robot's choice.)"""

    batch: int = 64
    """Samples in a training step, fresh and rehearsed together."""
    learning_rate: float = 0.02
    """Peak learning rate of SGD, one-cycle where the length of the robot's run is known. Lower than the robot's: what
    the cloud learns from moves while the robot learns."""
    rehearse_from: int = 50_000
    """Samples of each robot, or of each fleet, to rehearse from, in equal shares of its classes. They stay in the
    store, on disk."""
    practice: float = 0.5
    """Training steps on stored samples alone that each new one is worth, for when nothing arrives; 0 for none. However
    many came, the last 200 count: that lets the network settle, and more made it worse."""
    store_gb: float = 10.0
    """Room for what robots sent, in gigabytes. When it is used up, the oldest samples that were trained on are deleted;
    where all still wait for training, robots are told to wait."""
    checkpoint_every: int = 200
    """Steps between two checkpoints of a robot's network. After a crash as many steps at most are taken again."""
    most_robots: int = 64
    """Robots to train for; further ones are told that there is no room."""
    networks_gb: float = 8.0
    """Memory for all robots' networks, in gigabytes: weights, gradients and momentum of each, and the activations of a
    step of the largest, as one trains at a time. It is computed before a network is built, and one that does not fit is
    refused (docs/costs.md). Leave the machine 2 GB beside it."""
    most_classes: int = 1000
    """Classes of one robot, or of one fleet; messages with further ones are rejected. One robot of a fleet may have as
    many to itself as it leaves free."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice, all of them. Where a robot is on this
    machine too, give each its share: with all cores for both, both are slower."""
    seed: int = 0
    """Seed of weights and rehearsal."""
    page: PageOptions = field(default_factory=PageOptions)
    track: TrackOptions = field(default_factory=TrackOptions)

    def __post_init__(self) -> None:
        check_name(self.trainer, "--trainer")
        parse_broker_urls(self.broker)
        if is_weights_file(self.weights) and (wrong := what_is_wrong(typed_path(self.weights))):
            raise ConfigError(f"--weights {typed_path(self.weights)} {wrong}")
        if self.checkpoints and not self.store.startswith(SCHEMES):
            raise ConfigError("--checkpoints is for a store in PostgreSQL: add --store postgresql://USER@HOST/DATABASE")
        check_range("batch", self.batch, 2, 4096)
        check_range("learning-rate", self.learning_rate, 1e-7, 100)
        check_range("rehearse-from", self.rehearse_from, 0, 10**7)
        check_range("practice", self.practice, 0, 1000)
        check_range("store-gb", self.store_gb, 0.001, 10**6)
        check_range("checkpoint-every", self.checkpoint_every, 1, 10**6)
        check_range("most-robots", self.most_robots, 1, 10**4)
        check_range("networks-gb", self.networks_gb, 0.001, 10**6)
        check_range("most-classes", self.most_classes, 1, 65_535)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)

    def training(self, threads: int) -> TrainingSettings:
        """Return the settings that decide what the weights become. threads: how many PyTorch uses."""
        return TrainingSettings(
            batch=self.batch,
            learning_rate=self.learning_rate,
            rehearse_from=self.rehearse_from,
            weights=self.weights,
            seed=self.seed,
            threads=threads,
        )

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return typed_path(self.run_dir or time.strftime(f"runs/{self.trainer}-%Y%m%d-%H%M%S"))

    def as_toml(self) -> dict[str, Any]:
        """Return the settings as --config takes them."""
        return {name: value for name, value in flattened(self).items() if value != ""}
