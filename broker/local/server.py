"""Starts a local broker in a process of its own: mosquitto where it is found, else amqtt.

For one machine, or a network you trust: it has no password and no encryption, and keeps nothing on disk.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Literal

from broker.errors import MachineError

Backend = Literal["mosquitto", "amqtt"]

START_TIMEOUT_S = 30.0  # importing amqtt takes 0.5 s on a desktop and ten times that on a small, busy robot
STOP_TIMEOUT_S = 5.0  # both end within milliseconds of SIGTERM; after this something is wrong and we kill
POLL_S = 0.02
FREE_PORT_RETRIES = 2  # how often a free port may be snatched between our look and the broker's bind

# Where package managers put mosquitto and where an ordinary user's PATH does not look.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

# Mosquitto keeps 1,000 messages for a slow subscriber and silently drops the rest: several robots fill that
# while a trainer is busy for some seconds. Here bytes are the bound, on what one stuck subscriber can cost.
# The packet size is mosquitto 2.1's own default; older ones have none.
MOSQUITTO_CONFIG = """\
listener {port} {bind}
allow_anonymous true
set_tcp_nodelay true
persistence false
max_queued_messages 10000
max_queued_bytes 268435456
max_packet_size 2000000
log_dest stderr
log_type error
log_type warning
log_type notice
"""

# Becomes the broker, and leaves a shell beside it that reads a pipe of which only we hold the other end. The pipe ends
# with us, even where we are killed, and then `kill 0` ends the process group of the two: a broker that nobody knows of
# would keep its port. (Linux can signal the death of a parent, but means that of the thread which started the child.)
GUARDED = """\
exec 3<&0
(read -r _ <&3; kill -KILL 0) &
exec "$@" </dev/null 3<&-
"""

# MQTT 3.1.1, sections 3.1, 3.2 and 3.14: a clean session without a client name, its acceptance, and farewell.
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"


class LocalBroker:
    """A running broker; made by `start_local_broker`, stopped by `stop`, by leaving `with`, or at exit.

    backend: which program serves.
    host, port: where clients on this machine reach it.
    pid: the broker's process.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        host: str,
        port: int,
        process: subprocess.Popen[bytes],
        folder: Path,
        log: Path,
    ) -> None:
        self.backend = backend
        self.host = host
        self.port = port
        self.pid = process.pid
        self._process = process
        self._log = log
        # Runs once: at stop(), or when we are forgotten, or when the interpreter exits.
        self._end = weakref.finalize(self, _end, process, folder)

    @property
    def url(self) -> str:
        """What clients on this machine connect to, such as mqtt://127.0.0.1:1883."""
        return f"mqtt://{_address(self.host, self.port)}"

    def poll(self) -> int | None:
        """Exit status of the broker's process, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until the broker's process ends by itself and return its exit status."""
        return self._process.wait()

    def last_output(self, lines: int = 5) -> str:
        """Give the last lines that the broker printed, as long as it was not stopped."""
        printed = self._log.read_text(errors="replace").splitlines()
        return "\n".join(printed[-lines:]) or "(it printed nothing)"

    def stop(self) -> None:
        """Terminate the broker, kill it if it does not end, and remove its files; harmless when repeated."""
        self._end()

    def __enter__(self) -> LocalBroker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def start_local_broker(
    *,
    port: int = 0,
    bind: str = "127.0.0.1",
    backend: Literal["auto", "mosquitto", "amqtt"] = "auto",
    log: Path | None = None,
) -> LocalBroker:
    """Start a broker and return when it accepts MQTT connections.

    port: 0 takes a free one.
    bind: the address to listen on; "0.0.0.0" is every network of this machine.
    backend: "auto" is mosquitto where it is found, else amqtt.
    log: where the broker's output goes; None keeps it in a temporary folder as long as the broker runs.

    Raises MachineError when no backend is installed, when the address is taken or not ours, or when the
    broker does not start.
    """
    chosen = _choose(backend)
    if port == 0:
        for _ in range(FREE_PORT_RETRIES):
            with suppress(MachineError):
                return _start(chosen, bind, _bindable_port(bind, 0), log)
    return _start(chosen, bind, _bindable_port(bind, port), log)


