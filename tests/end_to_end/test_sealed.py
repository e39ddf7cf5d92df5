"""Sealed payloads at a broker whose operator is curious, and then hostile: he reads nothing and changes nothing."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.link.connect import connect
from broker.link.sealed import SealedLink
from broker.security.payload_keys import PayloadKeys, TrainerKeys, key_file, new_master
from broker.wire.bounds import SEALED
from broker.wire.topics import Channel, topic

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program, Recorder

FLEET = TrainerKeys.of(new_master())
# What JSON, msgpack and class names of this run would show. "red" alone would be in noise now and then.
TELLING = re.compile(rb"kind|boot|classes|sequence|accuracy|resnet|outcome|yellow|green|activations")
WINDOW = 16


@pytest.fixture(name="keys", scope="module")
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    strangers = TrainerKeys.of(new_master())
    files: dict[str, PayloadKeys] = {"trainer": FLEET, "stranger": strangers, "seen": FLEET.of_robot("seen")}
    for name, keys in files.items():
        (folder / name).write_text(key_file(keys))
        (folder / name).chmod(0o600)
    return folder


def stored(trainer: Program) -> list[bytes]:
    """Return what the trainer's log holds of its robots: the messages as they were before they were sealed."""
    with closing(sqlite3.connect(trainer.run_dir / "store.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    return [value for row in rows for value in row if isinstance(value, bytes) and len(value) > 500]


class Operator:
    """Whoever runs the broker: hears everything, and sends again what came, as it was and changed in every way."""

    def __init__(self, heard: Recorder) -> None:
        self._heard = heard

    def attack(self) -> None:
        """Send the last message of each topic in many forms, and to other topics."""
        for place, payload in dict(self._traffic).items():
            *_, name, channel = place.split("/")
            flipped = payload[:-40] + bytes([payload[-40] ^ 1]) + payload[-39:]
            for forged in (payload, flipped, payload[:-1], payload[:30], b"", b"\xc1\x01" + bytes(60), b'{"kind": 1}'):
                self._heard.publish(place, forged)
            others: tuple[Channel, ...] = ("receipt", "command", "activations", "state")
            for elsewhere in others:
                if elsewhere != channel:
                    self._heard.publish(topic("robot", name, elsewhere), payload)
            self._heard.publish(topic("robot", "other", "activations"), payload)

    def replay(self, most: int = 40) -> None:
        """Send once more how it began. A trainer's own state of former days would only have it wait for 12.5 s."""
        for place, payload in self._traffic[:most]:
            if not place.startswith(topic("trainer", "watched", "state")):
                self._heard.publish(place, payload)

    @property
    def _traffic(self) -> list[tuple[str, bytes]]:
        return [one for one in list(self._heard.traffic) if "/seen/" in one[0] or "/watched/" in one[0]]


@pytest.fixture(name="heard")
def _heard(record: type[Recorder], mosquitto_url: str) -> Iterator[Recorder]:
    recorder = record(mosquitto_url)
    yield recorder
    recorder.close()


def test_the_operator_reads_nothing_and_changes_nothing(
    launcher: Launcher, mosquitto_url: str, pictures: Path, keys: Path, heard: Recorder
) -> None:
    """A whole run at a hostile broker, whose trainer is killed in the middle."""
    genuine: list[tuple[str, bytes]] = []
    login = ("--trainer", "watched", "--practice", "0", "--payload-key", str(keys / "trainer"))
    trainer = launcher.trainer(mosquitto_url, *login)
    source = ("seen", f"folder:{pictures}/few", "--epochs", "2", "--rate", "24", "--payload-key", str(keys / "seen"))
    robot = launcher.robot(mosquitto_url, *source)
    robot.until(lambda: trainer.images("seen") >= 64, "the cloud learns")
    genuine += heard.traffic
    operator = Operator(heard)
    operator.attack()
    before = trainer.images("seen")
    robot.until(lambda: trainer.images("seen") > before, "the cloud goes on learning")

    trainer.until_it_says("messages dropped unread")
    trainer.kill()
    again = launcher.trainer(mosquitto_url, *login, "--run-dir", str(trainer.run_dir))
    operator.replay()
    assert robot.wait() == 0, robot.printed
    again.until_it_says("robot seen has gone")
    operator.replay()
    summary = robot.summary
    assert summary["messages_sent"] == summary["messages_trained"] > 0
    assert (summary["messages_rejected"], summary["dropped"]) == (0, 0)
    assert again.interrupt() == 0, again.printed

    said = trainer.printed + again.printed
    assert "robot seen has payloads come again that came before" in said
    assert "robot seen sends payloads that do not open with this end's --payload-key" in said
    assert "robot seen sends payloads that are not sealed" in said
    assert "rejected" not in said, "none of it was unpacked"

    genuine = [(place, payload) for place, payload in genuine if "/seen/" in place or "/watched/" in place]
    assert {place.rpartition("/")[2] for place, _ in genuine} >= {"state", "activations", "receipt", "metrics"}
    assert all(payload[:1] == SEALED for _, payload in genuine)
    assert not [place for place, payload in genuine if TELLING.search(payload)]
    windows = {
        payload[at : at + WINDOW] for payload in stored(trainer) for at in range(0, len(payload) - WINDOW + 1, WINDOW)
    }
    assert windows, "the trainer's log has what was sealed"
    for _, payload in genuine:
        assert not any(payload[at : at + WINDOW] in windows for at in range(len(payload) - WINDOW + 1))


@pytest.mark.parametrize("sealed", ["robot", "trainer", "both, by other keys"])
def test_where_only_one_end_has_the_key_both_say_so(
    launcher: Launcher, mosquitto_url: str, pictures: Path, keys: Path, sealed: str
) -> None:
    name = sealed.partition(",")[0]
    trainer_key = {"robot": [], "trainer": ["trainer"], "both": ["stranger"]}[name]
    trainer_flags = [flag for key in trainer_key for flag in ("--payload-key", str(keys / key))]
    robot_flags = [] if name == "trainer" else ["--payload-key", str(keys / "seen")]
    trainer = launcher.trainer(mosquitto_url, "--trainer", f"alone-{name}", *trainer_flags)
    robot = launcher.robot(mosquitto_url, "seen", f"folder:{pictures}/few", *robot_flags)
    not_sealed = "sends payloads that are not sealed, so they are ignored: start it with its own --payload-key"
    no_key = "the payload is sealed, and this end has no key: give it its own with --payload-key"
    another = "sends payloads that do not open with this end's --payload-key"
    state = topic("trainer", f"alone-{name}", "state")
    robot_says, trainer_says = {
        "robot": (f"trainer alone-{name} {not_sealed}", f"robot seen: message rejected: {no_key}"),
        "trainer": (f"ignoring a message on {state}: {no_key}", f"robot seen {not_sealed}"),
        "both": (f"trainer alone-{name} {another}", f"robot seen {another}"),
    }[name]
    robot.until_it_says(robot_says)
    trainer.until_it_says(trainer_says)
    robot.kill()
    trainer.interrupt()


def test_commands_reach_a_robot_and_old_ones_do_not(mosquitto_url: str, heard: Recorder) -> None:
    """Without a trainer, so that the robot has never said anything: teaching needs none."""
    keys, command, result = (
        FLEET.of_robot("obeys"),
        topic("robot", "obeys", "command"),
        topic("robot", "obeys", "result"),
    )

    def link(name: str, *filters: str) -> SealedLink:
        made = connect(mosquitto_url, name, keys=keys)
        assert isinstance(made, SealedLink)
        for one in filters:
            made.subscribe(one)
        while not made.connected:
            made.receive(0.05)
        return made

    def obeyed(robot: SealedLink, tool: SealedLink | None, order: bytes) -> list[bytes]:
        came: list[bytes] = []
        waiting = tool is not None
        while waiting or (one := robot.receive(1.0)):
            if waiting and tool is not None:
                waiting = not tool.publish(command, order, qos=1)
                tool.receive(0.05)
                one = robot.receive(0.05)
            came += [one.payload] if one else []
        return came

    with closing(link("obeys", command)) as robot, closing(link("tool", result)) as tool:
        assert obeyed(robot, tool, b"forget mug") == [b"forget mug"]
        assert obeyed(robot, tool, b"forget cup") == [b"forget cup"]
    old = [payload for place, payload in heard.traffic if place == command]
    with closing(link("again", command)) as robot:
        for payload in old:
            heard.publish(command, payload)
        assert obeyed(robot, None, b"") == []
        assert robot.refused["stale"] == len(old) >= 2
