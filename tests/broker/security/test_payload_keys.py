"""Keys of a fleet: what each end holds, what it is told that has another's, and what `provision --seal` writes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest

from broker import commands
from broker.errors import ConfigError
from broker.security import credentials as credentials_module
from broker.security.credentials import Credentials, load_credentials, payload_keys_for
from broker.security.payload_keys import (
    RobotKeys,
    TrainerKeys,
    key_file,
    keys_for,
    new_master,
    read_key_file,
)
from broker.security.provision import provision

FLEET = TrainerKeys.of(new_master())


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    provision(folder, robots=["r1", "r2"], trainers=["t1"], seal=True)
    return folder


def saved(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_what_a_robot_holds_comes_from_the_master_key_and_not_back() -> None:
    one, other = FLEET.of_robot("r1"), FLEET.of_robot("r2")
    assert one.key != other.key
    assert one.key == FLEET.key_for("robot", "r1")
    assert one.key_for("robot", "r2") is None
    assert one.key_for("trainer", "t1") == other.key_for("trainer", "t9") == FLEET.key_for("trainer", "t1")
    assert FLEET.master not in (one.key, one.trainers, one.verifier.public_bytes_raw())
    assert TrainerKeys.of(new_master()).key_for("robot", "r1") != one.key
    for secret in (one.key, one.trainers, FLEET.master):
        assert repr(secret) not in repr(one) + repr(FLEET)


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    robot = FLEET.of_robot("r1")
    assert read_key_file(saved(tmp_path / "r1", key_file(robot)), "--payload-key") == robot
    trainer = read_key_file(saved(tmp_path / "t1", key_file(FLEET)), "--payload-key")
    assert isinstance(trainer, TrainerKeys)
    assert (trainer.master, trainer.of_robot("r1")) == (FLEET.master, robot)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: "", "is no payload key"),
        (lambda text: "ca = 'ca.crt'", "is no payload key"),
        (lambda text: text.replace("role", "rule"), "is no payload key"),
        (lambda text: text + 'more = "1"\n', "is no payload key"),
        (lambda text: text[:-1], "is no payload key: .*provision --seal"),
        (lambda text: text.replace('key = "', 'key = "A', 1), "key is not 32 bytes in base64"),
        (lambda text: text.replace('name = "r1"', 'name = "../r1"'), "is no robot's name"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path: Path, change: Callable[[str], str], complaint: str) -> None:
    path = saved(tmp_path / "key", change(key_file(FLEET.of_robot("r1")).rstrip()))
    with pytest.raises(ConfigError, match=complaint):
        read_key_file(path, "--payload-key")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "key", key_file(FLEET))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"holds a secret, and its group may read it .*: chmod 600"):
        read_key_file(path, "--payload-key")


def test_each_end_is_told_that_has_anothers_key(folder: Path) -> None:
    robot, trainer = folder / "r1" / "payload.key", folder / "t1" / "payload.key"
    assert isinstance(keys_for(robot, "--payload-key", "r1"), RobotKeys)
    assert isinstance(keys_for(trainer, "--payload-key", None), TrainerKeys)
    for path, end, complaint in (
        (robot, "r2", "is the key of robot r1, and this is robot r2: give it its own, or use --robot r1"),
        (robot, None, "is the key of robot r1: a trainer needs a trainer's"),
        (trainer, "r1", "is for trainers and opens every robot's payloads"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            keys_for(path, "--payload-key", end)


# Where a program gets it


def test_credentials_name_the_key_and_the_flag_counts_before_them(folder: Path) -> None:
    for login in ("credentials.toml", "password.toml"):
        credentials = load_credentials(str(folder / "r1" / login))
        assert credentials.payload_key == folder / "r1" / "payload.key"
        assert isinstance(payload_keys_for("", credentials, robot="r1"), RobotKeys)
    with pytest.raises(ConfigError, match=r"^--payload-key .*is the key of robot r2"):
        payload_keys_for(str(folder / "r2" / "payload.key"), credentials, robot="r1")
    assert payload_keys_for("", Credentials()) is None


def test_without_cryptography_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_module, "find_spec", lambda name: None if name == "cryptography" else util)
    assert payload_keys_for("", Credentials()) is None
    with pytest.raises(ConfigError, match=r"pip install 'reflexarc\[encryption\]'"):
        payload_keys_for(str(folder / "t1" / "payload.key"), Credentials())


# What provision writes


def test_keys_are_secret_and_none_is_the_brokers(folder: Path) -> None:
    keys = sorted(str(path.relative_to(folder)) for path in folder.rglob("payload.key"))
    assert keys == ["ca/payload.key", "r1/payload.key", "r2/payload.key", "t1/payload.key"]
    assert {(folder / key).stat().st_mode & 0o777 for key in keys} == {0o600}
    master = read_key_file(folder / "t1" / "payload.key", "")
    assert isinstance(master, TrainerKeys)
    held = [(folder / name / "payload.key").read_text() for name in ("ca", "t1")]
    text = key_file(master)
    assert held == [text, text]
    for path in [*(folder / "broker").iterdir(), *(folder / "r1").iterdir()]:
        assert text.split('"')[3] not in path.read_text(), "neither broker nor robot has the master key"


def test_a_sealed_fleet_stays_so_and_keys_stay(folder: Path) -> None:
    before = {path: path.read_text() for path in folder.rglob("payload.key")}
    assert provision(folder, robots=["r1"], trainers=["t1"], seal=True).files == []
    provision(folder, robots=["r3"])
    assert {path: path.read_text() for path in before} == before
    master = read_key_file(folder / "ca" / "payload.key", "")
    assert isinstance(master, TrainerKeys)
    assert read_key_file(folder / "r3" / "payload.key", "") == master.of_robot("r3")
    assert load_credentials(str(folder / "r3" / "credentials.toml")).payload_key == folder / "r3" / "payload.key"
    provision(folder, removed=["r3"])
    assert not (folder / "r3").exists()


def test_a_fleet_that_was_not_sealed_is_afterwards(tmp_path: Path) -> None:
    provision(tmp_path, robots=["r1"], trainers=["t1"])
    assert not list(tmp_path.rglob("payload.key"))
    before = load_credentials(str(tmp_path / "r1" / "credentials.toml"))
    provision(tmp_path, robots=["r1"], trainers=["t1"], seal=True)
    after = load_credentials(str(tmp_path / "r1" / "credentials.toml"))
    assert (before.payload_key, after.payload_key) == (None, tmp_path / "r1" / "payload.key")
    assert (before.certificate, before.key) == (after.certificate, after.key)


def test_a_master_key_that_is_away_is_missed(folder: Path) -> None:
    (folder / "ca" / "payload.key").unlink()
    with pytest.raises(ConfigError, match=r"ca/payload.key is not here, but .*r1/payload.key is: bring it back"):
        provision(folder, robots=["r3"])
    assert not (folder / "r3").exists()


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.provision_command(tmp_path / "fleet", robot=("r1",), seal=True)
    assert "payload.key" in capsys.readouterr().out
