"""What workers are started with. How they run and end is tested in end_to_end/test_workers.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.errors import ConfigError
from cloud_trainer import workers
from cloud_trainer.config import TrainerConfig
from cloud_trainer.session import session_start
from cloud_trainer.shard import worker_folder
from cloud_trainer.store.opening import STORE
from cloud_trainer.workers import check_folder, worker_configs
from hierarchy.runtime.checkpoint import CHECKPOINT
from hierarchy.runtime.page.options import PageOptions
from hierarchy.runtime.run_folder import RunFolder

CONFIG = TrainerConfig(
    trainer="cloud", workers=4, store_gb=10, networks_gb=6, most_robots=5, batch=16, page=PageOptions(page=8000)
)


def test_workers_share_out_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert worker_configs(CONFIG, tmp_path)[3] == replace(
        CONFIG,
        trainer="cloud-3",
        run_dir=str(tmp_path / "worker-3"),
        workers=1,
        threads=2,
        store_gb=2.5,
        networks_gb=1.5,
        page=PageOptions(page=8003),
    )
    assert {one.threads for one in worker_configs(replace(CONFIG, threads=7), tmp_path)} == {7}
    assert {one.page.page for one in worker_configs(replace(CONFIG, page=PageOptions()), tmp_path)} == {0}
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert {one.threads for one in worker_configs(CONFIG, tmp_path)} == {1}


def test_what_leaves_no_room_for_a_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--page 65536"):
        worker_configs(replace(CONFIG, page=PageOptions(page=65_533)), tmp_path)
    with pytest.raises(ConfigError, match=r"--trainer 'a{63}-0'"):
        worker_configs(replace(CONFIG, trainer="a" * 63), tmp_path)


def test_a_run_keeps_its_number_of_workers(tmp_path: Path) -> None:
    one, two, none = tmp_path / "one", tmp_path / "two", tmp_path / "none"
    one.mkdir()
    (one / STORE).touch()
    for number in range(2):
        worker_folder(two, number).mkdir(parents=True)
    for run, count in ((one, 1), (two, 2), (none, 1), (none, 3)):
        check_folder(run, count)
    for run, before, now in ((one, 1, 2), (two, 2, 1), (two, 2, 3)):
        advice = rf"was made with --workers {before}, now it is {now},.* or another --run-dir, with --weights {run} to"
        with pytest.raises(ConfigError, match=advice):
            check_folder(run, now)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    robot, cloud = tmp_path / "r1", tmp_path / "cloud"
    RunFolder(robot, {"robot": "r1"}).close()
    with pytest.raises(ConfigError, match=r"r1 holds a run, but none of workers: choose another --run-dir"):
        check_folder(robot, 2)
    for folder in (worker_folder(cloud, 0), worker_folder(cloud, 1), cloud / "worker-0.bak"):
        folder.mkdir(parents=True)
    check_folder(cloud, 2)
    with pytest.raises(ConfigError, match=rf"of one worker, .* use --run-dir {cloud} --workers 2"):
        check_folder(worker_folder(cloud, 0), 1)


def test_networks_are_found_in_whichever_worker_had_them(tmp_path: Path) -> None:
    its = worker_folder(tmp_path, 1) / "checkpoint" / "r1"
    worker_folder(tmp_path, 0).mkdir()
    assert session_start._checkpoint_in(tmp_path, "r1") == tmp_path / "checkpoint" / "r1", "as the error should say"
    its.mkdir(parents=True)
    (its / CHECKPOINT).touch()
    assert session_start._checkpoint_in(tmp_path, "r1") == its


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ((-9,), 1),  # killed, as where the memory is used up: another start may mend it
        ((-9, 4), 4),
        ((1, 70), 70),
        ((70, 2), 2),
    ],
)
def test_the_workers_status_says_whose_turn_it_is(statuses: tuple[int, ...], status: int) -> None:
    failed = [SimpleNamespace(name=f"cloud-{number}", exitcode=one) for number, one in enumerate(statuses)]
    assert workers._say_what_failed(failed) == status  # type: ignore[arg-type]
