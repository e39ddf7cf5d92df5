from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import ConfigError
from hierarchy.runtime import checkpoint
from hierarchy.runtime.checkpoint import ABOUT, CHECKPOINT, load_checkpoint, save_checkpoint, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoint"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_and_statistics_come_back_bit_for_bit(folder: Path) -> None:
    module = network().to(memory_format=torch.channels_last)
    module(torch.randn(2, 3, 5, 5))
    save_checkpoint(folder, {"weights": module.state_dict()}, {"classes": ["cat", "dog"], "steps": 3})
    parts, about = load_checkpoint(folder)
    tensors = parts["weights"]
    assert about == {"classes": ["cat", "dog"], "steps": 3}
    assert tensors.keys() == module.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())
    assert tensors["1.num_batches_tracked"] == 1
    restored = network()
    restored.load_state_dict(tensors)


def test_a_later_one_replaces_it_and_leaves_nothing_else(folder: Path) -> None:
    save_checkpoint(folder, {"weights": network().state_dict()}, {"steps": 1})
    save_checkpoint(folder, {"weights": network().state_dict()}, {"steps": 2})
    assert load_checkpoint(folder)[1] == {"steps": 2}
    assert sorted(file.name for file in folder.iterdir()) == sorted([CHECKPOINT, ABOUT])


def test_dying_while_it_is_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(folder, {"weights": network().state_dict()}, {"steps": 1})
    before = load_checkpoint(folder)[0]["weights"]

    def die_half_way(_tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, {"weights": network().state_dict()}, {"steps": 2})
    parts, about = load_checkpoint(folder)
    tensors = parts["weights"]
    assert about == {"steps": 1}
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


@pytest.mark.parametrize("kept", [-1, 100, 9, 8, 0])
def test_a_damaged_one_is_named_with_what_to_do(folder: Path, kept: int) -> None:
    save_checkpoint(folder, {"weights": network().state_dict()}, {})
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:kept])
    with pytest.raises(ConfigError, match=f"the checkpoint in {folder} is damaged.*: take up gardening$"):
        load_checkpoint(folder, "take up gardening")


@pytest.mark.parametrize("place", ["header", "names"])
def test_another_header_is_damage_too(folder: Path, place: str) -> None:
    save_checkpoint(folder, {"weights": network().state_dict()}, {"steps": 1})
    content = (folder / CHECKPOINT).read_bytes()
    damaged = b"\xff" * 16 + content[16:] if place == "header" else content.replace(b'"about"', b'"abaut"')
    (folder / CHECKPOINT).write_bytes(damaged)
    with pytest.raises(ConfigError, match="is damaged, or none of ours"):
        load_checkpoint(folder)


def test_a_file_of_somebody_elses_is_no_checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file(network().state_dict(), folder / CHECKPOINT)
    with pytest.raises(ConfigError, match=f"the checkpoint in {folder} is damaged, or none of ours"):
        load_checkpoint(folder)


def test_parts_keep_apart_and_may_be_empty(folder: Path) -> None:
    ones = {"a/b": torch.ones(2)}
    save_checkpoint(folder, {"weights": ones, "momentum": {"a/b": torch.zeros(2)}, "memory": {}}, {})
    parts, _ = load_checkpoint(folder)
    assert parts.keys() == {"weights", "momentum"}
    assert torch.equal(parts["weights"]["a/b"], ones["a/b"])


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"images": 1})
    with pytest.raises(TypeError):
        write_json(path, {"images": object()})
    assert path.read_text() == '{\n  "images": 1\n}\n'
