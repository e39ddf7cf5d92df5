"""What of a robot's log is needed no more: oldest batches of a full store, samples of forgotten classes."""

from __future__ import annotations

from functools import partial

from broker.errors import StorageError
from cloud_trainer.session.class_edits import Wipes
from cloud_trainer.session.member import Member
from cloud_trainer.session.session import Session, Work
from cloud_trainer.store.log import Store
from hierarchy.runtime.disk import DiskWatch

FORGETTING = "that samples of the store are forgotten"


class StoreCleanup:
    """Deletes of a robot's events in a log, behind each checkpoint, what that one does not refer to any more.

    begun: a decision to give up batches is in the log, and they are not deleted yet. up_to: the last of them, once
    training has come to that decision; 0 before.
    """

    def __init__(self, log: str, robot: str, store: Store, disk: DiskWatch) -> None:
        self.begun = False
        self.up_to = 0
        self._log = log
        self._robot = robot
        self._store = store
        self._disk = disk
        self._may_delete = False  # a checkpoint was written since

    def waits(self, member: Member) -> bool:
        """Whether there is anything to delete behind the next checkpoint."""
        return bool(self.up_to or member.wipes)

    @property
    def is_due(self) -> bool:
        """Whether there is anything to delete now."""
        return self._may_delete

    def allow(self, member: Member) -> None:
        """Note that a checkpoint was written."""
        self._may_delete = self.waits(member)

    def drop(self) -> None:
        """Delete nothing before the next checkpoint."""
        self._may_delete = False

    def work(self, member: Member) -> Work:
        """Delete what was given up, and overwrite what was forgotten: gigabytes, maybe, so in pieces."""
        self.drop()
        try:
            while self.up_to and self._store.forget_some(self._log, self._robot, self.up_to):
                yield
            self.up_to, self.begun = 0, False
            wipes = member.wipes
            cursor: int | None = 0 if wipes else None
            while cursor is not None:
                cursor = self._store.wipe_some(
                    self._log, self._robot, cursor, wipes.up_to, wipes.others, member.without_forgotten
                )
                yield
            member.wipes = Wipes()
            self._disk.written(FORGETTING)
        except StorageError as error:
            self._disk.failed(FORGETTING, error)


class StoreCleanups:
    """The same of all robots whose events a log has."""

    def __init__(self, log: str, store: Store, disk: DiskWatch) -> None:
        self._of = partial(StoreCleanup, log, store=store, disk=disk)
        self._by_robot: dict[str, StoreCleanup] = {}

    def of(self, robot: str) -> StoreCleanup:
        """Return that of one robot."""
        if robot not in self._by_robot:
            self._by_robot[robot] = self._of(robot)
        return self._by_robot[robot]

    def wait(self, session: Session) -> bool:
        """Whether there is anything to delete behind the next checkpoint."""
        return any(self.of(robot).waits(member) for robot, member in session.members.items())

    @property
    def are_due(self) -> bool:
        """Whether there is anything to delete now."""
        return any(one.is_due for one in self._by_robot.values())

    def allow(self, session: Session) -> None:
        """Note that a checkpoint was written."""
        for robot, member in session.members.items():
            self.of(robot).allow(member)

    def work(self, session: Session | None) -> Work:
        """Delete all that is due."""
        for robot, one in list(self._by_robot.items()):
            member = session.members.get(robot) if session else None
            if one.is_due and member:
                yield from one.work(member)
            one.drop()
