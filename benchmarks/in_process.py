"""A robot and its trainer in one process, without broker, clock or disk: what they learn and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, RobotState
from broker.wire.quantize import Quantized, pack_activations
from cloud_trainer.session.session import Session
from cloud_trainer.store.log import Event, Kind
from hierarchy import DividedNetwork, HeldOut
from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.cloud import fastest_compute as fastest_cloud
from hierarchy.edge import EdgeTrainer
from hierarchy.edge import fastest_compute as fastest_edge
from hierarchy.schedule import settling
from robot_edge.learning.frame_memory import FrameMemory, KeptFrame
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels

PREDICT_AT_ONCE = 256


class InProcess:
    """Both ends of a run. Call learn for each batch, settle once, then test."""

    def __init__(self, config: RobotConfig, *, memory: int = 5000, group_norm_channels: int = 0) -> None:
        """group_norm_channels: to replace BatchNorm by GroupNorm with groups of so many."""
        torch.set_num_threads(1)
        seed = config.open_seed
        torch.manual_seed(seed)
        segment, self.split, start = build_edge(config.network)
        cloud_segment = CloudSegment(self.split, weights="none")
        if group_norm_channels:
            use_group_norm(segment, group_norm_channels)
            use_group_norm(cloud_segment, group_norm_channels)
        cpu = torch.device("cpu")
        self.config = config
        self.edge = EdgeTrainer(
            segment,
            bits=config.network.bits,
            compute=fastest_edge(
                segment, image_size=config.network.image_size, batch=config.learning.batch, device=cpu
            ),
            peak_learning_rate=config.learning.learning_rate,
            seed=seed,
        )
        self.cloud = CloudTrainer(
            cloud_segment,
            compute=fastest_cloud(cloud_segment, self.split.shape, config.learning.batch, cpu),
            peak_learning_rate=0.02,
        )
        state = RobotState(
            boot="0" * 16,
            run="0" * 16,
            former="",
            edits=0,
            started=0,
            online=True,
            split=self.split,
            weights=start,
            rehearse=config.rehearsed_per_fresh,
        )
        self._memory = FrameMemory(memory, config.network.image_size, seed)
        self._numbered = 0
        self._log: list[bytes] = []
        self._session = Session(
            "bench", state, self.cloud, batch=config.learning.batch, memory=50_000, seed=seed, read=self._read
        )

    def learn(self, images: Pixels, names: list[str], *, progress: float | None) -> None:
        """Take one step on fresh frames and those that are rehearsed, and send what goes up."""
        rehearsed = self._memory.draw(round(len(names) * self.config.rehearsed_per_fresh))
        frames = np.concatenate([images, *(one.image[None] for one in rehearsed)])
        labels = names + [one.name for one in rehearsed]
        step = self.edge.step(frames, labels, fresh=len(names), progress=progress)
        numbers = list(range(self._numbered + 1, self._numbered + len(names) + 1))
        self._numbered += len(names)
        if rehearsed and self.config.learning.encode_anew:
            self._send_re_encoded(step.quantized[len(names) :], rehearsed, progress)
        self._send(step.quantized[: len(names)], names, numbers, progress)
        for name, image, number in zip(names, images, numbers, strict=True):
            self._memory.add(name, image, sample=number)

    def settle(self, *, steps: int = 200, cloud_steps: int = 200) -> None:
        """Practise on what is remembered, send it as it is encoded then, and let the cloud practise on that."""
        for done in range(steps):
            drawn = self._memory.draw(self.config.learning.batch)
            images = np.stack([one.image for one in drawn])
            self.edge.step(images, [one.name for one in drawn], fresh=0, progress=settling(done, steps - done))
        kept = self._memory.draw(1000)
        for start in range(0, len(kept) if self.config.learning.encode_anew else 0, PREDICT_AT_ONCE):
            part = kept[start : start + PREDICT_AT_ONCE]
            _, quantized = self.edge.evaluate(np.stack([one.image for one in part]))
            self._send_re_encoded(quantized, part, None)
        self.flush()
        if cloud_steps:
            self._apply("rehearse", b"%d %d" % (cloud_steps, cloud_steps))

    def flush(self) -> None:
        """Let the cloud train on what waits."""
        self._apply("flush", b"")

    def test(self, images: Pixels, names: Sequence[str]) -> tuple[HeldOut, HeldOut]:
        """Predict frames at the exit and in the cloud."""
        seen = DividedNetwork(self.edge, self.cloud, self.split).predict(images)
        at_exit, in_cloud = HeldOut(), HeldOut()
        at_exit.add(names, seen.exit.names)
        in_cloud.add(names, seen.cloud.names)
        return at_exit, in_cloud

    def _send_re_encoded(self, quantized: Quantized, frames: list[KeptFrame], progress: float | None) -> None:
        names, numbers = [one.name for one in frames], [one.sample for one in frames]
        self._send(quantized, names, numbers, progress, again=True)

    def _send(
        self,
        quantized: Quantized,
        names: Sequence[str],
        numbers: Sequence[int],
        progress: float | None,
        *,
        again: bool = False,
    ) -> None:
        classes = tuple(dict.fromkeys(names))
        batch = ActivationBatch(
            boot="0" * 16,
            sequence=len(self._log),
            split=self.split.fingerprint,
            evaluation=0,
            progress=progress,
            edge_version=self.edge.steps,
            edits=0,
            session=0,
            classes=classes,
            labels=np.array([classes.index(name) for name in names], np.uint16),
            samples=np.array(numbers, np.uint32),
            again=again,
            activations=pack_activations(quantized),
        )
        self._apply("batch", pack(batch))

    def _apply(self, kind: Kind, payload: bytes) -> None:
        self._log.append(payload)
        self._session.apply(Event(id=len(self._log), robot="bench", kind=kind, payload=payload))

    def _read(self, events: Sequence[int]) -> list[bytes]:
        return [self._log[event - 1] for event in events]


def use_group_norm(module: nn.Module, channels: int) -> None:
    """Replace every BatchNorm below a module by GroupNorm with groups of so many channels, where it has as many."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.GroupNorm(max(1, child.num_features // channels), child.num_features))
        else:
            use_group_norm(child, channels)
