"""What `local-broker provision` writes. That mosquitto takes it is tested in test_security.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker import commands as command
from broker.errors import ConfigError
from broker.security.certificates import hosts_of
from broker.security.credentials import load_credentials
from broker.security.provision import password_line, provision
from broker.security.tls import credentials_for
from broker.wire.topics import PREFIX


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file's content and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    provision(folder, robots=["r1"], trainers=["t1"])
    return folder


def test_secrets_are_for_their_owner_only(folder: Path) -> None:
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    secret = {"ca/ca.key", "broker/server.key", "broker/acl", "broker/passwords"} | {
        f"{name}/{file}" for name in ("r1", "t1") for file in ("client.key", "credentials.toml", "password.toml")
    }
    assert {name for name, mode in modes.items() if mode == 0o600} == secret
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {name: modes[name] for name in ("ca", "broker", "r1", "t1")} == dict.fromkeys(
        ("ca", "broker", "r1", "t1"), 0o700
    )


def test_both_ways_to_log_in_are_ready(folder: Path) -> None:
    by_certificate = credentials_for("mqtts://localhost", str(folder / "r1" / "credentials.toml"))
    assert (by_certificate.certificate, by_certificate.username) == (folder / "r1" / "client.crt", None)
    by_password = credentials_for("mqtts://localhost:8884", str(folder / "r1" / "password.toml"))
    assert (by_password.certificate, by_password.username) == (None, "r1")
    assert by_password.password is not None
    assert len(by_password.password) >= 40
    passwords = (folder / "broker" / "passwords").read_text()
    assert by_password.password not in passwords


def test_running_again_changes_nothing(folder: Path) -> None:
    before = snapshot(folder)
    done = provision(folder, robots=["r1"], trainers=["t1"])
    assert done.files == []
    assert snapshot(folder) == before


def test_a_new_robot_touches_nobody_else(folder: Path) -> None:
    before = snapshot(folder)
    provision(folder, robots=["r2"])
    after = snapshot(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"broker/acl", "broker/passwords"}
    for name in changed:
        assert before[name][0] in after[name][0]
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"r2", "ca"}


def test_a_robot_whose_folder_went_to_the_robot_gets_a_new_login(folder: Path) -> None:
    old = load_credentials(str(folder / "r1" / "password.toml"))
    shutil.rmtree(folder / "r1")
    provision(folder, robots=["r1"])
    new = load_credentials(str(folder / "r1" / "password.toml"))
    assert new.password != old.password
    passwords = (folder / "broker" / "passwords").read_text().splitlines()
    assert [line.split(":")[0] for line in passwords] == ["t1", "r1"]
    assert len(list((folder / "ca" / "issued" / "r1").iterdir())) == 2, "both can be revoked"


def test_a_removed_robot_leaves_no_rights(folder: Path) -> None:
    provision(folder, robots=["r2"])
    before = (folder / "broker" / "revoked.pem").read_bytes()
    provision(folder, removed=["r2"])
    for file in ("acl", "passwords"):  # a hash has no colon, a topic has slashes
        text = (folder / "broker" / file).read_text()
        assert [mark for mark in ("r2:", "/r2/", "user r2") if mark in text] == []
    assert (folder / "broker" / "revoked.pem").read_bytes() != before
    assert not (folder / "r2").exists()
    assert f"{PREFIX}/robot/r1/state" in (folder / "broker" / "acl").read_text()
    with pytest.raises(ConfigError, match="--remove r2: there is no such identity; there are r1, t1"):
        provision(folder, removed=["r2"])


def test_a_new_host_is_added_to_those_there_were(folder: Path) -> None:
    certificate = folder / "broker" / "server.crt"
    assert set(hosts_of(certificate.read_bytes())) == {"localhost", "127.0.0.1"}
    done = provision(folder, hosts=["broker.example", "10.0.0.7"])
    assert done.hosts == ["broker.example", "10.0.0.7", "localhost", "127.0.0.1"]
    assert set(hosts_of(certificate.read_bytes())) == set(done.hosts)
    before = certificate.read_bytes()
    provision(folder, hosts=["10.0.0.7"])
    assert certificate.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"robots": ["a/b"]}, "^--robot 'a/b': use 1 to 64 letters"),
        ({"trainers": ["+"]}, r"^--trainer '\+': use 1 to 64 letters"),
        ({"robots": ["ca"]}, "^--robot ca: the folder of that name is for something else"),
        ({"robots": ["x"], "trainers": ["x"]}, "^--robot and --trainer x: a user of the broker is one or the other"),
        ({"robots": ["t1"]}, "^--robot t1: this is a trainer already"),
        ({"robots": ["r1"], "removed": ["r1"]}, "^--remove r1 and --robot r1: do one, then the other"),
        ({"hosts": ["bröker"]}, "^--host: "),
    ],
)
def test_what_cannot_be_is_said_and_nothing_changes(folder: Path, arguments: dict[str, Any], complaint: str) -> None:
    before = snapshot(folder)
    with pytest.raises(ConfigError, match=complaint):
        provision(folder, **arguments)
    assert snapshot(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_new_files_belong_to_whom_the_folder_belongs(folder: Path) -> None:
    os.chown(folder / "broker", 12345, 54321)
    provision(folder, robots=["r2"], hosts=["broker.example"])
    for name in ("acl", "passwords", "server.key", "server.crt"):
        status = (folder / "broker" / name).stat()
        assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert (folder / "r2" / "client.key").stat().st_uid == 0


def test_without_the_authoritys_key_nothing_is_signed(folder: Path) -> None:
    (folder / "ca" / "ca.key").rename(folder / "offline.key")
    with pytest.raises(ConfigError, match=r"ca\.key is not here: bring it back"):
        provision(folder, robots=["r2"])
    (folder / "ca" / "ca.key").write_text("no key")
    with pytest.raises(ConfigError, match=r"ca\.key holds a secret, and everybody"):
        provision(folder, robots=["r2"])
    (folder / "ca" / "ca.key").chmod(0o600)
    with pytest.raises(ConfigError, match="holds no certificate authority"):
        provision(folder, robots=["r2"])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file: .*File exists"):
        provision(tmp_path / "file", robots=["r1"])


@pytest.mark.mosquitto
def test_mosquittos_own_tool_makes_lines_of_the_same_form(tmp_path: Path) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    theirs = tmp_path / "passwords"
    subprocess.run([tool, "-b", "-c", str(theirs), "r1", "secret"], check=True, capture_output=True)
    forms = [
        [len(part) for part in line.strip().split("$") if not part.isdecimal()]
        for line in (theirs.read_text(), password_line("r1", "secret"))
    ]
    assert forms[0] == forms[1]
    assert password_line("r1", "secret") != password_line("r1", "secret"), "a salt of its own each time"


def provision_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["local-broker", "provision", *arguments])
    command.main()


def test_the_command_says_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = str(tmp_path / "fleet")
    names = ["--robot", "r1", "--robot", "r2", "--trainer", "t1", "--host", "broker.example"]
    provision_command(monkeypatch, fleet, *names)
    printed = capsys.readouterr().out
    assert f"Keep {fleet}/ca offline" in printed
    assert f"cd {fleet}/broker\n" in printed
    assert "mosquitto -c mosquitto.conf" in printed
    for robot in ("r1", "r2"):
        assert (
            f"robot-edge run --robot {robot} --broker mqtts://broker.example:8883 "
            f"--credentials {fleet}/{robot}/credentials.toml --source folder:PATH"
        ) in printed
    assert "cloud-trainer run --trainer t1 --broker mqtts://broker.example:8883 --credentials" in printed
    password = load_credentials(f"{fleet}/r1/password.toml").password
    assert password is not None
    assert password not in printed
    provision_command(monkeypatch, fleet, *names)
    assert "nothing is missing, so nothing was written" in capsys.readouterr().out


def test_the_command_names_the_package_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        provision_command(monkeypatch, str(tmp_path))
    assert end.value.code == 2
    assert "pip install 'reflexarc[provision]'" in capsys.readouterr().err
