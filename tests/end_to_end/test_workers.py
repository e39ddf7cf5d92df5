"""A trainer of two processes: three robots are shared out, Ctrl-C ends both well, a worker that dies ends the other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from broker.wire.messages import Receipt, TrainerState
from broker.wire.topics import topic
from cloud_trainer.shard import worker_of
from hierarchy.runtime.checkpoint import CHECKPOINT
from hierarchy.runtime.run_folder import SUMMARY

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program, Recorder

ROBOTS = ["spread-1", "spread-2", "spread-3"]
FLAGS = ["--trainer", "spread", "--workers", "2", "--practice", "0"]
READY = "connected; waiting for robots"


@pytest.fixture(name="recorder")
def _recorder(mosquitto_url: str, record: type[Recorder]) -> Iterator[Recorder]:
    recorder = record(mosquitto_url)
    yield recorder
    recorder.close()


def workers_of(trainer: Program) -> list[psutil.Process]:
    children = psutil.Process(trainer.pid).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]


def test_robots_are_shared_out_and_ctrl_c_loses_nothing(
    mosquitto_url: str, launcher: Launcher, pictures: Path, recorder: Recorder
) -> None:
    trainer = launcher.trainer(mosquitto_url, *FLAGS)
    # Else robots begin with the first worker, and what is on the way when the second one comes they send again.
    trainer.until(lambda: trainer.printed.count(READY) == 2, "both workers are there")
    robots = [launcher.robot(mosquitto_url, name, f"folder:{pictures}/few") for name in ROBOTS]
    assert [robot.wait() for robot in robots] == [0, 0, 0]
    for name in ROBOTS:
        trainer.until_it_says(f"cloud-trainer spread-{worker_of(name, 2)}: robot {name} has gone")
    processes = workers_of(trainer)
    assert len(processes) == 2
    for process in processes:  # as a terminal or systemd does, which reach every process
        process.send_signal(signal.SIGINT)
    assert trainer.interrupt() == 0, trainer.printed
    workers = [trainer.worker(number) for number in range(2)]
    for name, robot in zip(ROBOTS, robots, strict=True):
        at = worker_of(name, 2)
        assert [name in worker.summary["robots"] for worker in workers] == [number == at for number in range(2)]
        assert workers[at].summary["robots"][name]["images"] == robot.images() > 0
        assert workers[1 - at].images(name) == 0
        assert (workers[at].run_dir / "checkpoint" / name / CHECKPOINT).exists()
        receipts = recorder.messages(Receipt, topic("robot", name, "receipt"))
        assert {receipt.outcome for receipt in receipts} == {"accepted"}, "nothing was sent twice"
    assert sorted(trainer.summary["robots"]) == ROBOTS
    assert trainer.summary["images"] == sum(robot.images() for robot in robots)
    assert "Traceback" not in trainer.printed
    assert "both train for every robot" not in trainer.printed
    assert recorder.messages(TrainerState, topic("trainer", "spread", "state")) == []
    for number in range(2):
        assert not recorder.messages(TrainerState, topic("trainer", f"spread-{number}", "state"))[-1].online


def test_a_worker_that_dies_ends_the_others(mosquitto_url: str, launcher: Launcher) -> None:
    trainer = launcher.trainer(mosquitto_url, *FLAGS)
    trainer.until(lambda: trainer.printed.count(READY) == 2, "both workers are there")
    processes = workers_of(trainer)
    processes[0].kill()
    assert trainer.wait() == 1, trainer.printed
    assert "was killed by SIGKILL: the others were stopped; the same --run-dir goes on from here" in trainer.printed
    assert not any(process.is_running() for process in processes)
    summaries = [(trainer.worker(number).run_dir / SUMMARY).exists() for number in range(2)]
    assert summaries.count(True) == 1


def test_a_parent_that_dies_leaves_no_workers(mosquitto_url: str, launcher: Launcher) -> None:
    trainer = launcher.trainer(mosquitto_url, *FLAGS)
    trainer.until(lambda: trainer.printed.count(READY) == 2, "both workers are there")
    processes = workers_of(trainer)
    trainer.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    assert all((trainer.worker(number).run_dir / SUMMARY).exists() for number in range(2))


def test_a_second_ctrl_c_ends_all_at_once(mosquitto_url: str, launcher: Launcher) -> None:
    trainer = launcher.trainer(mosquitto_url, *FLAGS)
    trainer.until(lambda: trainer.printed.count(READY) == 2, "both workers are there")
    processes = workers_of(trainer)
    for process in processes:
        process.suspend()  # or they might be done before
    trainer.send(signal.SIGINT)
    trainer.until_it_says("a second Ctrl-C ends them at once")
    trainer.send(signal.SIGINT)
    assert trainer.wait() == 130, trainer.printed
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []


def test_the_reason_that_a_worker_gives_is_the_trainers(mosquitto_url: str, launcher: Launcher) -> None:
    trainer = launcher.trainer(mosquitto_url, *FLAGS, "--credentials", "missing.toml")
    assert trainer.wait() == 2, trainer.printed
    assert "cloud-trainer spread-0: --credentials missing.toml: No such file" in trainer.printed
    assert "ended with exit status 2: the others were stopped" in trainer.printed
