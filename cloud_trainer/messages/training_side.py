"""What trains, as whoever takes messages in sees it: in the same process, or in others. No torch."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from broker.wire.messages import RobotState
from cloud_trainer.robots.entry import Preparation, Verdict
from cloud_trainer.robots.robot import Robot
from cloud_trainer.session.batches import InflatedBatch
from cloud_trainer.store.log import Store


class Batches(Protocol):
    """Where batches wait that were inflated already; the members are described at `KeptBatches`."""

    def keep(self, robot: str, event: int, batch: InflatedBatch) -> None:
        """Keep a batch that is in the store as an event, if there is room."""

    def drop(self, robot: str) -> None:
        """Keep nothing of a robot."""


class Robots(Protocol):
    """The robots that are known by now; the members are described at `Fleet`."""

    robots: dict[str, Robot]

    @property
    def batches(self) -> Batches:
        """For the thread that trains."""

    def meet(self, name: str, now: float) -> Robot:
        """Return a new robot of that name."""

    def give_up(self, name: str) -> None:
        """Know a robot no more."""

    def give_up_classes(self, name: str, log: str) -> None:
        """Let classes that a robot alone taught in a log make room."""

    def enter(self, name: str, store: Store) -> int:
        """Enter a robot's new state into its log; return the event, 0 for none."""

    def tell_apart(self) -> None:
        """Find out which robots of a fleet share nothing with it."""


class TrainingSide(Protocol):
    """The members are described at `Training`."""

    reports: deque[tuple[str, str]]
    verdicts: deque[Verdict]

    @property
    def fleet(self) -> Robots:
        """All robots."""

    def prepare(self, robot: str, state: RobotState, *, urgent: bool) -> None:
        """Have a network prepared that a robot is about to begin."""

    def take_prepared(self) -> Preparation | None:
        """Return what came of the oldest state that is prepared, once; None where there is none."""

    def expect(self, logs: set[str]) -> None:
        """Note that something is about to be committed to those logs. Raises StorageError."""

    def look(self) -> None:
        """Look into the log at once: something was committed."""
