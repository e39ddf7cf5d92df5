"""What the event that starts a session says. No torch: whoever takes messages in reads it, too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.wire.codec import pack, unpack_as
from broker.wire.messages import RobotState

if TYPE_CHECKING:
    import torch

    from hierarchy.device import Compute


@dataclass(frozen=True, kw_only=True)
class SessionStart:
    """What the event that starts a session says: the robot's state, and how this machine computes its network.

    The way to compute was measured, so a replay must be told it: other kernels round differently.
    began_alike: whether the network begins with the pretrained weights that the robot told of; None where it told of
    none. still: whether the network stands still but for its head, as the robot's half does.
    """

    state: RobotState
    dtype: str = "float32"
    channels_last: bool = False
    small_maps: bool = False
    began_alike: bool | None = None
    still: bool = False

    def pack(self) -> bytes:
        """Return the event's payload."""
        state = json.loads(pack(self.state))
        return json.dumps({**vars(self), "state": state}).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> SessionStart:
        """Return what a payload says."""
        fields = json.loads(payload)
        state = unpack_as(RobotState, json.dumps(fields["state"]).encode())
        return cls(**{**fields, "state": state})

    def compute(self, device: torch.device) -> Compute:
        """Return the way to compute on a device."""
        from hierarchy.device import Compute  # who only enters starts needs no torch

        return Compute.from_settings(device, vars(self))
