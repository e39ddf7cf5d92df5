from __future__ import annotations

import socket
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from broker.errors import DownloadFailed, SourceError
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from robot_edge.sources.torchvision_set import SETS, _labelled

NAMES = ["7 - seven", "1 - one", "2 - two"]


@pytest.fixture
def data(tmp_path: Path) -> SourceOptions:
    """Return where a tiny MNIST is: 12 pictures to train on, 5 to test on, each as bright as its number."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 12), ("t10k", 5)):
        pictures = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28)
        labels = np.array([[7, 1, 2][number % 3] for number in range(count)], np.uint8)
        header = struct.pack(">iiii", 0x803, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, count) + labels.tobytes())
    return SourceOptions(data_dir=str(tmp_path))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_set_that_is_there_is_shown_in_epochs(data: SourceOptions) -> None:
    with closing(open_source("torchvision:MNIST", data, image_size=28, epochs=2)) as source:
        assert source.length == 24
        frames = list(iter(source.next, None))
    numbers = [int(frame.image[0, 0, 0]) for frame in frames]
    assert sorted(numbers) == sorted([*range(12)] * 2)
    assert numbers[:12] != numbers[12:]
    assert all(frame.label == NAMES[number % 3] for frame, number in zip(frames, numbers, strict=True))
    assert [frame.scene for frame in frames] == numbers
    assert frames[0].image.shape == (28, 28, 3)


def test_it_has_a_test_split_and_phases_and_goes_on_at_any_picture(data: SourceOptions) -> None:
    with closing(open_source("torchvision:MNIST/test", data, image_size=28)) as source:
        assert source.length == 5
    phases = [["1 - one"], ["2 - two", "7 - seven"]]
    with (
        closing(open_source("torchvision:MNIST", data, image_size=28, phases=phases)) as whole,
        closing(open_source("torchvision:MNIST", data, image_size=28, phases=phases)) as later,
    ):
        frames = list(iter(whole.next, None))
        assert {frame.label for frame in frames[:4]} == {"1 - one"}
        later.seek(6)
        assert [frame.scene for frame in iter(later.next, None)] == [frame.scene for frame in frames[6:]]


def test_a_set_that_is_not_there_says_so_offline(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"torchvision:MNIST is not in .* cannot be downloaded .*--data-dir"):
        open_source("torchvision:MNIST", SourceOptions(data_dir=str(tmp_path / "none")), image_size=28)


@pytest.mark.parametrize("text", ["torchvision:CIFAR", "torchvision:../x", "torchvision:VOCDetection"])
def test_an_unknown_set_lists_those_there_are(text: str) -> None:
    with pytest.raises(SourceError, match="there are CIFAR10, CIFAR100"):
        open_source(text, image_size=28)


@pytest.mark.parametrize("text", ["torchvision:MNIST/val", "torchvision:EuroSAT/test"])
def test_an_unknown_split_lists_those_there_are(text: str) -> None:
    with pytest.raises(SourceError, match="it has train"):
        open_source(text, image_size=28)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_one_of_torchvision(name: str) -> None:
    assert hasattr(torchvision.datasets, name)


class Fake:
    """A data set as torchvision has them; each of them calls its labels otherwise."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        raise AssertionError("its pictures are decoded to find its labels")


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"targets": [1, 0], "classes": ["a", "b"]}, ["b", "a"]),
        ({"labels": np.array([1, 0])}, ["1", "0"]),
        ({"_labels": [1, 0], "classes": ["a ", "b"]}, ["b", "a"]),
        ({"y": [1, 0], "categories": ["a", "b"]}, ["b", "a"]),
        ({"_samples": [("x", 1), ("y", 0)], "classes": [("a", "aa"), ("b",)]}, ["b", "a"]),
    ],
)
def test_labels_are_found_without_decoding_pictures(attributes: dict[str, Any], names: list[str]) -> None:
    assert [name for _, name in _labelled(Fake(**attributes), "X")] == names


def test_a_class_without_a_name_that_can_be_used_is_refused() -> None:
    with pytest.raises(SourceError, match="class name"):
        _labelled(Fake(targets=[0], classes=["x" * 65]), "X")
