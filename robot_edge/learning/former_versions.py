"""How older versions of a robot's checkpoint are read, and what a run that begins with its weights needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.wire.messages import SplitSpec
from hierarchy.edge import EdgeTrainerState
from hierarchy.runtime.checkpoint import TENSORS
from hierarchy.runtime.state import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedNetwork:
    """The network in a robot's checkpoint."""

    trainer: EdgeTrainerState
    split: SplitSpec


def _from_version_0(old: dict[str, Any]) -> dict[str, Any]:
    """Version 0 had the network's fields among all others, and its tensors by parts."""
    tensors, figures = old[TENSORS], old["figures"]
    prequential = figures["prequential"]
    learner = {
        **{name: old[name] for name in ("classes", "steps", "largest_step")},
        **{name: tensors.get(name, {}) for name in ("weights", "momentum", "random")},
    }
    return {
        "teaching": None,
        "practice": None,
        **old,
        "trainer": {"learner": learner, "augmentation": old["augmentation"]},
        **{name: {**old[name], "tensors": tensors.get(name, {})} for name in ("rehearsal", "held_out")},
        "batcher": {"images": None, **old["batcher"], **tensors["batcher"]},
        "figures": {**figures, "prequential": {**prequential, "window": prequential["recent"]}},
    }


def _from_version_1(old: dict[str, Any]) -> dict[str, Any]:
    """Version 1 held nothing back."""
    return {"held": None, **old}


def _from_version_2(old: dict[str, Any]) -> dict[str, Any]:
    """Version 2 attacked what it held, and held nothing any more once it had sent it."""
    held = old["held"]
    return {**old, "held": held and {"since": 0, "shown": None, **held}}


MIGRATIONS = (_from_version_0, _from_version_1, _from_version_2)
NETWORK = Layout(kind=SavedNetwork, migrations=MIGRATIONS)
