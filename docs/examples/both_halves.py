"""Train both halves of a network in one process, without a broker: python docs/examples/both_halves.py"""

import numpy as np
from numpy.typing import NDArray

import hierarchy

COLORS, rng = ["red", "green", "blue"], np.random.default_rng(0)


def pictures(count: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Return noise with one bright channel, (count, 16, 16, 3), and the name of each picture's class."""
    labels = rng.integers(0, len(COLORS), count)
    images = rng.integers(0, 160, (count, 16, 16, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 60
    return images, [COLORS[label] for label in labels]


network = hierarchy.divide("resnet18", "layer1", image_size=16, bits=4, bottleneck=8)
for number in range(12):
    step = network.step(*pictures(24), progress=number / 12)
    print(f"loss {step.exit_loss:.3f} at the exit, {step.cloud_loss:.3f} in the cloud; {step.crossed_bytes:,} bytes")
images, names = pictures(5)
seen = network.predict(images)
print(*zip(names, seen.exit.names, seen.cloud.names, strict=True), sep="\n")
