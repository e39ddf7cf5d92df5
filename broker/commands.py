"""`local-broker`: an MQTT broker on this machine, for trying things out and for networks you trust."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.extras import SubcommandApp

from broker.address import CERTIFICATE_PORT, is_loopback
from broker.errors import EXIT_INTERRUPTED, ConfigError, MachineError
from broker.local.server import LocalBroker, find_mosquitto, start_local_broker
from broker.program.completion import Shell, completion_script
from broker.program.ending import report
from broker.program.paths import typed_path
from broker.program.plain_text import let_output_take_all_characters, say
from broker.program.startup import let_ctrl_c_interrupt

app = SubcommandApp()

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@app.command
def run(*, port: int = 1883, bind: str = "127.0.0.1", backend: Literal["auto", "mosquitto", "amqtt"] = "auto") -> None:
    """Run a broker until Ctrl-C. It has no password and no encryption, and keeps nothing on disk.

    Args:
        port: Port to listen on; 0 takes a free one.
        bind: Address to listen on. 127.0.0.1 lets in this machine only; 0.0.0.0 whoever can reach it.
        backend: Program that serves; auto is mosquitto where it is found, else amqtt.

    """
    if not 0 <= port <= 65_535:  # else the system takes what is left of it in 16 bits
        raise ConfigError(f"--port {port}: use 0 to 65535")
    try:
        with start_local_broker(port=port, bind=bind, backend=backend) as broker:
            _announce(broker, bind)
            status = broker.wait()
            raise MachineError(
                f"{broker.backend} ended by itself, status {status}. It printed:\n{broker.last_output()}"
            )
    except KeyboardInterrupt:
        print("the broker has stopped")


@app.command(name="provision")
def provision_command(
    folder: tyro.conf.Positional[Path],
    *,
    robot: Names = (),
    trainer: Names = (),
    host: Names = (),
    remove: Names = (),
    seal: bool = False,
) -> None:
    """Write the configuration of a mosquitto with TLS, access rules and no anonymous clients.

    Run it again to add an identity: what exists stays as it is.

    Args:
        folder: Where to write; made if missing.
        robot: Name of a robot that may log in; may be repeated.
        trainer: Name of a trainer that may log in; may be repeated.
        host: Name or address by which clients reach the broker, beside localhost; may be repeated.
        remove: Name of a robot or trainer to lock out; may be repeated.
        seal: Have payloads sealed from robot to trainer and back, for a broker that somebody else runs: its operator
            reads nothing then. Each name that is given gets its payload.key. Start all ends anew afterwards.

    """
    if find_spec("cryptography") is None:
        raise ConfigError("provision needs the package `cryptography`: pip install 'reflexarc[provision]'")
    from broker.security.provision import provision  # needs cryptography, which `run` does without

    folder = typed_path(folder)
    done = provision(folder, robots=robot, trainers=trainer, hosts=host, removed=remove, seal=seal)
    width = max((len(str(written.path)) for written in done.files), default=0)
    for written in done.files:
        say(f"{written.path!s:{width}}  {written.what}")
    if not done.files:
        print("nothing is missing, so nothing was written")
    _tell_next_steps(folder, robot, trainer, f"mqtts://{done.hosts[0]}:{CERTIFICATE_PORT}")


@app.command(name="completion")
def completion(shell: Annotated[Shell, tyro.conf.Positional]) -> None:
    """Print what a shell needs to complete commands and flags: save it where the shell looks (docs/how-to/install.md).

    Args:
        shell: bash, zsh or fish.

    """
    print(completion_script(app.cli, "local-broker", shell))


def _tell_next_steps(folder: Path, robots: Sequence[str], trainers: Sequence[str], url: str) -> None:
    print(f"\nKeep {folder / 'ca'} offline: who has its key can be anybody. Each end needs its own folder only.")
    print(f"\nThe broker (`kill -HUP PID` has a running one read changed files):\n    cd {quoted(folder / 'broker')}")
    if os.geteuid() == 0:
        print("    chown -R mosquitto: .    # what it becomes when root starts it")
    print(f"    {quoted(find_mosquitto() or 'mosquitto')} -c mosquitto.conf")
    for name in trainers:
        login = quoted(folder / name / "credentials.toml")
        print(f"Trainer {name}:\n    cloud-trainer run --trainer {name} --broker {url} --credentials {login}")
    for name in robots:
        login = quoted(folder / name / "credentials.toml")
        print(f"Robot {name}:")
        print(f"    robot-edge run --robot {name} --broker {url} --credentials {login} --source folder:PATH")


def quoted(path: str | Path) -> str:
    """Return a path as a shell takes it in a command that people copy."""
    return shlex.quote(str(path))


def _announce(broker: LocalBroker, bind: str) -> None:
    url, elsewhere = broker.url, "only this machine gets in; --bind 0.0.0.0 lets in others"
    if not is_loopback(bind):
        url, elsewhere = f"mqtt://HOST:{broker.port}", "HOST is this machine's name or address"
        print(
            f"warning: whoever can reach {bind} port {broker.port} can read and write everything: "
            "this broker has no password",
            file=sys.stderr,
        )
    print(
        f"{broker.backend} is running on {bind} port {broker.port} ({elsewhere})\n"
        "Connect a trainer and a robot to it, each in a terminal of its own:\n"
        f"    cloud-trainer run --broker {url} --run-dir runs/cloud\n"
        f"    robot-edge run --broker {url} --robot r1 --source folder:PATH --run-dir runs/r1\n"
        "Ctrl-C stops it.",
        flush=True,
    )


def main() -> None:
    # A closed terminal or `kill` must end the broker as Ctrl-C does: in its own session it would go on alone.
    # What was started to ignore a closed terminal, as by nohup, goes on ignoring it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    let_output_take_all_characters()
    try:
        let_ctrl_c_interrupt()
        app.cli(prog="local-broker", description=__doc__)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sys.exit(report("local-broker", error))
