from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import ConfigError
from hierarchy.runtime import checkpoint
from hierarchy.runtime.checkpoint import CHECKPOINT, FOR_PEOPLE, load_checkpoint, save_checkpoint, write_json
from hierarchy.runtime.state import Layout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoint"


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    steps: int = 0
    classes: tuple[str, ...] = ()
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)


LAYOUT = Layout(kind=State, migrations=(lambda old: {**old, "parts": old["tensors"]},))


def state(steps: int = 0, classes: tuple[str, ...] = ()) -> State:
    return State(steps=steps, classes=classes, parts={"weights": dict(network().state_dict())})


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_and_statistics_come_back_bit_for_bit(folder: Path) -> None:
    module = network().to(memory_format=torch.channels_last)
    module(torch.randn(2, 3, 5, 5))
    saved = State(steps=3, classes=("cat", "dog"), parts={"weights": module.state_dict()})
    save_checkpoint(folder, LAYOUT, saved)
    loaded = load_checkpoint(folder, LAYOUT)
    tensors = loaded.parts["weights"]
    assert (loaded.classes, loaded.steps) == (("cat", "dog"), 3)
    assert tensors.keys() == module.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())
    assert tensors["1.num_batches_tracked"] == 1
    restored = network()
    restored.load_state_dict(tensors)


def test_a_later_one_replaces_it_and_leaves_nothing_else(folder: Path) -> None:
    save_checkpoint(folder, LAYOUT, state(1))
    save_checkpoint(folder, LAYOUT, state(2))
    assert load_checkpoint(folder, LAYOUT).steps == 2
    assert sorted(file.name for file in folder.iterdir()) == sorted([CHECKPOINT, FOR_PEOPLE])


def test_dying_while_it_is_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(folder, LAYOUT, state(1))
    before = load_checkpoint(folder, LAYOUT).parts["weights"]

    def die_half_way(_tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, LAYOUT, state(2))
    loaded = load_checkpoint(folder, LAYOUT)
    tensors = loaded.parts["weights"]
    assert loaded.steps == 1
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


@pytest.mark.parametrize("kept", [-1, 100, 9, 8, 0])
def test_a_damaged_one_is_named_with_what_to_do(folder: Path, kept: int) -> None:
    save_checkpoint(folder, LAYOUT, state())
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:kept])
    with pytest.raises(ConfigError, match=f"the checkpoint in {folder} is damaged.*: take up gardening$"):
        load_checkpoint(folder, LAYOUT, "take up gardening")


@pytest.mark.parametrize("place", ["header", "names"])
def test_another_header_is_damage_too(folder: Path, place: str) -> None:
    save_checkpoint(folder, LAYOUT, state(1))
    content = (folder / CHECKPOINT).read_bytes()
    damaged = b"\xff" * 16 + content[16:] if place == "header" else content.replace(b'"about"', b'"abaut"')
    (folder / CHECKPOINT).write_bytes(damaged)
    with pytest.raises(ConfigError, match="is damaged, or none of ours"):
        load_checkpoint(folder, LAYOUT)


def test_a_file_of_somebody_elses_is_no_checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file(network().state_dict(), folder / CHECKPOINT)
    with pytest.raises(ConfigError, match=f"the checkpoint in {folder} is damaged, or none of ours"):
        load_checkpoint(folder, LAYOUT)


def test_parts_keep_apart_and_may_be_empty(folder: Path) -> None:
    ones = {"a/b": torch.ones(2)}
    saved = State(parts={"weights": ones, "momentum": {"a/b": torch.zeros(2)}, "memory": {}})
    save_checkpoint(folder, LAYOUT, saved)
    parts = load_checkpoint(folder, LAYOUT).parts
    assert parts.keys() == {"weights", "momentum", "memory"}
    assert torch.equal(parts["weights"]["a/b"], ones["a/b"])


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "nowhere", LAYOUT)


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"images": 1})
    with pytest.raises(TypeError):
        write_json(path, {"images": object()})
    assert path.read_text() == '{\n  "images": 1\n}\n'


def test_one_without_a_version_is_migrated_with_its_tensors(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file({"weights/a": torch.ones(2)}, folder / CHECKPOINT, metadata={"about": '{"steps": 4}'})
    loaded = load_checkpoint(folder, LAYOUT)
    assert (loaded.steps, loaded.parts["weights"]["a"].tolist()) == (4, [1.0, 1.0])


def test_one_that_is_nested_deeper_than_python_follows_is_damaged(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, folder / CHECKPOINT, metadata={"about": "[" * 100_000 + "]" * 100_000})
    with pytest.raises(ConfigError, match="is damaged, or none of ours"):
        load_checkpoint(folder, LAYOUT)


def test_one_of_a_newer_version_is_refused_with_who_wrote_it(folder: Path) -> None:
    folder.mkdir(parents=True)
    about = '{"schema": 2, "written_by": "reflexarc 9.0"}'
    save_file({"a": torch.ones(2)}, folder / CHECKPOINT, metadata={"about": about})
    with pytest.raises(ConfigError, match=r"checkpoint was written by reflexarc 9\.0\. This is .*: update it"):
        load_checkpoint(folder, LAYOUT, "take up gardening")
