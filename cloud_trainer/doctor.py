"""`cloud-trainer doctor`: what is here of what a trainer needs, and what mends the rest."""

from __future__ import annotations

from dataclasses import dataclass

from broker.wire.topics import check_name
from hierarchy.runtime.doctor.examination import Examination


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Examination):
    """What to look at."""

    trainer: str = "trainer"
    """The trainer's name, under which the broker lets it in."""

    def __post_init__(self) -> None:
        check_name(self.trainer, "--trainer")
