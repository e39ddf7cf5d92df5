"""Which networks an actor loads because robots ask for answers, though nothing comes to be trained on."""

from __future__ import annotations

from collections.abc import Mapping

from cloud_trainer.answering.answers import MAX_COPIES, Asks
from cloud_trainer.cluster.board import Board
from cloud_trainer.robots.robot import Robot

# How often the board is asked whose the robots are that ask. Who asks at all is bounded where asks are taken in.
LOOK_SECONDS = 1.0


class AskedLogs:
    """Of one actor. Every ask comes to each actor; one of them has the robot's log."""

    def __init__(self, asks: Asks, board: Board, actor: str) -> None:
        self._asks = asks
        self._board = board
        self._actor = actor
        self._next_look = 0.0

    def loaded(self, robots: Mapping[str, Robot], now: float) -> set[str]:
        """Return the logs of those robots that asked not long ago. now: monotonic seconds."""
        return {robots[name].training.log for name in self._asks.robots(now) if name in robots}

    def to_load(self, robots: Mapping[str, Robot], now: float) -> list[str]:
        """Return logs to load for others that ask, where it is time to look. Raises StorageError.

        robots: whose networks are in memory. More networks than asks are answered from at a time are not loaded: they
        would only take the room of those that learn.
        """
        strange = [name for name in self._asks.robots(now) if name not in robots]
        room = MAX_COPIES - len(self.loaded(robots, now))
        if now < self._next_look or not strange or room <= 0:
            return []
        self._next_look = now + LOOK_SECONDS
        return self._board.logs_of(strange, self._actor)[:room]
