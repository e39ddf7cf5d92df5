"""What the training of all networks of a trainer shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cloud_trainer.checkpoints import CheckpointPlace
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.robots.network_room import NetworkRoom
from cloud_trainer.session.batches import KeptBatches
from cloud_trainer.store.log import Store
from hierarchy.runtime.disk import DiskWatch


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """store: of the thread that trains. place: of the checkpoints."""

    config: TrainerConfig
    settings: TrainingSettings
    store: Store
    place: CheckpointPlace
    device: torch.device
    room: NetworkRoom
    batches: KeptBatches
    disk: DiskWatch
