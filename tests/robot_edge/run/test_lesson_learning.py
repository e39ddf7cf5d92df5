from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robot_edge.learning.batcher import Batch
from robot_edge.learning.held_back import HeldBack
from robot_edge.run import lesson_learning
from robot_edge.run.lesson_learning import LessonLearning

SIZE = 4
BATCHES = 4


def saves_in_a_lesson(held: HeldBack | None) -> list[bool]:
    """Teach some batches of one lesson; return whether each was saved."""
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    batches = [
        Batch(images=images, names=["mug"] * 2, positions=[2 * row, 2 * row + 1], session=1) for row in range(BATCHES)
    ]
    saves: list[int] = []
    done: list[int] = []

    def learn(batch: Batch, *, rehearsed: int) -> None:
        done.append(rehearsed)
        if held is not None and held.waits:
            held.add(batch)

    parts: dict[str, Any] = {
        "config": SimpleNamespace(learning=SimpleNamespace(batch=4), rehearsed_per_fresh=1.0),
        "state": SimpleNamespace(
            teaching=SimpleNamespace(more_to_come=True),
            practice=SimpleNamespace(learned=lambda _: None),
            batcher=SimpleNamespace(filled=0, next=lambda _: batches.pop(0)),
            held=held,
        ),
        "learning": SimpleNamespace(learn=learn),
        "saving": SimpleNamespace(save=lambda: saves.append(len(done))),
    }
    lessons = LessonLearning(**parts)
    return [lessons.learn() and saves[-1:] == [len(done)] for _ in range(BATCHES)]


def test_frames_of_a_lesson_that_are_nowhere_else_are_saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves_in_a_lesson(None) == [True, False, False, False], "they are in the outbox"
    assert saves_in_a_lesson(HeldBack(SIZE, "medium")) == [True] * BATCHES
    released = HeldBack(SIZE, "medium")
    released.attacked(0.0, 1)
    assert saves_in_a_lesson(released) == [True, False, False, False]
    monkeypatch.setattr(lesson_learning, "SAVED_AT_ONCE_BYTES", 4 * 3 * SIZE**2)
    assert saves_in_a_lesson(HeldBack(SIZE, "medium")) == [True, True, False, False], (
        "more would take too long to write"
    )
