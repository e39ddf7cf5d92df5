"""RabbitMQ and NATS as Debian has them: nodes on free ports of this machine, alone or as a cluster, to be killed.

They are started without systemd and keep all that they write in a folder of the test's.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from tests.ports import free_port

Kind = Literal["rabbitmq", "nats"]

# Erlang takes some seconds to start, and three of it on a busy machine of two cores a minute.
START_SECONDS = 120.0
POLL_SECONDS = 0.05
# What Debian's package of RabbitMQ puts into the PATH refuses all users but two.
RABBITMQ_FOLDER = Path("/usr/lib/rabbitmq/lib")

RABBITMQ_CONF = """\
listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
{peers}
"""

NATS_CONF = """\
server_name: {name}
listen: "127.0.0.1:{client}"
max_payload: 2097152
jetstream {{ store_dir: "{folder}/jetstream" }}
mqtt {{ listen: "127.0.0.1:{port}" }}
"""
NATS_CLUSTER = """\
cluster {{ name: reflexarc, listen: "127.0.0.1:{own}", routes: [{routes}] }}
"""


class Node:
    """One node of a broker. port: where it takes MQTT. log: what it printed, in all its lives."""

    def __init__(self, command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.port = port
        self.log = folder / "log"
        self._command = list(command)
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and do not wait for it."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # RabbitMQ is a shell with the broker in it
            )

    def wait_until_ready(self) -> None:
        """Return when it takes connections."""
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            assert self._process is not None
            assert self._process.poll() is None, f"{self._command[0]} ended at its start:\n{self._printed()}"
            assert time.monotonic() < deadline, f"{self._command[0]} does not listen:\n{self._printed()}"
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """Kill -9 it; harmless where it does not run."""
        if self._process:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _printed(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Brokers(NamedTuple):
    """The nodes of one broker."""

    nodes: list[Node]

    def urls(self, first: int = 0) -> str:
        """Return all their URLs as --broker takes them, beginning with that of one node."""
        return ",".join(node.url for node in self.nodes[first:] + self.nodes[:first])


@contextmanager
def running(kind: Kind, folder: Path, count: int = 1) -> Iterator[Brokers]:
    """Run so many nodes, as a cluster if there are several, and kill them in the end."""
    make: dict[Kind, Callable[[ExitStack, Path, int], list[Node]]] = {"rabbitmq": _rabbitmq, "nats": _nats}
    with ExitStack() as started:
        nodes = make[kind](started, folder, count)
        for node in nodes:
            started.callback(node.kill)
            node.start()
        for node in nodes:
            node.wait_until_ready()
        yield Brokers(nodes)


def find_nats() -> str | None:
    """Return the NATS server; None where there is none."""
    return shutil.which("nats-server", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def find_rabbitmq() -> str | None:
    """Return the program that starts RabbitMQ; None where there is none, or no Erlang."""
    found = sorted(RABBITMQ_FOLDER.glob("*/sbin/rabbitmq-server"))
    return str(found[-1]) if found and shutil.which("epmd") else None


def _rabbitmq(started: ExitStack, folder: Path, count: int) -> list[Node]:
    program, epmd = find_rabbitmq(), shutil.which("epmd")
    assert program is not None
    assert epmd is not None
    # Nodes find each other through it. They would start one themselves, on its usual port, and leave it behind.
    names_port = free_port()
    names = subprocess.Popen([epmd, "-port", str(names_port), "-address", "127.0.0.1", "-relaxed_command_check"])
    started.callback(names.wait)
    started.callback(names.terminate)
    node_names = [f"n{number}@localhost" for number in range(count)]
    peers = "cluster_formation.peer_discovery_backend = classic_config\n" + "\n".join(
        f"cluster_formation.classic_config.nodes.{at} = {name}" for at, name in enumerate(node_names, 1)
    )
    plugins = folder / "plugins"
    plugins.write_text("[rabbitmq_mqtt].\n")
    nodes = []
    for name in node_names:
        own, port = folder / name, free_port()
        own.mkdir()
        (own / "rabbitmq.conf").write_text(RABBITMQ_CONF.format(port=port, peers=peers if count > 1 else ""))
        environment = {
            "HOME": str(folder),  # of the cookie by which nodes know each other
            "ERL_EPMD_PORT": str(names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(own / "mnesia"),
            "RABBITMQ_LOG_BASE": str(own),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(own / "none"),  # not what the machine's own one is started with
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        nodes.append(Node([program], port, own, environment))
    return nodes


def _nats(_started: ExitStack, folder: Path, count: int) -> list[Node]:
    program = find_nats()
    assert program is not None
    routes = [free_port() for _ in range(count)]
    nodes = []
    for number, own_route in enumerate(routes):
        name, port = f"n{number}", free_port()
        own = folder / name
        own.mkdir()
        config = NATS_CONF.format(name=name, client=free_port(), port=port, folder=own)
        if count > 1:
            config += NATS_CLUSTER.format(
                own=own_route, routes=", ".join(f'"nats://127.0.0.1:{one}"' for one in routes)
            )
        (own / "nats.conf").write_text(config)
        nodes.append(Node([program, "-c", str(own / "nats.conf")], port, own, {}))
    return nodes
