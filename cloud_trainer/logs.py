"""What a log is called: by the robot whose it is, or by the fleet whose robots share a half of the network. Pure."""

from __future__ import annotations

from broker.wire.messages import RobotState

# Between a fleet and its front. No robot's name has it.
AT = "@"


def log_of(robot: str, state: RobotState) -> str:
    """Return the name of the log that a robot in that state belongs to.

    Robots share one where they say the same fleet and front, and what crosses of theirs never changes its meaning.
    """
    shares = state.fleet and state.front and state.still
    return f"{state.fleet}{AT}{state.front}" if shares else robot


def is_shared(log: str) -> bool:
    """Whether a log is a fleet's."""
    return AT in log


def fleet_of(log: str) -> str:
    """Return the fleet whose log it is, empty for none."""
    fleet, at, _ = log.partition(AT)
    return fleet if at else ""


def title(log: str) -> str:
    """Return what people call the log, and its network."""
    fleet, at, front = log.partition(AT)
    return f"fleet {fleet} (front {front})" if at else f"robot {log}"
