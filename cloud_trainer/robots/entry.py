"""How a robot's state enters its log: whether it goes on with a network, and what came of preparing another. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broker.wire.codec import unpack_as
from broker.wire.messages import RobotState
from cloud_trainer.cost import Cost
from cloud_trainer.session.session_start import SessionStart
from cloud_trainer.store import Event


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What came of a state: how its session starts and what that costs, why there can be none, or what it waits for."""

    robot: str
    state: RobotState
    start: SessionStart | None = None
    cost: Cost | None = None
    refused: str = ""
    waits: str = ""


def goes_on(state: RobotState, entered: RobotState) -> bool:
    """Whether a robot in that state has the front of the network that was entered last for its name."""
    same_run = entered.run in {state.run, state.former}
    return state.weights == "checkpoint" and same_run and state.split == entered.split


def entered_state(event: Event) -> RobotState:
    """Return the robot's state that a start or a rejoin holds."""
    if event.kind == "start":
        return SessionStart.unpack(event.payload).state
    return unpack_as(RobotState, event.payload)
