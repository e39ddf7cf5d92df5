"""Real brokers in real processes: they start, carry data, say what is wrong, and leave nothing behind."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.commands import run
from broker.errors import ConfigError, MachineError
from broker.local import server
from broker.local.server import Backend, start_local_broker

pytestmark = pytest.mark.slow

BACKENDS = [pytest.param("mosquitto", marks=pytest.mark.mosquitto), "amqtt"]
PAYLOAD = bytes(range(256)) * 400  # 102,400 bytes, every byte value
TIMEOUT_S = 60


def carry(url: str, topic: str, payload: bytes) -> bytes:
    """Subscribe to `topic`, publish `payload` there with QoS 1, and return what arrives."""
    arrived: queue.Queue[bytes] = queue.Queue()
    subscribed: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.message_callback_add(topic, lambda _client, _userdata, message: arrived.put(bytes(message.payload)))
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    client.connect(address.hostname, address.port)
    client.loop_start()
    try:
        subscribed.get(timeout=TIMEOUT_S)
        client.publish(topic, payload, qos=1)
        return arrived.get(timeout=TIMEOUT_S)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture(name="taken_port")
def _taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_carries_binary_both_ways(broker_url: str) -> None:
    assert carry(broker_url, "reflexarc/1/robot/test-server/activations", PAYLOAD) == PAYLOAD


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop_leaves_neither_process_nor_files(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with start_local_broker(backend=backend) as broker:
        assert broker.backend == backend
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert broker.poll() is None
        assert psutil.pid_exists(broker.pid)
        assert os.getsid(broker.pid) != os.getsid(0), "Ctrl-C at the terminal would end it before us"
        assert list(tmp_path.iterdir())
    assert broker.poll() is not None
    assert not psutil.pid_exists(broker.pid)
    assert not list(tmp_path.iterdir())
    broker.stop()  # harmless


@pytest.mark.mosquitto
def test_a_broker_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_TIMEOUT_S", 0.2)
    broker = start_local_broker(backend="mosquitto")
    os.kill(broker.pid, signal.SIGSTOP)  # stopped, it cannot run its handler of SIGTERM
    broker.stop()
    assert broker.poll() == -signal.SIGKILL


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_is_kept_where_asked(backend: Backend, tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    start_local_broker(backend=backend, log=log).stop()
    printed = log.read_text()
    assert "Traceback" not in printed
    assert "Deprecat" not in printed


@pytest.mark.parametrize("backend", BACKENDS)
def test_taken_port_is_named(backend: Backend, taken_port: int) -> None:
    with pytest.raises(MachineError, match=f"port {taken_port} of 127.0.0.1 is taken"):
        start_local_broker(port=taken_port, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_port_lost_after_we_looked(backend: Backend, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    really = server._bindable_port
    answers = [taken_port]
    monkeypatch.setattr(server, "_bindable_port", lambda bind, port: answers.pop() if answers else really(bind, port))
    with start_local_broker(backend=backend) as broker:
        assert broker.port != taken_port
        assert not answers


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_dying_broker_printed_is_shown(
    backend: Backend, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_bindable_port", lambda bind, port: port)
    with pytest.raises(MachineError, match=rf"(?is){backend} ended at its start.*address already in use"):
        start_local_broker(port=taken_port, backend=backend)


def test_address_of_another_machine() -> None:
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1"):
        start_local_broker(bind="192.0.2.1")  # set aside for documentation: never ours


@pytest.mark.parametrize(
    ("backend", "steps"),
    [
        ("auto", ["apt-get install mosquitto", r"reflexarc\[broker\]"]),
        ("mosquitto", ["apt-get install mosquitto"]),
        ("amqtt", [r"reflexarc\[broker\]"]),
    ],
)
def test_nothing_installed_names_the_next_step(
    backend: Backend, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "find_mosquitto", lambda: None)
    monkeypatch.setattr(server, "_has_amqtt", lambda: False)
    with pytest.raises(MachineError, match=".*".join(steps)):
        start_local_broker(backend=backend)


def test_auto_takes_amqtt_where_mosquitto_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_mosquitto", lambda: None)
    with start_local_broker() as broker:
        assert broker.backend == "amqtt"


@pytest.mark.mosquitto
def test_mosquitto_is_found_outside_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = server.find_mosquitto()
    assert found is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "SYSTEM_FOLDERS", (str(Path(found).parent),))
    assert server.find_mosquitto() == found


class CommandLine:
    """`local-broker run` as a user starts it, with the lines it prints."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "broker", "run", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> CommandLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=TIMEOUT_S)

    def broker(self) -> psutil.Process:
        """Wait until it says that it runs, and return the broker's process."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ctrl-C" in line:
                break
        (child,) = psutil.Process(self.process.pid).children()
        return child


def group_of(broker: psutil.Process) -> list[psutil.Process]:
    """All processes of the broker's group."""
    group = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):  # it has ended since
            if os.getpgid(process.pid) == broker.pid:
                group.append(process)
    return group


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_line_ends_cleanly(backend: Backend, number: signal.Signals) -> None:
    with CommandLine("--port", "0", "--backend", backend) as command:
        child = command.broker()
        command.process.send_signal(number)
        _, errors = command.process.communicate(timeout=TIMEOUT_S)
        assert command.process.returncode == 0, errors
        assert errors == ""
        assert not child.is_running()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broker_ends_with_who_started_it_even_where_that_was_killed(backend: Backend) -> None:
    with CommandLine("--port", "0", "--backend", backend) as command:
        child = command.broker()
        group = group_of(child)
        assert len(group) == 2, "the broker and what guards it"
        command.process.kill()
        gone, left = psutil.wait_procs(group, TIMEOUT_S)
        assert (len(gone), left) == (2, [])


@pytest.mark.mosquitto
@pytest.mark.parametrize("end", ["stop", "death"])
def test_what_guards_a_broker_goes_with_it(end: str) -> None:
    broker = start_local_broker(backend="mosquitto")
    group = group_of(psutil.Process(broker.pid))
    assert len(group) == 2
    if end == "death":
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait() == -signal.SIGKILL
    broker.stop()
    assert psutil.wait_procs(group, TIMEOUT_S)[1] == []


def test_command_line_reports_a_broker_that_died() -> None:
    with CommandLine("--port", "0", "--backend", "amqtt") as command:
        command.broker().kill()
        _, errors = command.process.communicate(timeout=TIMEOUT_S)
        assert command.process.returncode == 1
        assert "amqtt ended by itself, status -9" in errors


@pytest.mark.parametrize("port", [-5, 70_000])
def test_command_line_refuses_a_port_that_there_is_not(port: int) -> None:
    with pytest.raises(ConfigError, match=f"--port {port}: use 0 to 65535"):
        run(port=port)


def test_command_line_reports_a_taken_port(taken_port: int) -> None:
    with CommandLine("--port", str(taken_port)) as command:
        output, errors = command.process.communicate(timeout=TIMEOUT_S)
        assert command.process.returncode == 1
        assert output == ""
        assert errors.startswith(f"local-broker: port {taken_port} of 127.0.0.1 is taken")
        assert len(errors.splitlines()) == 1


def test_command_line_warns_where_others_get_in() -> None:
    with CommandLine("--port", "0", "--bind", "0.0.0.0", "--backend", "amqtt") as command:
        command.broker()
        command.process.send_signal(signal.SIGINT)
        _, errors = command.process.communicate(timeout=TIMEOUT_S)
        assert "no password" in errors
