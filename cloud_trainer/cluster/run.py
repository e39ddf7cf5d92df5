"""`cloud-trainer cluster run`: starts ingest and actors on Ray, and sees that each robot's log has an actor.

The program itself is the coordinator. It has no torch and no broker; what it knows is on the board.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

from broker.errors import ConfigError, MachineError, ReflexarcError
from cloud_trainer.cluster import processes, shares
from cloud_trainer.cluster.board import Board
from cloud_trainer.cluster.config import ClusterConfig
from cloud_trainer.store.opening import open_store
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.page import page_server

if TYPE_CHECKING:
    from cloud_trainer.cluster.page import ClusterPage
    from hierarchy.runtime.page.server import PageServer

# How often the coordinator looks.
LOOK_SECONDS = 1.0
# An actor that is away for longer has its logs shared out: Ray starts one anew within seconds where it can.
GONE_SECONDS = 60.0
# What a Ray is called that a cluster began for itself.
OWN_NODE = "reflexarc-own"
# What Ray keeps for objects that processes hand each other; ours hand over none.
OBJECT_BYTES = 80_000_000
# Processes that have not begun by then are spoken of: Ray waits without an end for cores that it lacks.
NOTICE_SECONDS = 60.0
# For processes to write everything down, at the end.
END_SECONDS = 90.0
# Of Ray's own: figures, usage and a page, which nobody asked for. By itself it lets its processes give way to all else.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}

log = logging.getLogger("cloud-trainer")


class Cluster:
    """The processes of one cluster, as the program that started them sees them."""

    def __init__(self, config: ClusterConfig, run_dir: Path) -> None:
        """Connect to store and Ray, and start all. Raises ConfigError and MachineError."""
        self._config = config
        self._run_dir = run_dir
        open_store(config.store, config.training(config.threads)).close()
        self._board = Board(config.store)
        self._board.make()
        if not self._board.become_coordinator():
            self._board.close()
            raise ConfigError(f"another `cloud-trainer cluster run` uses {config.store}: end that first")
        connect_ray(config)
        self._former = [one.name for one in self._board.members()]
        given = asdict(config)
        del given["page"], given["track"]  # which are this program's
        self.ingest = {
            f"{config.trainer}-ingest-{number}": _start(processes.IngestProcess, 0, given, number, run_dir)
            for number in range(config.ingest)
        }
        self.actors = {
            f"{config.trainer}-{number}": _start(processes.ActorProcess, 1, given, number, run_dir, gpus=_gpus())
            for number in range(config.actors or default_actors())
        }
        self._shared: tuple[str, ...] = ()

    def wait_until_ready(self, stopped: Callable[[], bool]) -> None:
        """Wait until all processes have begun, or ``stopped`` says so. Raises what kept one from it."""
        waited_for = [process.ready.remote() for process in [*self.ingest.values(), *self.actors.values()]]
        notice = time.monotonic() + NOTICE_SECONDS
        while waited_for and not stopped():
            ready, waited_for = ray.wait(waited_for, num_returns=len(waited_for), timeout=LOOK_SECONDS)
            ray.get(ready)  # raises what ended one
            if waited_for and time.monotonic() > notice:
                notice = math.inf
                log.warning("waiting for %d processes: Ray may lack cores for them (--actors)", len(waited_for))
        gone = [name for name in self._former if name not in {**self.ingest, **self.actors}]
        self._board.leave(gone)
        self._adopt()

    def _adopt(self) -> None:
        """Let logs that the store has from another trainer have actors."""
        with closing(open_store(self._config.store, self._config.training(self._config.threads))) as store:
            known = {name for name, _, _ in self._board.shares()}
            self._board.adopt([one for one in store.logs() if one not in known])

    def turn(self) -> None:
        """See that each log has an actor that is there. Raises StorageError."""
        there = tuple(name for name in self._board.there(GONE_SECONDS) if name in self.actors)
        if not there or there == self._shared:
            return
        moved = shares.moves(self._board.shares(), there)
        for one, actor in moved.items():
            self._board.move(one, actor)
        if moved:
            log.info("%d logs moved: actors are %s", len(moved), ", ".join(there))
        self._shared = there

    def page(self, server: PageServer) -> ClusterPage:
        """Let a server show it. Raises ConfigError and StorageError."""
        from cloud_trainer.cluster.page import ClusterPage  # NiceGUI takes seconds to import

        return ClusterPage(server, self._config, self._board)

    def end(self) -> None:
        """Have all processes write everything down: ingest first, so that nothing comes behind the last checkpoint."""
        for group in (self.ingest, self.actors):
            ending = [process.finish.remote() for process in group.values()]
            _, left = ray.wait(ending, num_returns=len(ending), timeout=END_SECONDS)
            if left:
                log.warning("%d processes have not ended in time: what is in the log is not lost", len(left))
        self._board.leave([*self.ingest, *self.actors])
        self.close()

    def close(self) -> None:
        """Let go of Ray and of the board, without a word to anybody."""
        self._board.close()
        ray.shutdown()


def connect_ray(config: ClusterConfig) -> None:
    """Connect to Ray, or start one on this machine. Raises MachineError."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": True, "namespace": "reflexarc"}
    try:
        if config.ray not in {"auto", "local"}:
            ray.init(address=config.ray, **common)
        elif config.ray == "auto" and (started := started_ray()):
            ray.init(address=started, **common)
        else:
            cores = max(config.actors, os.cpu_count() or 1)
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_BYTES,
                _node_name=OWN_NODE,
                **common,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MachineError(f"no Ray at --ray {config.ray}: {error}") from error


