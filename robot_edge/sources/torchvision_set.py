"""Frames from the classification data sets that torchvision knows, shuffled, for some epochs."""

from __future__ import annotations

import inspect
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from broker.errors import DownloadFailed, MalformedMessage, ReflexarcError, SourceError
from broker.program.machine import machine_error
from broker.wire.bounds import check_class_name
from robot_edge.sources.frames import Pixels
from robot_edge.sources.indexed import Record, Recording

DEFAULT_ROOT = Path("~/.cache/reflexarc")
# Those that say what each picture shows without decoding it. What their training and test splits are called.
TRAIN_TEST = {"train": "train", "test": "test"}
SETS: dict[str, dict[str, str]] = {
    "CIFAR10": TRAIN_TEST,
    "CIFAR100": TRAIN_TEST,
    "MNIST": TRAIN_TEST,
    "FashionMNIST": TRAIN_TEST,
    "KMNIST": TRAIN_TEST,
    "USPS": TRAIN_TEST,
    "SVHN": TRAIN_TEST,
    "STL10": TRAIN_TEST,
    "GTSRB": TRAIN_TEST,
    "Food101": TRAIN_TEST,
    "Flowers102": TRAIN_TEST,
    "DTD": TRAIN_TEST,
    "Country211": TRAIN_TEST,
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "FGVCAircraft": {"train": "trainval", "test": "test"},
    "Imagenette": {"train": "train", "test": "val"},
    "EuroSAT": {},
    "Caltech101": {},
    "Caltech256": {},
}

log = logging.getLogger("robot-edge")


def read_torchvision(text: str, root: Path | None) -> Recording:
    """Return NAME or NAME/test, downloaded where it is not in the folder. Each picture is a scene of its own.

    Raises SourceError, DownloadFailed and MachineError.
    """
    name, _, split = text.partition("/")
    data = _open(name, split or "train", (root or DEFAULT_ROOT).expanduser())

    def read(number: int) -> Pixels:
        return np.asarray(data[number][0].convert("RGB"))

    records = [Record(number, number, label) for number, label in _labelled(data, text)]
    return Recording(where=f"torchvision:{text}", records=records, read=read)


@lru_cache(maxsize=1)  # the phases of a run share it: CIFAR takes 150 MB
def _open(name: str, split: str, root: Path) -> Any:
    """Return the torchvision data set. Raises SourceError, DownloadFailed and MachineError."""
    import torchvision.datasets  # takes torch's seconds to import

    if name not in SETS:
        raise SourceError(f"torchvision has no data set {name!r} that can be used here; there are {', '.join(SETS)}")
    if split not in (SETS[name] or {"train": ""}):
        raise SourceError(f"torchvision:{name} has no split {split!r}; it has {', '.join(SETS[name] or ['train'])}")
    kind = getattr(torchvision.datasets, name)
    known = inspect.signature(kind).parameters
    settings: dict[str, Any] = {"root": str(root)}
    if "train" in known:
        settings["train"] = split == "train"
    elif "split" in known:
        settings["split"] = SETS[name][split]
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            return kind(**settings)
        # torchvision says with either that nothing is there.
        except (RuntimeError, FileNotFoundError):
            log.info("downloading %s to %s", name, root)
            return kind(**settings, download=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        blame: type[ReflexarcError] = SourceError
        if isinstance(error, URLError | TimeoutError) or "urlopen error" in reason:
            blame = DownloadFailed
        elif ours := machine_error(error):
            blame = type(ours)
        raise blame(
            f"torchvision:{name} is not in {root} and cannot be downloaded ({reason}): name the folder that has it "
            "with --data-dir, or connect to the internet once"
        ) from error


def _labelled(data: Any, text: str) -> list[tuple[int, str]]:
    """Return (number, class name) of every picture. Raises SourceError."""
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(data, attribute):
            labels = [int(label) for label in getattr(data, attribute)]
            break
    else:
        labels = [int(label) for _, label in data._samples]
    classes = getattr(data, "classes", None) or getattr(data, "categories", None)
    # Some have several words for a class, and some only numbers.
    named = classes or [str(number) for number in range(max(labels) + 1)]
    names = [(name if isinstance(name, str) else name[0]).strip() for name in named]
    try:
        for name in names:
            check_class_name(name)
    except MalformedMessage as error:
        raise SourceError(f"torchvision:{text}: {error}") from error
    return [(number, names[label]) for number, label in enumerate(labels)]
