"""A process that takes robots' messages in, checks, stores and receipts them. It trains on nothing: no torch."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from zlib import crc32

from broker.errors import MalformedMessage, StorageError
from broker.link.connect import connect
from broker.security.credentials import payload_keys_for
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.cluster.board import Board
from cloud_trainer.cluster.config import ClusterConfig
from cloud_trainer.cluster.ingest_side import ClusterSide
from cloud_trainer.messages.incoming import Incoming
from cloud_trainer.messages.other_trainers import OtherTrainers
from cloud_trainer.messages.outgoing import Outgoing
from cloud_trainer.store.opening import open_again

TURN_SECONDS = 0.05
# What came so long behind a message is stored with it. Of a database's time for one message most is the commit.
GATHER_SECONDS = 0.02
METRICS_SECONDS = 0.5
REPORT_SECONDS = 5.0
BEAT_SECONDS = 2.0

log = logging.getLogger("cloud-trainer")


def ingest_of(robot: str, count: int) -> int:
    """Return the number of the ingest that takes a robot's messages in."""
    return crc32(robot.encode()) % count


def wants(topic: str, number: int, count: int) -> bool:
    """Whether an ingest takes what came in on a topic. What is of no robot is the first one's."""
    try:
        role, name, _ = topics.parse(topic)
    except MalformedMessage:
        return number == 0
    return ingest_of(name, count) == number if role == "robot" else number == 0


class Ingest:
    """One of the processes. ``run`` is its loop."""

    def __init__(self, config: ClusterConfig, number: int, run_dir: Path) -> None:
        """Connect to broker and store. Raises ConfigError and StorageError."""
        self._config = config
        self._number = number
        self._name = f"{config.trainer}-ingest-{number}"
        self._boot = secrets.token_hex(8)
        credentials = credentials_for(config.broker, config.credentials)
        keys = payload_keys_for(config.payload_key, credentials)
        state = TrainerState(boot=self._boot, started=time.time(), online=True, trouble="", metrics_by_robot=True)
        farewell = topics.topic("trainer", config.trainer, "state"), pack(dataclasses.replace(state, online=False))
        self._farewell = farewell if number == 0 else None
        with ExitStack() as opened:
            self._store = opened.enter_context(closing(open_again(config.store)))
            self._board = opened.enter_context(closing(Board(config.store)))
            self._board.join(self._name, "ingest", self._boot, here())
            self._link = connect(
                config.broker,
                config.trainer,
                will=self._farewell,
                credentials=credentials,
                keys=keys,
                wanted=lambda topic: wants(topic, number, config.ingest),
            )
            opened.callback(lambda: self._link.close(self._farewell))
            self.side = ClusterSide(config, self._board, self._store, number)
            others = OtherTrainers(config.trainer, state)
            self._outgoing = Outgoing(state, config.trainer, self._link, others, self.side.fleet.robots)
            self._incoming = Incoming(config, self._link, run_dir, self._store, self.side, others, self._outgoing)
            self._opened = opened.pop_all()
        self._next_metrics = self._next_report = self._next_beat = 0.0

    def run(self, ending: threading.Event) -> None:
        """Take messages in until it is told to end. Raises what ends it: its successor begins anew."""
        with self._opened:
            while not ending.is_set():
                self._once(ending)

    def _once(self, ending: threading.Event) -> None:
        try:
            self._turn()
        except StorageError as error:  # the database is away: robots keep what they have
            self._outgoing.pause(str(error))
            if self._number == 0:
                self._outgoing.beat(time.monotonic())
            ending.wait(METRICS_SECONDS)

    def _turn(self) -> None:
        self._incoming.take_in(TURN_SECONDS, gather=GATHER_SECONDS)
        now = time.monotonic()
        self.side.turn(now)
        self._incoming.hear_training()
        self._incoming.have_next_prepared()
        self._outgoing.say_what_is_missing()
        if self._number == 0:
            self._outgoing.beat(now)
        if now >= self._next_metrics:
            self._next_metrics = now + METRICS_SECONDS
            self._outgoing.publish_metrics(now)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._board.beat(self._name, self._boot, json.dumps(self._figures))
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._outgoing.report()
            self._incoming.look_again()
            self._mind_the_store(now)

    @property
    def _figures(self) -> dict[str, int]:
        return {
            "robots_known": len(self.side.fleet.robots),
            "messages": self._incoming.stored,
            "paused": int(bool(self._outgoing.problem)),
        }

    def _mind_the_store(self, now: float) -> None:
        if self._store.bytes_used > self._config.store_gb * 1e9:
            self._outgoing.pause(f"the store is full (--store-gb {self._config.store_gb:g})")
        else:
            self._outgoing.resume_if_due(now)


def here() -> str:
    """Return where this process is, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"
