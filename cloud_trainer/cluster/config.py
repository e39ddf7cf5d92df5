"""Settings of `cloud-trainer cluster run`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from broker.errors import ConfigError
from cloud_trainer.config import SCHEMES, TrainerConfig
from cloud_trainer.store.opening import store_place
from hierarchy.runtime.command_line import check_range


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(TrainerConfig):
    """Settings of `cloud-trainer cluster run`: those of `cloud-trainer run`, and what is spread out."""

    actors: int = 0
    """Processes that train; 0 for one for each core of the cluster, or for each GPU. Robots are shared out among them,
    and move where there are more or fewer of them."""
    ingest: int = 1
    """Processes that take messages in, check and store them; one takes some 1,000 messages a second. Several share the
    robots by their names; each is sent everything by the broker, and lets go of what is not for it."""
    ray: str = "auto"
    """The Ray cluster: auto for the one that `ray start` began on this machine, or else one of this program's own;
    local for one of its own; or an address."""
    threads: int = 1
    """Processor cores for PyTorch in each actor."""
    most_robots: int = 10_000
    """Robots to train for. A robot that is away costs disk only."""
    networks_gb: float = 2.0
    """Memory for robots' networks in each actor, in gigabytes. Networks that nobody uses make room for others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cluster_store(self.store)
        if self.track.trackers:
            raise ConfigError("--track is for `cloud-trainer run`: a cluster has --page, with metrics for Prometheus")
        check_range("actors", self.actors, 0, 4096)
        check_range("ingest", self.ingest, 1, 64)

    @property
    def trainer_config(self) -> TrainerConfig:
        """The settings that a single process has, too."""
        names = {one.name for one in fields(TrainerConfig)}
        return TrainerConfig(**{name: value for name, value in vars(self).items() if name in names})


def check_cluster_store(store: str) -> None:
    """Raise ConfigError where --store is no database, or where its URL holds a password."""
    if not store.startswith(SCHEMES):
        given = f", not {store}" if store else " is missing"
        raise ConfigError(f"--store postgresql://USER@HOST/DATABASE{given}: a cluster's log is a database")
    store_place(store)
