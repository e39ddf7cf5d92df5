"""Frames of your own, here a file of pictures: python docs/examples/own_source.py PICTURES.npz mqtt://HOST:PORT"""

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import robot_edge as edge


def frames(file: str) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Yield images, uint8 (height, width, 3), and class names. Any iterable of such pairs is a source."""
    arrays = np.load(file)
    yield from zip(arrays["images"], arrays["names"].tolist(), strict=True)


with edge.Robot("npz", backbone="shufflenet_v2_x0_5", cut="stage2", image_size=16, broker=sys.argv[2]) as robot:
    for step in robot.train(frames(sys.argv[1])):
        print(f"{step.images} frames, loss {step.loss:.3f}, {step.accuracy:.0%} right before they were learned")
    print("classes:", *robot.classes)
