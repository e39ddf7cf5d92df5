"""The cloud: learns the rest of the network from quantized activations.

    import cloud_trainer as cloud

    with cloud.Trainer(broker="mqtt://localhost", run_dir="runs/cloud") as trainer:   # works on threads of its own
        trainer.wait(until=lambda it: "r1" in it.robots, timeout=60)
        robot = trainer.robots["r1"]
        print(robot.state, robot.samples, robot.accuracy, robot.classes, robot.reason)
        trainer.save()

Each setting is a flag of `cloud-trainer run`. Whatever ends training is raised at the next call, and at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_trainer.trainer import RobotView, Trainer

__all__ = ["RobotView", "Trainer"]


def __getattr__(name: str) -> object:
    """Import what is public when it is used: PyTorch takes a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloud_trainer import trainer

    return getattr(trainer, name)


def __dir__() -> list[str]:
    """Return what a notebook completes."""
    return __all__
