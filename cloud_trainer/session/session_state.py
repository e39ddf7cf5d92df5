"""What of a robot's session outlasts the process: a checkpoint in the cloud, and how older versions of it are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, RobotState
from cloud_trainer.session.class_edits import EditsState, Wipes
from cloud_trainer.session.evaluation_rounds import RoundsState
from cloud_trainer.session.sample_memory import MemoryState
from cloud_trainer.session.waiting_samples import WaitingState
from hierarchy.evaluation import Prequential
from hierarchy.learner import LearnerState
from hierarchy.runtime.checkpoint import TENSORS
from hierarchy.runtime.state import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionState:
    """All that a session needs to go on behind the event ``cursor`` of its log.

    start: the event that it began with; empty in the network of a run that its robot has left. progress: of the newest
    batch. loss: of the last step. began_at, unrehearsed, idle_steps: as in `RobotSession`.
    """

    learner: LearnerState
    cursor: int
    state: RobotState
    edits: EditsState
    memory: MemoryState
    waiting: WaitingState
    wipes: Wipes
    prequential: Prequential
    rounds: RoundsState
    messages_trained: int
    progress: float | None
    loss: float | None
    began_at: int | None
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


LAYOUT = Layout(kind=SessionState, migrations=(_from_version_0,))
