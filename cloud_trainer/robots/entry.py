"""How a robot's state enters a log: whether it goes on with a network, and what came of preparing another. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.wire.codec import unpack_as
from broker.wire.messages import RobotState
from cloud_trainer.logs import log_of
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.log import Event

if TYPE_CHECKING:
    from cloud_trainer.cost import Cost  # which imports torch

# Robots that are named where there may be many.
LISTED = 3


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What came of a state: how its session starts and what that costs, why there can be none, or what it waits for.

    Without a start it goes on with a network that rests, at that cost.
    """

    robot: str
    state: RobotState
    start: SessionStart | None = None
    cost: Cost | None = None
    refused: str = ""
    waits: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A robot whose samples are to be taken out of a log that it shares, and why."""

    log: str
    robot: str
    why: str


def goes_on(state: RobotState, entered: RobotState) -> bool:
    """Whether a robot in that state has the front of the network that was entered last for its name.

    Networks of fleets are no such: their logs are told apart by their fronts.
    """
    same_run = entered.run in {state.run, state.former}
    return state.weights == "checkpoint" and same_run and state.split == entered.split


def why_apart(robot: str, state: RobotState, others: Mapping[str, RobotState]) -> str:
    """Return why a robot of a fleet shares its network with none of that, or not with all; empty where it does.

    others: states of robots that are there.
    """
    if not state.fleet or state.share != "yes":
        return ""
    if not (state.still and state.front):
        why = "what it sends changes its meaning while its front learns" if not state.still else "it says no front"
        return (
            f"it shares nothing with fleet {state.fleet}, and has a half of its own: {why}. A front that stands still "
            "is shared (--freeze all, or pretrained weights)"
        )
    shares = log_of(robot, state)
    apart = sorted(
        name
        for name, one in others.items()
        if one.fleet == state.fleet and one.share == "yes" and one.front and log_of(name, one) != shares
    )
    if not apart:
        return ""
    listed = ", ".join(apart[:LISTED]) + (", ..." if len(apart) > LISTED else "")
    return (
        f"of fleet {state.fleet} it shares nothing with {listed}: their front is another one (other weights, cut, "
        "bottleneck, bits or picture size)"
    )


def entered_state(event: Event) -> RobotState:
    """Return the robot's state that a start, a rejoin or a join holds."""
    if event.kind == "start":
        return SessionStart.unpack(event.payload).state
    return unpack_as(RobotState, event.payload)
