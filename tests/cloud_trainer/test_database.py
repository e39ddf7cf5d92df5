"""A trainer whose log is in PostgreSQL: it trains to the same bits, gives way to a successor, outlasts the server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import ConfigError, StorageError
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.checkpoints import CheckpointPlace, RemoteCheckpoints, checkpoint_name, checkpoint_place
from cloud_trainer.config import TrainerConfig
from cloud_trainer.messages.outgoing import RETRY_SECONDS
from cloud_trainer.moving import Run, move
from cloud_trainer.replay import replay
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.store.opening import STORE, Place, open_again
from cloud_trainer.trainer import Trainer
from hierarchy.runtime.run_folder import METRICS
from tests.cloud_trainer.test_replay import REHEARSING
from tests.cloud_trainer.world import STATE, Cloud, batches, of, outcomes
from tests.postgres import PostgresServer

Start = Callable[..., Cloud]
BACK = replace(REHEARSING, boot="c" * 16, weights="checkpoint")


def train(cloud: Cloud) -> None:
    """Let two robots send, and one of them come back, to a trainer that is killed in between."""
    cloud.say("r1", REHEARSING, *batches(5, size=3))
    cloud.say("r2", STATE, *batches(3, size=5))
    cloud.work(60)  # silence: what waits is trained on
    cloud.training.fleet.save("r1")
    cloud.say("r1", *batches(2, first=5, size=3))
    cloud.kill()
    cloud.start()
    cloud.work()


def go_on(cloud: Cloud) -> None:
    cloud.say("r1", BACK, *batches(6, size=3, boot=BACK.boot))
    cloud.finish()


def saved(store: Place, checkpoints: CheckpointPlace) -> list[SessionState]:
    """Return the checkpoints of a run."""
    with closing(open_again(store)) as one:
        return [checkpoints.load(checkpoint_name(log, one), "") for log in one.logs()]


@pytest.fixture(params=["folder", "file", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where checkpoints may be: a folder, or a URL of fsspec."""
    place = str(tmp_path / "checkpoints")
    return {"folder": place, "file": f"file://{place}", "memory": f"memory://{tmp_path.name}"}[request.param]


