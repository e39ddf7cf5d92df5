from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from broker.errors import ConfigError
from hierarchy.backbone import build_backbone
from hierarchy.weights_file import fit_weights, read_weights, weights_digest

NAME = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    module: nn.Module = models.get_model(NAME, weights=None)
    return {name: one.contiguous() for name, one in module.state_dict().items()}


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_is_found_in_what_training_programs_save(
    tmp_path: Path, state: dict[str, Tensor], wrapped: str, prefix: str
) -> None:
    named = {prefix + name: one for name, one in state.items()}
    torch.save(named if wrapped == "plain" else {wrapped: named, "epoch": 7}, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert read.keys() == state.keys()
    assert torch.equal(read["conv1.0.weight"], state["conv1.0.weight"])


def test_both_kinds_of_file_give_the_same_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    digests = {
        weights_digest(build_backbone(NAME, image_size=96, weights=tmp_path / file).module)
        for file in ("w.pth", "w.safetensors")
    }
    other = weights_digest(build_backbone(NAME, image_size=96, weights="none").module)
    assert len(digests) == 1
    assert other not in digests


def test_weights_under_other_names_fit_in_their_order(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """As a converted file has them: no name is known, all shapes are; old files lack BatchNorm's counter."""
    kept = [one for name, one in state.items() if not name.endswith("num_batches_tracked")]
    torch.save({f"_layer{number}": one for number, one in enumerate(kept)}, tmp_path / "w.pth")
    torch.save(state, tmp_path / "same.pth")
    in_order = build_backbone(NAME, image_size=96, weights=tmp_path / "w.pth").module
    by_name = build_backbone(NAME, image_size=96, weights=tmp_path / "same.pth").module
    assert weights_digest(in_order) == weights_digest(by_name)


def test_a_classifier_of_other_classes_is_left_out(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({**state, "fc.weight": torch.zeros(7, 1024), "fc.bias": torch.zeros(7)}, tmp_path / "w.pth")
    build_backbone(NAME, image_size=96, weights=tmp_path / "w.pth")


def test_what_does_not_fit_is_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    changed = {**state, "conv1.0.weight": torch.zeros(1, 2), "strange": torch.zeros(3)}
    del changed["conv5.0.weight"]
    torch.save(changed, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as caught:
        build_backbone(NAME, image_size=96, weights=tmp_path / "w.pth")
    said = str(caught.value)
    assert "1 tensors are missing (conv5.0.weight)" in said
    assert "conv1.0.weight (1, 2) in place of (24, 3, 3, 3)" in said
    assert "strange" in said


def test_what_is_left_over_is_named(state: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    module = models.get_model(NAME, weights=None)
    with caplog.at_level(logging.WARNING):
        fit_weights(module, {**state, "aux.weight": torch.zeros(1)}, classifier="fc", path=Path("w.pth"))
    assert "aux.weight" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"PK\x03\x04 cut short", b"\x80\x02cos\nsystem\n(S'true'\ntR."),
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",  # without arguments: TypeError
        b"\x80\x02}(K\x01K\x02ub.",  # sets items of nothing: IndexError
        b"\x80\x02h\xff.",  # remembers nothing: KeyError
        (10**9).to_bytes(8, "little") + b"{}",
        (70).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}  '
        + b"0000",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_hostile_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_weights(tmp_path / f"w{suffix}")
    assert "weights_only" not in str(caught.value)


def test_a_whole_model_is_refused_without_advice_to_run_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save(models.get_model(NAME, weights=None), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"not its state_dict\(\) alone"):
        read_weights(tmp_path / "w.pth")
    assert not recwarn.list


def test_an_archive_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    with pytest.raises(ConfigError, match="unpack to 4"):
        read_weights(tmp_path / "bomb.pth")


def test_what_is_no_file_is_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ConfigError, match="is no file"):
        read_weights(tmp_path / "pipe.pth")


def test_the_content_counts_and_not_the_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.bin")
    torch.save(state, tmp_path / "w.SAFETENSORS")
    assert read_weights(tmp_path / "w.bin").keys() == read_weights(tmp_path / "w.SAFETENSORS").keys() == state.keys()


def _without_data(one: Tensor) -> Tensor:
    return one.to("meta")


@pytest.mark.parametrize(
    "spoilt",
    [
        *(lambda one: one * float("nan"), lambda one: one.double() + 1e300, lambda one: one.to(torch.int8)),
        *(lambda one: one.to(torch.complex64), Tensor.to_sparse, _without_data),
    ],
)
def test_tensors_that_are_no_plain_finite_numbers_are_refused(
    tmp_path: Path, state: dict[str, Tensor], spoilt: Callable[[Tensor], Tensor]
) -> None:
    torch.save({**state, "conv1.0.weight": spoilt(state["conv1.0.weight"])}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"1 hold no plain finite numbers \(conv1.0.weight\)"):
        build_backbone(NAME, image_size=96, weights=tmp_path / "w.pth")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="no tensors"):
        read_weights(tmp_path / "w.pth")
