"""The memory that all robots' networks share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch

from broker.errors import ConfigError
from broker.wire.messages import RobotState
from cloud_trainer.config import TrainerConfig
from cloud_trainer.cost import Cost, cost_of, room_beside
from cloud_trainer.session.still_learning import MAX_FEATURE_BYTES


class NetworkRoom:
    """What each robot's network takes of --networks-gb. Any thread may ask. costs: what is kept, by robot."""

    def __init__(self, config: TrainerConfig, batch: int, device: torch.device) -> None:
        self._total = round(config.networks_gb * 1e9)
        self._batch = batch
        self._device = device
        self.costs: dict[str, Cost] = {}

    def cost(self, state: RobotState) -> Cost:
        """Return what a robot's network takes. Raises TooCostly, and ConfigError where there is no such network."""
        cost = cost_of(state.split, self._batch, self._device)
        return with_features(cost) if state.still else cost

    def beside(self, robot: str, cost: Cost) -> int:
        """Return the bytes that are left beside a network in place of a robot's own. Raises TooCostly for none."""
        return room_beside([one for name, one in dict(self.costs).items() if name != robot], cost, self._total)

    def keep(self, robot: str, cost: Cost) -> None:
        """Keep room for a robot's network, in place of its former one."""
        self.costs[robot] = cost

    def keep_if_any(self, robot: str, state: RobotState) -> None:
        """Keep room for the network of a robot in that state, as far as there is any."""
        with suppress(ConfigError):
            cost = self.cost(state)
            self.beside(robot, cost)
            self.keep(robot, cost)

    def give_up(self, robot: str) -> None:
        """Keep no room for a robot any more."""
        self.costs.pop(robot, None)

    @property
    def left(self) -> int:
        """The bytes that robots' networks leave, for one network and its work."""
        return self._total - sum(one.network for one in dict(self.costs).values())


def with_features(cost: Cost) -> Cost:
    """Return what a network takes of whose samples features are kept, as of a robot's that stands still.

    A fit lays them out anew, in twice the bytes, and multiplies them with the head's rows.
    """
    return replace(cost, network=cost.network + MAX_FEATURE_BYTES, work=max(cost.work, 4 * MAX_FEATURE_BYTES))
