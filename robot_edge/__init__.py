"""The robot: learns the front of the network and an early exit from live frames.

    import robot_edge as edge

    with edge.Robot("r1", backbone="resnet18", cut="layer2", broker="mqtt://localhost") as robot:
        for step in robot.train(edge.open_source("folder:toys")):  # or any iterable of (image, name)
            print(step.loss, robot.cloud.accuracy)
        robot.teach("mug", frames)  # any iterable of (H, W, 3) uint8 arrays
        robot.settle()
        seen = robot.predict(frame)
        print(seen.name, seen.confidence, seen.answered_by)
        robot.save("runs/r1")
    with edge.Robot.load("runs/r1") as robot:
        robot.rename("mug", "cup")

`robot-edge run` is built of the same parts. Whatever Reflexarc raises on purpose is a ReflexarcError.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.errors import ReflexarcError
    from robot_edge.robot import Cloud, Robot
    from robot_edge.run.robot_thread import Seen, Step
    from robot_edge.sources.frames import Frame
    from robot_edge.sources.opening import open_source

__all__ = ["Cloud", "Frame", "ReflexarcError", "Robot", "Seen", "Step", "open_source"]

_HOMES = {
    "Frame": "robot_edge.sources.frames",
    "ReflexarcError": "broker.errors",
    "Seen": "robot_edge.run.robot_thread",
    "Step": "robot_edge.run.robot_thread",
    "open_source": "robot_edge.sources.opening",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "robot_edge.robot")), name)


def __dir__() -> list[str]:
    """Return what a notebook completes."""
    return __all__
