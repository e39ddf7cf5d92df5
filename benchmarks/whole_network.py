"""The uncut network, trained with the same frames, augmentation, optimizer and schedule as the two halves."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hierarchy.backbone import build_backbone
from hierarchy.device import Compute, set_threads
from hierarchy.evaluation import HeldOut
from hierarchy.head import GrowingHead
from hierarchy.optimizer import set_learning_rate, sgd
from robot_edge.augment import augment
from robot_edge.batches import Batcher
from robot_edge.frame_memory import FrameMemory
from robot_edge.sources import open_source
from robot_edge.trainer import normalise


def train_whole(
    source: str,
    held_out: str,
    *,
    backbone: str = "resnet18",
    image_size: int = 32,
    epochs: int = 1,
    images: int = 0,
    batch: int = 64,
    peak_learning_rate: float = 0.05,
    threads: int = 1,
    seed: int = 0,
) -> float:
    """Train on a source and return the accuracy on the held-out one."""
    set_threads(threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    compute = Compute(device=torch.device("cpu"))
    features = build_backbone(backbone, image_size=image_size, weights="none")
    head = GrowingHead(features.features)
    network = nn.Sequential(features.module, head)
    optimizer = sgd(network, compute)
    frames = open_source(source, image_size=image_size, epochs=epochs, images=images, seed=seed)
    batcher = Batcher(
        source=frames, size=batch, image_size=image_size, held_out_every=0, held_out=FrameMemory(0, image_size, 0)
    )
    steps = 0
    while (taken := batcher.next()) is not None:
        head.grow(taken.names, optimizer)
        network.train(len(taken.names) > 1)
        set_learning_rate(optimizer, peak_learning_rate, steps=steps, progress=batcher.progress)
        logits = network(compute.tensor(normalise(augment(taken.images, rng))))
        loss = F.cross_entropy(logits, torch.tensor(head.indices(taken.names)))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        steps += 1
    return _accuracy(network, head, held_out, image_size)


@torch.inference_mode()
def _accuracy(network: nn.Module, head: GrowingHead, source: str, image_size: int) -> float:
    network.eval()
    reader = Batcher(
        source=open_source(source, image_size=image_size),
        size=256,
        image_size=image_size,
        held_out_every=0,
        held_out=FrameMemory(0, image_size, 0),
    )
    result = HeldOut()
    while (taken := reader.next()) is not None:
        guesses = network(torch.from_numpy(normalise(taken.images))).argmax(1).tolist()
        result.add(taken.names, [head.classes[index] for index in guesses])
    assert result.accuracy is not None, "the held-out source is empty"
    return result.accuracy
