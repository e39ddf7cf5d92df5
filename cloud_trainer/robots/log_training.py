"""The training of one log, as whoever takes messages in sees it. No torch.

It is done on another thread of the same process (`network_training.py`), or in another process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from broker.wire.messages import ClassEdit
from cloud_trainer.robots.standing import Standing


class LogTraining(Protocol):
    """The members are described at `NetworkTraining`."""

    log: str
    start: bytes
    standings: Mapping[str, Standing]
    stored: Counter[str]
    trained: Counter[str]
    stuck: str
    too_costly: bool
    rests: bool

    @property
    def has_begun(self) -> bool:
        """Whether the log has any event."""

    @property
    def steps(self) -> int:
        """How many steps the network has taken."""

    @property
    def saved_at(self) -> int:
        """The event behind which the last checkpoint goes on."""

    def knows_edit(self, robot: str, edit: ClassEdit) -> bool:
        """Whether an edit need not be stored."""

    def note_grown(self, event: int) -> None:
        """Note that the log has an event, which is committed."""

    def save_soon(self) -> None:
        """Have a checkpoint written once the session has caught up with the log."""

    def begin_behind(self, event: int) -> None:
        """Go on behind an event, where another network begins. To be called while a network is too costly."""
