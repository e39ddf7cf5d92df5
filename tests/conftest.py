"""What every test has: one torch thread, the same random numbers, a limit of time, and real brokers on free ports.

There is one broker of each kind for a session.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from broker.local.server import find_mosquitto, start_local_broker
from broker.program.startup import prepare_pytorch
from robot_edge.run import secret_seed
from tests.broker_nodes import find_nats, find_rabbitmq
from tests.crashes import pytest_configure, pytest_exception_interact, pytest_testnodedown
from tests.postgres import PostgresServer, find_postgres, postgres_server

# pytest looks for hooks in this file.
__all__ = ["pytest_configure", "pytest_exception_interact", "pytest_testnodedown"]

prepare_pytorch()  # for tests that train, and programs that are forked

# `make test-fast` leaves out what is slow: tests in folders of whole programs, tests that need a broker or a browser
# (by their fixtures), and files that are marked `slow`, because they train for long or start programs.
WHOLE_PROGRAMS = frozenset({"benchmarks", "docs", "end_to_end", "launch", "soak"})
SLOW_FIXTURES = frozenset({"amqtt_url", "broker_url", "chromium", "mosquitto_url"})
# Seconds. What starts programs gives those 300 to do something, and then says what they printed. All others have the
# `timeout` of pyproject.toml.
SLOW_TIMEOUT = 420
# Their tests mostly wait for programs, so their files are handed out first; whatever is quick then fills the gaps.
LONGEST = ("end_to_end", "soak", "tests")
# A worker and its programs take a few GB.
MAX_WORKERS = 8
# The secret seed of every run in here that was given none.
SEED = 1_234_567_890_123_456_789

# Behind nohup it is ignored, by programs started from here as well, and tests send it to some of them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _torch() -> None:
    """Give PyTorch one thread, and each test the same random numbers, whatever ran before it.

    On small tensors a second thread, with every core busy, can cost a hundred times what it saves.
    """
    if torch := sys.modules.get("torch"):  # its import takes seconds: a test that needs it has imported it
        torch.set_num_threads(1)
        torch.default_generator.manual_seed(0)  # torch.manual_seed() formats a stack each time, for GPUs to come


@pytest.fixture(scope="session", autouse=True)
def _seed() -> Iterator[None]:
    """Let runs draw the same secret seed: not every network learns from every start what a test asks of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret_seed, "drawn_seed", lambda: SEED)
        yield


def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` means: one more than there are processors, as one of them always waits for something."""
    return min((os.cpu_count() or 1) + 1, MAX_WORKERS)


@pytest.fixture(scope="session")
def mosquitto_url() -> Iterator[str]:
    """URL of the session's mosquitto. What is retained there outlives a test: name robots by test."""
    with start_local_broker(backend="mosquitto") as broker:
        yield broker.url


@pytest.fixture(scope="session")
def amqtt_url() -> Iterator[str]:
    """URL of the session's amqtt. What is retained there outlives a test: name robots by test."""
    with start_local_broker(backend="amqtt") as broker:
        yield broker.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return the session's PostgreSQL. A test has a schema of its own there."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    """URL of an empty schema."""
    return postgres.make(f"test_{secrets.token_hex(4)}")


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "amqtt"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """URL of a broker; the test runs once against mosquitto and once against amqtt."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist; else the order is the files'
        items.sort(key=lambda item: item.path.parent.name not in LONGEST)
    for item in items:
        if "mosquitto_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.mosquitto)
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.chromium)
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
    for marker, (what, _) in missing().items():
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{what} is not installed"))


def is_slow(item: pytest.Item) -> bool:
    """Whether `make test-fast` leaves a test out."""
    by_folder = WHOLE_PROGRAMS & set(item.path.relative_to(item.config.rootpath).parts)
    by_fixture = SLOW_FIXTURES & set(getattr(item, "fixturenames", ()))
    return bool(by_folder or by_fixture or item.get_closest_marker("slow"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker, (what, remedy) in missing().items():
        left_out = [report for report in terminalreporter.getreports("skipped") if marker in report.keywords]
        if left_out:
            terminalreporter.write_line(
                f"left out {len(left_out)} tests, because {what} is not installed; to run them too: {remedy}",
                yellow=True,
            )


def missing() -> dict[str, tuple[str, str]]:
    """Return the markers of tests that cannot run here, with what they lack and how to get it."""
    lacking = {}
    if find_mosquitto() is None:
        lacking["mosquitto"] = "mosquitto", "sudo apt-get install mosquitto"
    if find_postgres() is None:
        lacking["postgres"] = "PostgreSQL", "sudo apt-get install postgresql"
    if find_rabbitmq() is None:
        lacking["rabbitmq"] = "RabbitMQ", "sudo apt-get install rabbitmq-server"
    if find_nats() is None:
        lacking["nats"] = "NATS", "sudo apt-get install nats-server"
    if shutil.which("colcon") is None:
        lacking["colcon"] = "colcon", "sudo apt-get install colcon python3-colcon-ros"
    if find_chromium() is None:
        lacking["chromium"] = "Chromium", "sudo apt-get install chromium"
    return lacking


def find_chromium() -> str | None:
    """Return the browser that pages are tested in; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")  # its event loop is in the way of later tests' own
def chromium() -> Iterator[Any]:
    """Return a playwright Browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()
