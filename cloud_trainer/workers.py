"""`cloud-trainer run --workers N`: processes that are a trainer each, for their share of the robots.

The parent starts them, waits, and ends them; it has no broker, no torch and no data. Workers never hear of each other.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import tomli_w

from broker.errors import EXIT_MACHINE, EXIT_SETTING, ConfigError
from broker.program.ending import report
from broker.program.machine import refused
from broker.program.startup import prepare_pytorch
from cloud_trainer.config import TrainerConfig
from cloud_trainer.shard import Shard, worker_folder, worker_folders
from cloud_trainer.store.opening import STORE
from cloud_trainer.summary import join_summaries
from hierarchy.runtime.command_line import STOP_SIGNALS, StopRequest, start_log

# As hierarchy/runtime/run_folder.py has them, which imports torch.
CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
# How soon Ctrl-C is noticed.
POLL_SECONDS = 0.2

# Not fork, as libraries have threads. Not forkserver: where all processes of a service are sent SIGTERM its server dies
# of it, and with that go the exit statuses of workers that are still writing.
_processes = multiprocessing.get_context("spawn")

log = logging.getLogger("cloud-trainer")


def check_folder(run: Path, workers: int) -> None:
    """Raise ConfigError where a folder is no place for so many workers.

    Where a run was made with another number, robots would not find their networks again.
    """
    parent = run.resolve().parent
    if run.resolve() in (siblings := worker_folders(parent)):
        raise ConfigError(
            f"{run} is the folder of one worker, and on its own it would train for all robots: use --run-dir {parent} "
            f"--workers {len(siblings)}"
        )
    if workers > 1 and (run / METRICS).exists() and not (run / STORE).exists():
        raise ConfigError(f"{run} holds a run, but none of workers: choose another --run-dir")
    before = len(worker_folders(run)) or ((run / STORE).exists() and 1)
    if before and before != workers:
        raise ConfigError(
            f"{run} was made with --workers {before}, now it is {workers}, and robots would be looked for in the wrong "
            f"place: use --workers {before}, or another --run-dir, with --weights {run} to begin with its networks"
        )


def worker_configs(config: TrainerConfig, run: Path) -> list[TrainerConfig]:
    """Return each worker's own settings. Raises ConfigError where there is no room for one, as for a page's port."""
    count = config.workers
    cores = max(1, (os.cpu_count() or 1) // count)
    return [
        replace(
            config,
            trainer=Shard(trainer=config.trainer, number=number, workers=count).name,
            run_dir=str(worker_folder(run, number)),
            workers=1,
            threads=config.threads or cores,
            page=replace(config.page, page=config.page.page and config.page.page + number),
            store_gb=config.store_gb / count,
            networks_gb=config.networks_gb / count,
        )
        for number in range(count)
    ]


def run_workers(config: TrainerConfig) -> None:
    """Train with several workers until Ctrl-C, which ends each of them as it would a single trainer.

    Where one of them ends before, the others are ended likewise, and so is this process, with an exit status.
    Raises ConfigError.
    """
    run = config.run_path  # once: by default it has the time in it
    configs = worker_configs(config, run)
    _make_folders(config, run, configs)
    with StopRequest() as stop:
        listening, speaking = _processes.Pipe(duplex=False)
        with speaking:  # closed in any case, or workers would outlast this process
            workers = _start(configs, config.trainer, listening)
            try:
                ended = _wait_for_end(workers, stop)
                names = ", ".join(worker.name for worker in ended)
                begin = f"{names} has ended, so the others" if ended else "the workers"
                log.info("%s write everything down; a second Ctrl-C ends them at once", begin)
                speaking.close()
                for worker in workers:
                    worker.join()
            except KeyboardInterrupt:  # the second
                for worker in workers:
                    worker.kill()
                raise
    _join_summaries(run, configs)
    if failed := ended or [worker for worker in workers if worker.exitcode]:
        sys.exit(_say_what_failed(failed))
    log.info("the run is in %s; the same --run-dir and --workers go on from here", run)


def _make_folders(config: TrainerConfig, run: Path, configs: Sequence[TrainerConfig]) -> None:
    """Make all folders before there is anything in one, for check_folder; config.toml is for --config."""
    try:
        for one in configs:
            one.run_path.mkdir(parents=True, exist_ok=True)
        (run / CONFIG).write_text(tomli_w.dumps(config.as_toml()))
        for folder in (run, *(one.run_path for one in configs)):
            (folder / SUMMARY).unlink(missing_ok=True)  # of a former process, and the run is not over yet
    except OSError as error:
        raise refused(f"--run-dir {run}", error, path=run) from error


def _join_summaries(run: Path, configs: Sequence[TrainerConfig]) -> None:
    """Write one summary of all workers', where each of them has come to write its own."""
    try:
        summaries = [json.loads((one.run_path / SUMMARY).read_text()) for one in configs]
        (run / SUMMARY).write_text(json.dumps(join_summaries(summaries), indent=2) + "\n")
    except OSError as error:
        log.error("there is no %s of all workers: %s", run / SUMMARY, error)


def _wait_for_end(workers: Sequence[SpawnProcess], stop: StopRequest) -> list[SpawnProcess]:
    """Wait until we are asked to stop, or workers end by themselves; return those."""
    while not stop.made:
        wait([worker.sentinel for worker in workers], POLL_SECONDS)
        if ended := [worker for worker in workers if not worker.is_alive()]:
            return ended
    return []


def _start(configs: Sequence[TrainerConfig], trainer: str, stop: Connection) -> list[SpawnProcess]:
    workers = []
    with _signals_ignored(), stop:
        for number, config in enumerate(configs):
            shard = Shard(trainer=trainer, number=number, workers=len(configs))
            workers.append(_processes.Process(target=_work, args=(config, shard, stop), name=shard.name))
            workers[-1].start()
    return workers


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let processes that are started in here never know of Ctrl-C and SIGTERM.

    A terminal sends Ctrl-C to all processes of a program and systemd SIGTERM to all of a service, so each would be told
    twice, by the parent too, and the second one ends at once.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(config: TrainerConfig, shard: Shard, stop: Connection) -> None:
    """Be a worker, until the other end of the pipe is closed: by the parent, or because it is dead."""
    prepare_pytorch()
    from cloud_trainer.trainer import train  # torch takes seconds to import, and the parent can do without

    start_log(config.trainer)
    try:
        train(config, stopped=stop.poll, wanted=shard.wants)
    except Exception as error:
        sys.exit(report(f"cloud-trainer {config.trainer}", error))


def _say_what_failed(failed: Sequence[SpawnProcess]) -> int:
    """Name the workers that ended by themselves; return the exit status for that."""
    statuses = [worker.exitcode or 0 for worker in failed]
    for worker, status in zip(failed, statuses, strict=True):
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        log.error("worker %s %s: the others were stopped; the same --run-dir goes on from here", worker.name, how)
    own = [status for status in statuses if status > 0]  # else it was killed, as where the memory is used up
    return EXIT_SETTING if EXIT_SETTING in own else max(own, default=EXIT_MACHINE)