def find_mosquitto() -> str | None:
    """Path of the mosquitto program, or None; also looks where an ordinary user's PATH does not."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS]))


def _has_amqtt() -> bool:
    return importlib.util.find_spec("amqtt") is not None


def _choose(wanted: Literal["auto", "mosquitto", "amqtt"]) -> Backend:
    installs = {
        "mosquitto": "`sudo apt-get install mosquitto` (or `brew install mosquitto`)",
        "amqtt": "`pip install 'reflexarc[broker]'` for amqtt, in pure Python",
    }
    if wanted != "amqtt" and find_mosquitto():
        return "mosquitto"
    if wanted != "mosquitto" and _has_amqtt():
        return "amqtt"
    if wanted == "auto":
        raise MachineError(f"no MQTT broker is installed: {installs['mosquitto']}, or {installs['amqtt']}")
    raise MachineError(f"{wanted} is not installed: {installs[wanted]}")


def _bindable_port(bind: str, port: int) -> int:
    """Return `port`, or a free one for 0, having bound it for a moment. Raises MachineError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As brokers do: a port whose last connections are still fading away counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
            return bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise MachineError(
                f"port {port} of {bind} is taken, perhaps by a broker that already runs (Debian's mosquitto "
                f"package starts one on 1883): connect to mqtt://{_address(_reachable(bind), port)}, "
                "or stop it, or take another port"
            ) from error
        raise MachineError(f"cannot listen on {_address(bind, port)}: {error}") from error


def _start(backend: Backend, bind: str, port: int, log: Path | None) -> LocalBroker:
    """Start the broker on a port that was free a moment ago. Raises MachineError."""
    folder = Path(tempfile.mkdtemp(prefix="reflexarc-broker-"))
    log = log or folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", *_command(backend, bind, port, folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # The amqtt process imports what we can import, and nothing from the folder we were started in.
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])},
            # A process group of its own, for GUARDED. And Ctrl-C at the terminal reaches only us: what we run can say
            # goodbye before the broker goes.
            start_new_session=True,
        )
    broker = LocalBroker(backend=backend, host=_reachable(bind), port=port, process=process, folder=folder, log=log)
    try:
        _wait_until_ready(broker)
    except BaseException:  # KeyboardInterrupt too: nothing that we started may stay behind
        broker.stop()
        raise
    return broker


def _command(backend: Backend, bind: str, port: int, folder: Path) -> list[str]:
    """Command line of the broker, having written its configuration to `folder`."""
    if backend == "amqtt":
        return [sys.executable, "-m", "broker.local.amqtt_process", bind, str(port)]
    program = find_mosquitto()
    assert program is not None, "chosen because it was found"
    config = MOSQUITTO_CONFIG.format(port=port, bind=bind)
    if os.geteuid() == 0:
        config += "user root\n"  # else it changes to a user who may not read our folder, or does not exist
    path = folder / "mosquitto.conf"
    path.write_text(config)
    return [program, "-c", str(path)]


def _wait_until_ready(broker: LocalBroker) -> None:
    """Return when the broker accepts an MQTT connection. Raises MachineError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _accepts(broker.host, broker.port):
        if (status := broker.poll()) is not None:
            raise MachineError(
                f"{broker.backend} ended at its start, status {status}. It printed:\n{broker.last_output()}"
            )
        if time.monotonic() > deadline:
            raise MachineError(
                f"{broker.backend} accepted no connection on {_address(broker.host, broker.port)} in "
                f"{START_TIMEOUT_S:.0f} s. It printed:\n{broker.last_output()}"
            )
        time.sleep(POLL_S)


def _accepts(host: str, port: int) -> bool:
    """Whether an MQTT broker accepts a connection there."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(CONNECT)
            accepted = connection.recv(len(CONNACK)) == CONNACK
            connection.sendall(DISCONNECT)
            return accepted
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()  # ends what guards it
    shutil.rmtree(folder, ignore_errors=True)


def _reachable(bind: str) -> str:
    """Where a client on this machine reaches a server that listens on `bind`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
