"""The systemd units and the compose file: hardened, and with command lines that the programs take."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import cloud_trainer.trainer
import robot_edge.run.start
from broker.errors import ConfigError, MachineError, NothingDone, PeerError, StorageError, exit_status
from broker.security.provision import provision
from cloud_trainer.commands import app as trainer_app
from hierarchy.runtime.command_line import with_config_file
from hierarchy.runtime.settings import flattened
from robot_edge.commands import app as robot_app

LAUNCH = Path(__file__).parents[2] / "launch"
UNITS = sorted((LAUNCH / "systemd").glob("*.service"))
HARDENED = {
    "DynamicUser": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "PrivateTmp": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}

Parse = Callable[[list[str]], Any]


def settings(unit: Path) -> dict[str, list[str]]:
    """Return every setting of a unit with its values, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def credentials(unit: dict[str, list[str]]) -> dict[str, str]:
    return dict(value.split(":", 1) for value in unit["LoadCredential"])


@pytest.fixture(name="parse")
def _parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Return what takes a command line to the settings that the program would run with."""
    runs: list[Any] = []
    monkeypatch.setattr(robot_edge.run.start, "run", runs.append)
    monkeypatch.setattr(cloud_trainer.trainer, "run", runs.append)

    def parse(command: list[str]) -> Any:
        program, *arguments = command
        app = {"robot-edge": robot_app, "cloud-trainer": trainer_app}[Path(program).name]
        app.cli(args=with_config_file(arguments))
        return runs.pop()

    return parse


def test_there_is_a_unit_for_each_part() -> None:
    assert [unit.name for unit in UNITS] == ["cloud-trainer.service", "reflexarc-broker.service", "robot-edge@.service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_hardened(path: Path) -> None:
    unit = settings(path)
    assert {name: unit.get(name) for name in HARDENED} == {name: [value] for name, value in HARDENED.items()}
    assert unit["SystemCallFilter"][0] == "@system-service"
    assert "@privileged" in unit["SystemCallFilter"][1]
    assert unit.get("PrivateDevices") == ["yes"] or unit.get("DevicePolicy") == ["closed"]
    assert unit["Restart"]


@pytest.mark.parametrize("path", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda path: path.name)
def test_the_programs_take_what_units_tell_them(path: Path, parse: Parse, tmp_path: Path) -> None:
    unit = settings(path)
    example = LAUNCH / ("robot.toml" if "robot" in path.name else "cloud.toml")
    (tmp_path / "settings.toml").write_text(example.read_text() + 'source = "sim:"\n' * ("robot" in path.name))
    (tmp_path / "credentials.toml").touch()
    (command,) = unit["ExecStart"]
    command = command.replace("%d", str(tmp_path)).replace("%i", "r1")
    assert "%" not in command
    config = parse(shlex.split(command))
    assert flattened(config)["credentials"] == str(tmp_path / "credentials.toml")
    assert {"settings.toml", "credentials.toml"} <= credentials(unit).keys()
    if "robot" in path.name:
        assert config.robot == "r1"


@pytest.mark.parametrize("path", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda path: path.name)
def test_a_program_is_started_again_where_that_may_mend_it(path: Path) -> None:
    (kept,) = settings(path)["RestartPreventExitStatus"]
    for_good = {int(status) for status in kept.split()}
    assert for_good == {exit_status(error("")) for error in (ConfigError, NothingDone)}
    assert not for_good & {exit_status(error("")) for error in (StorageError, MachineError, PeerError, KeyError)}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_load_what_provisioning_writes(path: Path, tmp_path: Path) -> None:
    provision(tmp_path, robots=["r1"], trainers=["t1"])
    for name, source in credentials(settings(path)).items():
        if name == "settings.toml":
            continue
        written = tmp_path / Path(source.replace("%i", "r1")).relative_to("/etc/reflexarc")
        assert written.is_file()
        assert written.name == name, "files name each other without a folder"
    if "broker" in path.name:
        config = (tmp_path / "broker" / "mosquitto.conf").read_text()
        named = re.findall(r"^(?:\w+file|acl_file) (\S+)$", config, flags=re.MULTILINE)
        assert {*named, "mosquitto.conf"} == credentials(settings(path)).keys()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_units_and_finds_them_safe(path: Path, tmp_path: Path) -> None:
    unit = tmp_path / path.name.replace("@", "@r1")
    # The programs are not installed where the units expect them.
    unit.write_text(re.sub("^ExecStart=\\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-500:]


def test_containers_are_hardened() -> None:
    compose = yaml.safe_load((LAUNCH / "compose.yaml").read_text())
    assert compose["services"].keys() == {"broker", "trainer"}
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].startswith("${REFLEXARC_USER:?")
        assert not service.get("privileged")


def test_the_trainer_takes_what_compose_tells_it(parse: Parse, tmp_path: Path) -> None:
    compose = yaml.safe_load((LAUNCH / "compose.yaml").read_text())
    trainer = compose["services"]["trainer"]
    password = tmp_path / "page-password"
    password.touch(0o600)
    password.write_text("correct horse battery\n")
    command = [one.replace("/run/secrets/page-password", str(password)) for one in trainer["command"]]
    config = parse(["cloud-trainer", *command])
    assert (config.trainer, config.broker) == ("t1", "mqtts://broker:8883")
    assert {Path(config.credentials).name, password.name} <= set(trainer["secrets"])
    assert trainer["secrets"] == list(compose["secrets"])
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"${{REFLEXARC_FOLDER}}/t1/{name}"
    assert trainer["ports"] == [f"127.0.0.1:{config.page.page}:{config.page.page}"], "for this machine alone"
    assert (
        (LAUNCH / "compose.yaml").parent.joinpath(trainer["build"]["context"], trainer["build"]["dockerfile"]).is_file()
    )
