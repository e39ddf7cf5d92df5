"""What of a robot's session outlasts the process: a checkpoint in the cloud, and how older versions of it are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, RobotState
from cloud_trainer.session.member import MemberState
from cloud_trainer.session.sample_memory import MemoryState
from cloud_trainer.session.waiting_samples import WaitingState
from hierarchy.learner import LearnerState
from hierarchy.runtime.checkpoint import TENSORS
from hierarchy.runtime.state import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionState:
    """All that a session needs to go on behind the event ``cursor`` of its log.

    start: the event that it began with; empty in the network of a run that its robot has left. members: in the order of
    their numbers. loss: of the last step. unrehearsed: samples that idle rehearsal, or a fit, is owed for. idle_steps:
    as in `Network`.
    """

    learner: LearnerState
    cursor: int
    memory: MemoryState
    waiting: WaitingState
    members: list[MemberState]
    loss: float | None
    unrehearsed: float
    idle_steps: int
    start: str


def _from_version_0(old: dict[str, Any]) -> dict[str, Any]:
    """Version 0 had all in one row, messages as bytes, and the present round of tests under names of their own."""
    tensors, prequential = old[TENSORS], old["prequential"]
    first, newest = old["first"], old["held_out"]
    tests = {"first": (first or newest)["confusion"]}
    if first and old["has_moved_on"]:
        settled = old["settled"]
        tests |= {"settled": settled["confusion"]} if settled else {}
        tests["later"] = newest["confusion"]
    elif first:
        tests["settled"] = newest["confusion"]
    return {
        "start": "",
        **old,
        "learner": {
            **{name: old[name] for name in ("classes", "steps", "largest_step")},
            **{name: tensors.get(name, {}) for name in ("weights", "momentum", "random")},
        },
        "state": asdict(unpack_as(RobotState, old["state"].encode())),
        "edits": {
            **old["edits"],
            **{
                name: [asdict(unpack_as(ClassEdit, bytes.fromhex(one))) for one in old["edits"][name]]
                for name in ("edits", "early")
            },
        },
        "memory": {**old["memory"], "refs": tensors["session"]["memory"]},
        "waiting": {
            "fresh": tensors["session"]["waiting"],
            "fresh_classes": old["waiting_classes"],
            "re_encoded": tensors["session"]["anew"],
            "re_encoded_classes": old["anew_classes"],
        },
        "wipes": {"up_to": old["wipes"][0], "others": old["wipes"][1]},
        "prequential": {**prequential, "window": prequential["recent"]},
        "rounds": {
            "number": old["evaluation"],
            "evaluated": old["evaluated"],
            "events": old["tests"],
            "tests": tests,
            "has_moved_on": old["has_moved_on"],
            "before": old["rounds"],
        },
    }


def _one_member(old: dict[str, Any]) -> dict[str, Any]:
    """In version 1 a session had one robot, and did not say which."""
    names = ("state", "edits", "wipes", "prequential", "rounds", "messages_trained", "progress", "began_at")
    return {**old, "members": [{"robot": "", **{name: old[name] for name in names}}]}


def _taught_all(old: dict[str, Any]) -> dict[str, Any]:
    """Version 2 did not say what each robot taught; it had one, who taught all."""
    classes = old["learner"]["classes"]
    return {**old, "members": [{**one, "taught": classes} for one in old["members"]]}


def _nothing_elsewhere(old: dict[str, Any]) -> dict[str, Any]:
    """In version 3 no robot had a class forgotten everywhere."""

    def now(one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "forgotten": [], "edits": {**one["edits"], "elsewhere": [], "highest": 0}}

    return {**old, "members": [now(one) for one in old["members"]]}


def _nobody_left(old: dict[str, Any]) -> dict[str, Any]:
    """In version 4 no robot's samples were taken out."""
    return {**old, "members": [{**one, "edits": {**one["edits"], "left": 0}} for one in old["members"]]}


MIGRATIONS = (_from_version_0, _one_member, _taught_all, _nothing_elsewhere, _nobody_left)
LAYOUT = Layout(kind=SessionState, migrations=MIGRATIONS)
