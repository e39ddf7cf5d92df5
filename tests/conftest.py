"""What every test has: one torch thread, and real brokers on free ports, one of each for a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from broker.server import find_mosquitto, start_local_broker


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On small tensors a second thread, with every core busy, can cost a hundred times what it saves."""
    torch.set_num_threads(1)


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


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "amqtt"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """URL of a broker; the test runs once against mosquitto and once against amqtt."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "mosquitto_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.mosquitto)
    if find_mosquitto() is None:
        for item in items:
            if item.get_closest_marker("mosquitto"):
                item.add_marker(pytest.mark.skip(reason="mosquitto is not installed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = [report for report in terminalreporter.getreports("skipped") if "mosquitto" in report.keywords]
    if left_out and find_mosquitto() is None:
        terminalreporter.write_line(
            f"left out {len(left_out)} tests, because mosquitto is not installed; to run them too: "
            "sudo apt-get install mosquitto",
            yellow=True,
        )