def started_ray() -> str:
    """Return the address of a Ray that this machine belongs to; empty for none.

    One that another `cluster run` began for itself ends with that, and is nobody else's.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    for given in (set(one[1:]) for one in command_lines() if one and Path(one[0]).name == "raylet"):
        address = next((flag.partition("=")[2] for flag in given if flag.startswith("--gcs-address=")), "")
        if address and f"--node-name={OWN_NODE}" not in given:
            return address
    return ""


def command_lines() -> Iterator[list[str]]:
    """Yield those of all programs of this machine; of one that may not be asked, an empty one."""
    for one in psutil.process_iter(["cmdline"]):
        yield one.info["cmdline"] or []


def _gpus() -> float:
    return 1.0 if _resources().get("GPU", 0) else 0.0


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def default_actors() -> int:
    """Return how many actors train: one for each GPU of the cluster, or else for each core."""
    resources = _resources()
    return max(1, int(resources.get("GPU", 0)) or int(resources.get("CPU", 1)))


def _start(kind: type, cores: float, *arguments: object, gpus: float = 0.0) -> Any:
    remote: Any = ray.remote(kind)
    # Ray starts no process again by itself: by default max_restarts is 0.
    options = remote.options(num_cpus=cores, num_gpus=gpus, max_restarts=-1, max_concurrency=2)
    return options.remote(*arguments)


def run(config: ClusterConfig) -> None:
    """Train for every robot at the broker until Ctrl-C. Raises ConfigError, StorageError and MachineError."""
    run_dir = config.run_path.absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    with page_server(config.page, config.trainer) as server:
        _run(Cluster(config, run_dir), server)
    log.info("the log is in %s; the same --store goes on from here", config.store)


def _run(cluster: Cluster, server: PageServer | None) -> None:
    with StopRequest() as stop, ExitStack() as opened:
        try:
            cluster.wait_until_ready(lambda: stop.made)
            page = opened.enter_context(closing(cluster.page(server))) if server else None
            log.info("%d ingest, %d actors; Ctrl-C ends all", len(cluster.ingest), len(cluster.actors))
            while not stop.made:
                _turn(cluster)
                if page:
                    page.look(time.monotonic())
                time.sleep(LOOK_SECONDS)
            log.info("all write everything down; a second Ctrl-C ends them at once")
            cluster.end()
        except ray.exceptions.RayActorError as error:
            cluster.close()
            raise MachineError(f"a process of the cluster cannot begin: {why(error)}") from error
        except BaseException:
            cluster.close()
            raise


def why(error: Exception) -> str:
    """Return what an actor that could not begin says. Ray adds a traceback, which only a fault of ours needs."""
    text = str(error).strip()
    kind, _, said = text.rpartition("\n")[2].partition(": ")
    return said if kind.startswith(f"{ReflexarcError.__module__}.") else text


def _turn(cluster: Cluster) -> None:
    try:
        cluster.turn()
    except ReflexarcError as error:  # the database is away: so it is for all
        log.warning("the coordinator waits: %s", error)
