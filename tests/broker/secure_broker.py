"""A provisioned mosquitto on free ports, as an operator would run it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

from broker.address import CERTIFICATE_PORT, PASSWORD_PORT
from broker.local.server import find_mosquitto
from broker.security.certificates import Signed, read_authority
from tests.ports import free_port

TIMEOUT_S = 30


class SecureBroker:
    """Runs mosquitto in the broker's folder, with no change to what was written but the ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_port, self.password_port = free_port(), free_port()
        config, log = folder / "broker" / "mosquitto.conf", folder / "log"
        text = config.read_text()
        for port, free in ((CERTIFICATE_PORT, self.certificate_port), (PASSWORD_PORT, self.password_port)):
            text, changed = re.subn(rf"^listener {port}$", f"listener {free}", text, flags=re.MULTILINE)
            assert changed == 1
        if os.geteuid() == 0:
            text += "user root\n"  # else it changes to a user who may not read the folder of a test
        config.write_text(text + "log_type debug\nlog_type information\n")
        program = find_mosquitto()
        assert program is not None
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [program, "-c", "mosquitto.conf"], cwd=folder / "broker", stdout=output, stderr=subprocess.STDOUT
            )
        self._log = log
        deadline = time.monotonic() + TIMEOUT_S
        while not (_listens(self.certificate_port) and _listens(self.password_port)):
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def certificate_url(self) -> str:
        return f"mqtts://localhost:{self.certificate_port}"

    @property
    def password_url(self) -> str:
        return f"mqtts://localhost:{self.password_port}"

    def read_again(self) -> None:
        """Have the running mosquitto read its files again."""
        before = self.log.count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT_S
        while self.log.count("Reloading config") == before:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


def authority_in(folder: Path) -> Signed:
    """Read the authority of what was provisioned there."""
    return read_authority((folder / "ca" / "ca.crt").read_bytes(), (folder / "ca" / "ca.key").read_bytes())


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
