"""When a fleet's exit is taken: between two frames, and never in the middle of a lesson."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from robot_edge.run.perception import Perception


class Exits:
    """Of a fleet, as far as a perception sees them. tried: how often one was tried out."""

    def __init__(self) -> None:
        self.tried = 0
        self.is_new = True
        self.in_use = ""

    def try_out(self, _own: object, _held_out: object) -> None:
        self.tried += 1
        self.is_new, self.in_use = False, "version 7"


def test_no_exit_is_taken_in_the_middle_of_a_lesson() -> None:
    exits: Any = Exits()
    predictor: Any = SimpleNamespace(second="version 6")
    exits.in_use = "version 6"
    nothing: Any = None
    perception = Perception(predictor=predictor, sight=nothing, fleet=exits, saw=nothing, tell=nothing)
    held_out = SimpleNamespace(encodings=lambda: ([], nothing))
    segment = SimpleNamespace(exit=SimpleNamespace(head=SimpleNamespace(classes=())))
    trainer = SimpleNamespace(classes=(), segment=segment)
    state: Any = SimpleNamespace(
        trainer=trainer, memory=SimpleNamespace(held_out=held_out), split=SimpleNamespace(bits=4)
    )
    for _ in range(3):
        perception.take_exit(state, busy=True)
    assert (exits.tried, predictor.second) == (0, "version 6"), "it waits"
    perception.take_exit(state, busy=False)
    assert (exits.tried, predictor.second) == (1, "version 7")
    perception.take_exit(state, busy=False)
    assert exits.tried == 1
