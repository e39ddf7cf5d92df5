"""PostgreSQL as Debian has it: a server on a free port of this machine, to be killed. It keeps all in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import psutil

from tests.ports import free_port

START_SECONDS = 60.0
POLL_SECONDS = 0.02
# Debian puts its programs into folders that no PATH has, one for each version.
PLACES = "/usr/lib/postgresql/*/bin"
CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
restart_after_crash = on
"""


def find_postgres() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs; None where there is none."""
    found = sorted(Path("/").glob(PLACES.lstrip("/")), key=lambda one: int(one.parent.name))
    if found:
        return found[-1]
    in_path = shutil.which("initdb")
    return Path(in_path).resolve().parent if in_path else None


class PostgresServer:
    """A server. port: where it listens. folder: with all that it writes."""

    def __init__(self, folder: Path, *, safe: bool = False) -> None:
        """safe: what is committed survives a power cut, as it should; most tests are not about that."""
        programs = find_postgres()
        assert programs
        self.port = free_port()
        self._programs = programs
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to be root.
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
        subprocess.run(
            [*self._user, programs / "initdb", "-D", folder / "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "-N"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"{CONF}port = {self.port}\n" + ("" if safe else "fsync = off\n"))

    def url(self, schema: str = "public") -> str:
        """Return the URL of a schema."""
        options = quote(f"-csearch_path={schema}")
        return f"postgresql://tests@127.0.0.1:{self.port}/postgres?options={options}"

    def make(self, schema: str) -> str:
        """Make a schema; return its URL."""
        self.ask(f"CREATE SCHEMA {schema}")
        return self.url(schema)

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Return the answer to a question."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import psycopg

        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._user, self._programs / "postgres", "-D", self.folder / "data"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("SELECT 1")
            except psycopg.OperationalError:  # noqa: PERF203
                assert time.monotonic() < give_up, (self.folder / "log").read_text()
                time.sleep(POLL_SECONDS)
            else:
                return

    def kill(self) -> None:
        """Kill all of it without a word, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        main = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes if number == signal.SIGKILL else [main]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        self._process.wait()
        self._process = None
        while any(is_alive(process) for process in processes):
            time.sleep(POLL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still holds what a server has. One that nobody has asked for its status does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def postgres_server(*, safe: bool = False) -> Iterator[PostgresServer]:
    """Start a server in a folder of its own."""
    with TemporaryDirectory(prefix="postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), safe=safe)
        server.start()
        try:
            yield server
        finally:
            server.stop()
