"""How an actor's training on a robot's samples stands, as text that its ingest reads. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from broker.wire.codec import pack, unpack_as
from broker.wire.messages import SplitSpec, TrainerMetrics
from cloud_trainer.robots.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Report:
    """waiting: batches up to event ``up_to`` that were not trained on. saved_at: the event of the last checkpoint.

    stuck: why the log cannot be trained on. standing: None before training began.
    """

    waiting: int
    up_to: int
    saved_at: int
    steps: int
    stuck: str
    standing: Standing | None

    def pack(self) -> str:
        """Return it as text."""
        fields = {**vars(self), "standing": None}
        if its := self.standing:
            fields["standing"] = {
                "metrics": pack(its.metrics).decode(),
                "split": asdict(its.split),
                "classes": its.classes,
                "by_class": dict(its.by_class),
                "confusion": {name: dict(row) for name, row in its.confusion.items()},
            }
        return json.dumps(fields)

    @classmethod
    def unpack(cls, text: str) -> Report:
        """Return what a text says."""
        fields = json.loads(text)
        its = fields.pop("standing")
        return cls(**fields, standing=_standing(its) if its else None)


def _standing(fields: Mapping[str, object]) -> Standing:
    split = dict(fields["split"])  # type: ignore[call-overload]
    return Standing(
        metrics=unpack_as(TrainerMetrics, str(fields["metrics"]).encode()),
        split=SplitSpec(**{**split, "shape": tuple(split["shape"])}),
        classes=tuple(fields["classes"]),  # type: ignore[arg-type]
        by_class=fields["by_class"],  # type: ignore[arg-type]
        confusion=fields["confusion"],  # type: ignore[arg-type]
    )
