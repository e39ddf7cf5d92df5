"""The processes of a cluster as objects of one process, in turns: ingest, actors with tiny networks, talking robots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from cloud_trainer.cluster.actor import TrainingActor
from cloud_trainer.cluster.board import Board
from cloud_trainer.cluster.config import ClusterConfig
from cloud_trainer.cluster.ingest import Ingest
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import open_again, open_store
from tests.talking_robots import Talker

# Only a failure takes this long.
DEADLINE_S = 60.0
POLL_S = 0.005


class ClusterScene:
    """A real database, a real broker. ingest, actors: by number. robots: that talk. board, store: to look at."""

    def __init__(self, store: str, broker: str, run_dir: Path, *, actors: int = 1, ingest: int = 1, **settings: Any):
        usual: dict[str, Any] = {"batch": 4, "rehearse_from": 100, "practice": 0.0, "device": "cpu"}
        self.config = ClusterConfig(**{**usual, **settings}, store=store, broker=broker, actors=actors, ingest=ingest)
        open_store(store, self.config.training(1)).close()
        self.board = Board(store)
        self.board.make()
        self.store: Store = open_again(store)
        self.run_dir = run_dir
        self.robots: list[Talker] = []
        self._at_once = threading.Event()
        self._at_once.set()
        self.actors = {number: TrainingActor(self.config, number, run_dir) for number in range(actors)}
        for actor in self.actors.values():
            actor._begin()
        self.ingest = {number: Ingest(self.config, number, run_dir) for number in range(ingest)}

    def robot(self, name: str, **settings: Any) -> Talker:
        """Let a robot come."""
        self.robots.append(Talker(self.config.broker, name, self.config.trainer, **settings))
        return self.robots[-1]

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let all of it go on until a condition holds."""
        give_up = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up, f"never came: {what}"
            for robot in self.robots:
                robot.turn()
            for ingest in self.ingest.values():
                ingest._once(self._at_once)
            for actor in self.actors.values():
                actor._once(self._at_once)
            time.sleep(POLL_S)

    def until_done(self, *robots: Talker) -> None:
        """Let all of it go on until what those robots sent is trained on, or what all did."""
        self.until(lambda: all(one.done for one in robots or self.robots), "all is trained on")

    def kill(self, number: int) -> None:
        """Let an actor be gone, as behind a partition: it writes nothing down, and is long silent."""
        actor = self.actors.pop(number)
        self._close(actor)
        self.ask("UPDATE cluster_members SET seen = now() - interval '1 hour' WHERE name = %s", actor.name)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.config.store, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def end(self) -> None:
        """End what is left."""
        for actor in self.actors.values():
            self._close(actor)
        for ingest in self.ingest.values():
            ingest._opened.close()
        for robot in self.robots:
            robot.link.close()
        for one in (self.board, self.store):
            one.close()

    @staticmethod
    def _close(actor: TrainingActor) -> None:
        actor._beating.close(DEADLINE_S)
        actor.training.answerer.close()
        actor.training.probes.close()
        actor._opened.close()
