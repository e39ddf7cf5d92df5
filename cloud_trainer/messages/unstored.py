"""Messages that were checked, and are stored together: a database takes many in the time of a few."""

from __future__ import annotations

from dataclasses import dataclass

from broker.wire.messages import ActivationBatch, ClassEdit
from cloud_trainer.robots.log_training import LogTraining
from cloud_trainer.robots.robot import Robot
from cloud_trainer.session.batches import InflatedBatch
from cloud_trainer.store.log import NewMessage, Store

# Bytes that are stored at once, but for one message: a statement for a database holds them once more.
MOST_BYTES = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A message for a log. batch: as it is trained on; None for an edit. arrived: when it came, monotonic seconds."""

    robot: Robot
    training: LogTraining
    message: ActivationBatch | ClassEdit
    batch: InflatedBatch | None
    payload: bytes
    arrived: float

    @property
    def new(self) -> NewMessage:
        """What a store takes."""
        return NewMessage(
            robot=self.robot.name,
            boot=self.message.boot,
            sequence=self.message.sequence,
            payload=self.payload,
            kind="edit" if self.batch is None else "batch",
            log=self.training.log,
        )


class Unstored:
    """What waits to be stored, in the order in which it came."""

    def __init__(self) -> None:
        self._waiting: list[Checked] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is to be stored before more is taken."""
        return self._bytes > MOST_BYTES

    def add(self, one: Checked) -> None:
        """Let a message wait."""
        self._waiting.append(one)
        self._bytes += len(one.payload)

    def drop(self) -> list[Checked]:
        """Return what waits, and keep it no longer."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        return waiting

    def store(self, store: Store) -> list[tuple[Checked, int | None]]:
        """Append what waits, and return it with what `Store.append_messages` says of it. Raises StorageError."""
        waiting = self.drop()
        return list(zip(waiting, store.append_messages([one.new for one in waiting]), strict=True)) if waiting else []
