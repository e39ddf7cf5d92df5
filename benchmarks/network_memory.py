"""What networks take of a trainer's memory, beside what it expected them to take before it built them.

    python benchmarks/network_memory.py

Each network is built, measured, trained for three steps, tested and saved in a process of its own, as a trainer does
it. Prints the table for docs/costs.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from recording import Table, record

from broker.program.startup import prepare_pytorch
from broker.wire.messages import RobotState, SplitSpec
from cloud_trainer.session.session_state import LAYOUT

# Backbone, cut, pixels, what crosses, and samples in a step.
NETWORKS = [
    ("shufflenet_v2_x0_5", "stage2", 32, (48, 8, 8), 64),
    ("resnet18", "layer1", 32, (64, 16, 16), 64),
    ("resnet18", "layer1", 224, (64, 56, 56), 64),
    ("resnet18", "layer1", 800, (64, 200, 200), 2),
    ("resnet50", "layer1", 224, (256, 56, 56), 16),
    ("resnet152", "layer3", 224, (1024, 14, 14), 64),
    ("densenet121", "features.pool0", 224, (64, 56, 56), 8),
    ("vgg16", "features.4", 224, (64, 112, 112), 8),
    ("convnext_tiny", "features.1", 224, (96, 56, 56), 16),
    ("efficientnet_b0", "features.2", 224, (24, 56, 56), 32),
    ("mobilenet_v3_large", "features.4", 224, (40, 28, 28), 64),
    ("vit_b_16", "encoder.layers.encoder_layer_0", 224, (768, 197), 16),
    ("vit_b_16", "encoder.layers.encoder_layer_0", 512, (768, 1025), 4),
    ("swin_t", "features.1", 224, (96, 56, 56), 8),
    ("regnet_y_800mf", "trunk_output.block1", 224, (64, 56, 56), 32),
]


def resident(peak: bool) -> int:
    """Return the bytes of memory that this process has, or had at most."""
    name = "VmHWM" if peak else "VmRSS"
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return 1024 * int(line.split()[1])


def work(number: int) -> None:
    """Do with one network what a trainer does, and print what it takes and what was expected."""
    prepare_pytorch()
    from cloud_trainer.config import TrainerConfig
    from cloud_trainer.cost import cost_of
    from cloud_trainer.session.session_start import new_start, open_session
    from hierarchy.runtime.checkpoint import save_checkpoint

    backbone, cut, size, shape, batch = NETWORKS[number]
    device = torch.device("cpu")
    split = SplitSpec(backbone=backbone, cut=cut, image_size=size, bits=4, bottleneck=0, shape=shape)
    state = RobotState(
        boot="b" * 16, run="c" * 16, former="", edits=0, started=1.0, online=True, split=split, weights="none",
        rehearse=0.0,
    )  # fmt: skip
    settings = TrainerConfig(batch=batch).training(torch.get_num_threads())
    torch.autograd.backward(torch.nn.Conv2d(3, 3, 3)(torch.zeros(2, 3, 8, 8)).sum())  # libraries come with the first
    cost = cost_of(split, batch, device)
    before = resident(peak=False)
    start = new_start("r1", state, settings, device, known=(), room=10**12)
    measured = resident(peak=True) - before
    session = open_session("r1", start, settings, device, lambda _events: [])
    activations = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
    names = [str(index % 2) for index in range(batch)]
    for _ in range(3):
        session.trainer.step(activations, names, fresh=batch, progress=None)
    session.trainer.predict(activations)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), LAYOUT, session.checkpoint())
    print(
        json.dumps(
            {
                "expected": cost.network + cost.work,
                "with measuring": cost.network + cost.work + cost.measuring,
                "measured": measured,
                "peak": resident(peak=True) - before,
            }
        )
    )


def main() -> None:
    table = Table(
        "Memory of a robot's network",
        *("network", "pixels", "batch", "expected, MB", "with measuring, MB", "peak while measuring, MB", "peak, MB"),
        "peak / with measuring",
    )
    for number, (backbone, _cut, size, _shape, batch) in enumerate(NETWORKS):
        output = subprocess.run([sys.executable, __file__, str(number)], capture_output=True, text=True, check=True)
        row = {name: round(value / 1e6) for name, value in json.loads(output.stdout.splitlines()[-1]).items()}
        share = row["peak"] / row["with measuring"]
        table.row(backbone, size, batch, *row.values(), round(share, 2))
    record(table)


if __name__ == "__main__":
    work(int(sys.argv[1])) if len(sys.argv) > 1 else main()
