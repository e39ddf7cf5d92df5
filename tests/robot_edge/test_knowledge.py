from __future__ import annotations

import numpy as np
import pytest
import torch

from broker.messages import Change, ClassEdit
from hierarchy.device import Compute
from robot_edge.config import RobotConfig
from robot_edge.frame_memory import FrameMemory
from robot_edge.knowledge import Knowledge
from robot_edge.segment import build_edge
from robot_edge.trainer import EdgeTrainer

CLASSES = ("cat", "dog", "bee")


def knowledge() -> Knowledge:
    """Of three classes, with a frame of each, whose logits are 10 for its own class and its place for the others."""
    segment, _, _ = build_edge(RobotConfig(source="sim:", cut="layer1", image_size=16, bottleneck=2))
    trainer = EdgeTrainer(segment, bits=4, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.05)
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    trainer.step(frames, CLASSES * 2, fresh=6, progress=None)
    memory = FrameMemory(10, 16, seed=0)
    for place, name in enumerate(CLASSES):
        logits = [10 if other == place else other for other in range(len(CLASSES))]
        memory.add(name, frames[place], logits=logits)
    return Knowledge(trainer, memory, FrameMemory(10, 16, seed=0, exact=True))


@pytest.mark.parametrize(
    ("change", "name", "to", "classes", "logits"),
    [
        ("rename", "dog", "wolf", ("cat", "wolf", "bee"), [[10, 1, 2], [0, 10, 2], [0, 1, 10]]),
        ("rename", "dog", "cat", ("cat", "bee"), [[10, 2], [], [0, 10]]),
        ("forget", "dog", "", ("cat", "bee"), [[10, 2], [0, 10]]),
        ("forget", "fox", "", CLASSES, [[10, 1, 2], [0, 10, 2], [0, 1, 10]]),
    ],
)
def test_what_frames_are_held_to_follows_the_classes(
    change: Change, name: str, to: str, classes: tuple[str, ...], logits: list[list[float]]
) -> None:
    known = knowledge()
    known.apply(ClassEdit(boot="b" * 16, sequence=1, number=1, change=change, name=name, to=to, session=0))
    assert known.classes == classes
    kept = [one.logits[np.isfinite(one.logits)].tolist() for one in known.rehearsal.all()]
    assert sorted(kept) == sorted(logits)
