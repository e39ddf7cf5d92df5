"""Pretrained weights from real servers: one that answers, one that never does, one that sends something else."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from broker.errors import ConfigError
from hierarchy.runtime import downloads as module
from hierarchy.runtime.downloads import DEADLINE_SECONDS, RETRY_SECONDS, Downloads, weights_path, weights_url
from tests.ports import free_port

pytestmark = pytest.mark.slow

CONTENT = b"weights" * 1000
GOOD = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    for name in (GOOD, "net-00000000.pth"):
        (tmp_path / "www" / name).write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(name="silent")
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def until_settled(downloads: Downloads, name: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while downloads.waits_for(name):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_weights_are_fetched_to_where_torchvision_looks(server: str) -> None:
    with closing(Downloads(lambda _name: f"{server}/{GOOD}")) as downloads:
        assert downloads.waits_for("net") == "the pretrained weights of net are being downloaded"
        until_settled(downloads, "net")
        assert weights_path(f"{server}/{GOOD}").read_bytes() == CONTENT
        assert downloads.waits_for("net") == ""


def test_what_came_is_checked(server: str) -> None:
    with (
        closing(Downloads(lambda _name: f"{server}/net-00000000.pth")) as downloads,
        pytest.raises(ConfigError, match=r"no pretrained weights for net .*hash"),
    ):
        until_settled(downloads, "net")


def test_a_server_that_never_answers_has_a_deadline(silent: str) -> None:
    now = 0.0
    with closing(Downloads(lambda _name: f"{silent}/{GOOD}", lambda: now)) as downloads:
        assert "are being downloaded" in downloads.waits_for("net")
        (running,) = downloads._running.values()
        now = DEADLINE_SECONDS + 1
        with pytest.raises(
            ConfigError, match=f"no pretrained weights for net .not here after 600 s.: download {silent}"
        ):
            downloads.waits_for("net")
        assert running.process.poll() is not None
        now += RETRY_SECONDS - 1
        with pytest.raises(ConfigError):
            downloads.waits_for("net")
        now += 2
        assert "are being downloaded" in downloads.waits_for("net")


def test_a_few_at_a_time(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOWNLOADS", 1)
    with closing(Downloads(lambda name: f"{silent}/{name}.pth")) as downloads:
        assert "are being downloaded" in downloads.waits_for("one")
        assert downloads.waits_for("two") == "the pretrained weights of two wait for other downloads"
        assert len(downloads._running) == 1


def test_weights_of_timm_are_fetched_by_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with closing(Downloads()) as downloads:
        assert downloads.waits_for("timm:tf_efficientnet_lite0") == "", "a Python package has them"
        assert not downloads._running
        assert "are being downloaded" in downloads.waits_for("timm:mobilenetv3_small_100")
        assert len(downloads._running) == 1
        with pytest.raises(ConfigError, match=r"hub cannot be reached.* start this trainer with .*--weights FILE"):
            until_settled(downloads, "timm:mobilenetv3_small_100")


def test_where_torchvision_has_them() -> None:
    assert weights_url("resnet18").startswith("https://download.pytorch.org/models/resnet18-")
