"""The programs at a provisioned mosquitto: they log in, nobody shows a password, and an impostor gets nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from broker.security.credentials import load_credentials
from broker.security.provision import provision
from tests.broker.secure_broker import SecureBroker

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher

pytestmark = pytest.mark.mosquitto


@pytest.fixture(name="broker", scope="module")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    folder = tmp_path_factory.mktemp("fleet")
    provision(folder, robots=["r1", "r2"], trainers=["t1"])
    broker = SecureBroker(folder)
    yield broker
    broker.stop()


def test_a_fleet_with_credentials(broker: SecureBroker, launcher: Launcher, pictures: Path) -> None:
    by_password = broker.folder / "t1" / "password.toml"
    source = f"folder:{pictures}/few"
    launcher.cold = True  # whoever has a password has a command line that others can see
    trainer = launcher.trainer(broker.password_url, "--trainer", "t1", "--credentials", str(by_password))
    launcher.cold = False
    login = ("--credentials", str(broker.folder / "r1" / "credentials.toml"))
    robot = launcher.robot(broker.certificate_url, "r1", source, *login)
    impostor = launcher.robot(broker.certificate_url, "r2", source, *login)
    trainer.until_it_says("connected; waiting for robots")
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children()]
    assert robot.wait() == 0, robot.printed
    assert robot.summary["messages_sent"] > 0
    assert impostor.wait() == 2, impostor.printed
    assert "robot-edge: the broker at localhost:" in impostor.printed
    assert "use the --credentials that belong to this name" in impostor.printed
    assert trainer.interrupt() == 0, trainer.printed
    assert (robot.summary["messages_trained"], robot.summary["dropped"]) == (robot.summary["messages_sent"], 0)
    assert "robot r2" not in trainer.printed, "nothing of the impostor got through"

    password = load_credentials(str(by_password)).password
    assert password is not None
    assert any(str(by_password) in command for command in commands)
    shown = [*commands, trainer.printed, robot.printed, broker.log]
    shown += [path.read_text(errors="replace") for path in trainer.run_dir.rglob("*") if path.is_file()]
    assert not any(password in text for text in shown)
    assert str(by_password) in (trainer.run_dir / "config.toml").read_text()


def test_a_wrong_login_is_said_before_anything_starts(broker: SecureBroker, launcher: Launcher) -> None:
    missing = broker.folder / "r1" / "missing.toml"
    robot = launcher.robot(broker.certificate_url, "r1", "sim:", "--credentials", str(missing))
    assert robot.wait() == 2
    assert robot.printed == f"robot-edge: --credentials {missing} does not exist\n"
    assert not robot.run_dir.exists()
