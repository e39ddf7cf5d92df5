"""The divided network: cut a backbone in two, and train both halves. Here they train in one process, without a broker:

    import hierarchy

    network = hierarchy.divide("resnet18", "layer2", image_size=32, bits=4, bottleneck=16)
    for images, names in batches:  # uint8 (N, 32, 32, 3), and a class name for each
        step = network.step(images, names)
        print(step.exit_loss, step.cloud_loss, step.crossed_bytes)
    seen = network.predict(images)
    print(seen.exit.names, seen.cloud.names, seen.cloud.confidences)
    network.save("runs/both")
    network = hierarchy.DividedNetwork.load("runs/both")

`network.edge` and `network.cloud` are plain `torch.nn.Module`. `hierarchy.cut_points("resnet18")` lists where that
network can be cut. The errors are those of `broker.errors`.

`import hierarchy` takes no time: PyTorch is imported with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hierarchy.cut import CutPoint
    from hierarchy.divided import Answers, DividedNetwork, Prediction, Step, cut_points, divide
    from hierarchy.evaluation import HeldOut
    from hierarchy.rehearsal import BalancedMemory

__all__ = [
    "Answers",
    "BalancedMemory",
    "CutPoint",
    "DividedNetwork",
    "HeldOut",
    "Prediction",
    "Step",
    "cut_points",
    "divide",
]

_HOMES = {"BalancedMemory": "rehearsal", "CutPoint": "cut", "HeldOut": "evaluation"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'divided')}"), name)


def __dir__() -> list[str]:
    """Return what a notebook completes."""
    return __all__
