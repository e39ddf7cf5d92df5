"""The memory that an actor's networks share: those that nobody uses make room for others."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cloud_trainer.config import TrainerConfig
from cloud_trainer.cost import Cost, TooCostly
from cloud_trainer.robots.network_room import NetworkRoom


class PagedRoom(NetworkRoom):
    """make_room: given the log that room is wanted for, lets another network rest; returns whether it did."""

    def __init__(
        self, config: TrainerConfig, batch: int, device: torch.device, make_room: Callable[[str], bool]
    ) -> None:
        super().__init__(config, batch, device)
        self._make_room = make_room

    def beside(self, robot: str, cost: Cost) -> int:
        """Return the bytes that are left beside a network; others rest first where there are none.

        Raises TooCostly where it does not fit alone.
        """
        while True:
            try:
                return super().beside(robot, cost)
            except TooCostly:  # noqa: PERF203  a network is built or written each time
                if not self._make_room(robot):
                    raise
