"""What `cloud-trainer cluster` says to people."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from broker.errors import ConfigError
from cloud_trainer.cluster import commands, run
from cloud_trainer.cluster.board import DEAD_SECONDS, Board
from tests.postgres import PostgresServer


@pytest.mark.parametrize("store", ["", "runs/store.db", "postgre://trainer@host/robots"])
def test_a_cluster_whose_store_is_no_database_is_told_what_one_is(store: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://USER@HOST/DATABASE"):
        commands.status(store)
    with pytest.raises(ConfigError, match="postgresql://USER@HOST/DATABASE"):
        commands.move("r1", "trainer-0", store)


def test_a_store_without_a_cluster_is_named(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands.status(database_url)
    assert f"is {database_url} the --store" in capsys.readouterr().out


def test_an_actor_that_is_gone_is_called_that_and_gets_no_robots(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Board(database_url)) as board:
        board.make()
        for name in ("trainer-0", "trainer-1"):
            board.join(name, "actor", "boot", "here:1")
    with psycopg.connect(database_url, autocommit=True) as database:
        gone = f"UPDATE cluster_members SET seen = now() - interval '{DEAD_SECONDS + 5} s' WHERE name = 'trainer-0'"
        database.execute(gone.encode())
    commands.status(database_url)
    ended, there = capsys.readouterr().out.splitlines()
    assert ended.endswith(": gone")
    assert not there.endswith(": gone")
    with pytest.raises(ConfigError, match="no actor trainer-0: trainer-1"):
        commands.move("r1", "trainer-0", database_url)


def test_two_stores_of_one_database_have_a_cluster_each(postgres: PostgresServer, database_url: str) -> None:
    other = postgres.make(f"{database_url.rpartition('%3D')[2]}_other")
    with closing(Board(database_url)) as first, closing(Board(other)) as second, closing(Board(other)) as third:
        for board in (first, second, third):
            board.make()
        assert first.become_coordinator()
        assert second.become_coordinator()
        assert not third.become_coordinator(), "of one store"


def test_a_ray_that_another_cluster_began_for_itself_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [
        ["python", "-c", "--gcs-address=192.0.2.9:1"],
        ["/lib/ray/raylet", f"--node-name={run.OWN_NODE}", "--gcs-address=192.0.2.9:2"],
    ]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(run, "command_lines", lambda: programs)
    assert run.started_ray() == ""
    programs.append(["/lib/ray/raylet", "--gcs-address=192.0.2.9:3"])
    assert run.started_ray() == "192.0.2.9:3"
    monkeypatch.setenv("RAY_ADDRESS", "ray://there:1")
    assert run.started_ray() == "ray://there:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Traceback\n  File\nbroker.errors.ConfigError: --checkpoints a://b: Protocol not known",
            "--checkpoints a://b",
        ),
        ("Traceback\n  File\nKeyError: 'r1'", "Traceback"),
    ],
)
def test_an_actor_that_cannot_begin_says_why_and_a_fault_of_ours_where(text: str, said: str) -> None:
    assert run.why(RuntimeError(text)).startswith(said)
