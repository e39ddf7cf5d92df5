"""What a log is called: by the robot whose it is, or by the fleet whose robots share a half of the network. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.wire.messages import RobotState

# Between a fleet and its front. No robot's name has it.
AT = "@"


def log_of(robot: str, state: RobotState) -> str:
    """Return the name of the log that a robot in that state belongs to.

    Robots share one where they say the same fleet and front, what crosses of theirs never changes its meaning, and they
    want to.
    """
    shares = state.fleet and state.front and state.still and state.share == "yes"
    return f"{state.fleet}{AT}{state.front}" if shares else robot


def is_taken_out(log: str, entered: RobotState) -> bool:
    """Whether a robot's samples are taken out of a log by what was entered there of it last."""
    return is_shared(log) and entered.share == "withdraw"


def belongs_to(entered: Sequence[tuple[str, RobotState]]) -> tuple[str, RobotState] | None:
    """Return the log that a robot belongs to, and the state with which it entered it; None where it was taken out.

    entered: its states, and in which logs.
    """
    out = {log for log, state in dict(entered).items() if is_taken_out(log, state)}
    log, state = next((log, state) for log, state in reversed(entered) if not is_taken_out(log, state))
    return None if log in out else (log, state)


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