def test_a_killed_trainer_goes_on_from_checkpoints_wherever_they_are_and_a_replay_ends_at_the_same_bits(
    start: Start, database_url: str, checkpoints: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = start(place=database_url, checkpoints=checkpoints)
    train(cloud)
    assert cloud.robot().training.saved_at, "it went on from a checkpoint"
    go_on(cloud)
    place = checkpoint_place(checkpoints)
    assert [name.split("/")[1] for name in place.names("checkpoint")] == ["r1", "r2"], "one of each is left"
    assert replay(database_url, None, "cpu", place)
    assert capsys.readouterr().out.count("bit for bit") == 2


def test_a_checkpoint_that_is_not_where_it_was_is_said(
    start: Start, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = start(place=database_url, checkpoints=f"memory://{tmp_path.name}")
    cloud.say("r1", STATE, *batches(2))
    cloud.finish()
    start("elsewhere", place=database_url, checkpoints=f"memory://{tmp_path.name}-other").finish()
    assert "is not there: was it made with another --checkpoints? Its network is trained once more" in caplog.text


def test_a_run_moves_to_a_database_and_back_and_goes_on_there(
    start: Start, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = start()
    train(cloud)
    file = Run(store=cloud.path / STORE, checkpoints=checkpoint_place(cloud.path))
    remote = f"memory://{tmp_path.name}-moved"
    database = Run(store=database_url, checkpoints=checkpoint_place(remote))
    with pytest.raises(ConfigError, match="another process is using"):
        move(file, database)
    cloud.finish()
    before = saved(file.store, file.checkpoints)
    assert move(file, database) == ["r1", "r2"]
    with pytest.raises(ConfigError, match="there is no store"):
        move(file, database)
    assert [(one.cursor, one.start) for one in saved(*vars(database).values())] == [
        (one.cursor, one.start) for one in before
    ]
    there = start("there", place=database_url, checkpoints=remote)
    with pytest.raises(ConfigError, match=r"other processes have the store .* open"):
        move(database, file)
    assert outcomes(there.say("r1", BACK, *batches(2, size=3), *batches(3, size=3, boot=BACK.boot))) == [
        *["duplicate"] * 2,
        *["accepted"] * 3,
    ]
    there.finish()
    assert move(database, file) == ["r1", "r2"]
    with pytest.raises(ConfigError, match=f"was moved to {file.store}"):
        open_again(database_url)
    cloud.start()
    cloud.say("r1", *batches(3, first=3, size=3, boot=BACK.boot))
    cloud.finish()
    assert replay(cloud.path / STORE, None, "cpu")
    assert capsys.readouterr().out.count("bit for bit") == 2
    assert move(file, database) == ["r1", "r2"], "where it was before"


def test_nothing_is_moved_where_a_run_is_or_a_checkpoint_cannot_be_read(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, other = start(), start("other", place=database_url)
    for one in (cloud, other):
        one.say("r1", STATE, *batches(2))
        one.finish()
    file = Run(store=cloud.path / STORE, checkpoints=checkpoint_place(cloud.path))
    with pytest.raises(ConfigError, match="holds a run already"):
        move(file, Run(store=database_url, checkpoints=checkpoint_place(other.path)))
    new = Run(store=other.path / STORE, checkpoints=checkpoint_place(other.path / "new"))
    monkeypatch.setattr("cloud_trainer.checkpoints.save_checkpoint", full)
    with pytest.raises(StorageError, match="No space left"):
        move(file, new)
    monkeypatch.undo()
    assert move(file, new) == ["r1"]


def full(*_arguments: object, **_more: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_superseded_trainer_ends_its_work_on_a_log_and_replaces_no_checkpoint(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    place = checkpoint_place(tmp_path / "all")
    former = start("former", place=database_url, checkpoints=str(tmp_path / "all"), checkpoint_every=1)
    former.say("r1", STATE, *batches(2))
    former.say("r2", STATE, *batches(1))
    with closing(open_again(database_url)) as successor:
        successor.claim("r1", "successor")
        name = checkpoint_name("r1", successor)
        # It is stored once more before the former one knows: the successor trains on it.
        assert outcomes(former.say("r1", *batches(2, first=2))) == ["accepted"] * 2
        assert "is trained by another process" in former.robot("r1").training.stuck
        assert former.say("r1", *batches(1, first=4)) == [], "without a receipt the robot keeps it"
        assert outcomes(former.say("r2", *batches(1, first=1))) == ["accepted"]
        former.finish()
        assert checkpoint_name("r1", successor) == name
        assert name in place.names("checkpoint/r1")
        assert len(place.names("checkpoint/r1")) == 1
        assert [event.kind for event in successor.states("r1")] == ["start"]


def test_a_server_that_is_away_gets_no_receipts_and_training_goes_on_by_itself(
    start: Start, postgres: PostgresServer, database_url: str
) -> None:
    cloud = start(place=database_url)
    cloud.say("r1", STATE, *batches(2))
    postgres.kill()
    try:
        for batch in batches(3, first=2):
            cloud.publish("r1", "activations", pack(batch))
        cloud.node.turn(timeout=0)
        (state,) = of(TrainerState, list(cloud._answers()))
        assert "the store cannot be written: " in state.trouble
    finally:
        postgres.start()
    states = of(TrainerState, cloud.work(RETRY_SECONDS))
    assert states[-1].trouble == ""
    assert outcomes(cloud.say("r1", *batches(4, first=1))) == ["duplicate", *["accepted"] * 3]
    assert cloud.figures().images == 5 * 4


def test_an_object_store_that_is_away_does_not_stop_training(
    start: Start, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = start(place=database_url, checkpoints=f"memory://{tmp_path.name}-away", checkpoint_every=1)
    cloud.say("r1", STATE, *batches(2))
    before = cloud.robot().training.saved_at

    def away(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("EndpointConnectionError: no route to the bucket")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.put_file", away)
    cloud.say("r1", *batches(3, first=2))
    assert cloud.figures().images == 5 * 4
    assert "no route" in cloud.training.fleet.disk.missing["the checkpoint of robot r1"]
    assert cloud.robot().training.saved_at == before
    monkeypatch.undo()
    cloud.say("r1", *batches(1, first=5))
    assert not cloud.training.fleet.disk.missing
    assert cloud.robot().training.saved_at > before


def test_what_cannot_be_a_place_is_said() -> None:
    with pytest.raises(ConfigError, match="--checkpoints is for a store in PostgreSQL"):
        TrainerConfig(checkpoints="s3://bucket")
    with pytest.raises(ConfigError, match="--checkpoints nowhere://x: "):
        RemoteCheckpoints("nowhere://x")


def test_a_file_that_has_moved_is_said_to_have(tmp_path: Path) -> None:
    place = checkpoint_place(tmp_path)
    there = Run(store=tmp_path / STORE, checkpoints=place)
    with pytest.raises(ConfigError, match=r"no store at .*db$"):
        move(there, Run(store=tmp_path / "other.db", checkpoints=place))
    (tmp_path / f"{STORE}.moved").touch()
    with pytest.raises(ConfigError, match="moved already"):
        move(there, Run(store=tmp_path / "other.db", checkpoints=place))
    (tmp_path / METRICS).touch()
    with pytest.raises(ConfigError, match="give --store the place where it is now"), Trainer(run_dir=str(tmp_path)):
        pass
