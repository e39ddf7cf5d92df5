"""Files that the commit before versions of saved state has written are taken up."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hierarchy.runtime.run_folder
import robot_edge.run.start
from broker.errors import ConfigError, exit_status
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.program.version import program_version
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, Receipt, TrainerMetrics, TrainerState
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint, tensors_of
from hierarchy.runtime.run_folder import former_settings
from hierarchy.runtime.settings import flat_fields
from robot_edge.learning.frame_memory import frames_in
from robot_edge.run import start
from robot_edge.run.checkpoint import LAYOUT, RobotCheckpoint
from robot_edge.run.config import RobotConfig
from robot_edge.run.identity import RUN, UNKNOWN, RunIdentity, run_identity
from robot_edge.run.source_files import FILE, SourceFiles, read_files
from robot_edge.uplink.outbox import Outbox
from tests.saved_state import golden_state

NEWER = r"was written by reflexarc 9\.0\. This is reflexarc .*: update it, or choose another folder"
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="")


def test_a_run_keeps_its_identity(tmp_path: Path) -> None:
    folder = golden_state("robot", tmp_path)
    before = json.loads((folder / RUN).read_text())
    assert run_identity(folder, "none") == RunIdentity(**before, names_key="", began=UNKNOWN)


def test_a_source_keeps_its_files_and_their_numbers(tmp_path: Path) -> None:
    files = read_files(golden_state("source", tmp_path))
    assert files == SourceFiles(
        marks={"ball/0.png": "69", "ball/1.png": "77", "star/0.png": "69", "star/1.png": "77"},
        numbers={"ball/0.png": 0, "ball/1.png": 1, "star/0.png": 2, "star/1.png": 3},
    )


@pytest.mark.parametrize("kind", ["robot", "live"])
def test_nothing_is_lost_from_an_outbox(tmp_path: Path, kind: str) -> None:
    path = golden_state(kind, tmp_path) / "outbox.db"
    queries = (
        "SELECT boot, sequence, payload FROM messages WHERE evaluation = 0 ORDER BY id",
        "SELECT * FROM classes ORDER BY name",
        "SELECT number, message, payload FROM edits ORDER BY number",
        "SELECT message, class, count FROM samples ORDER BY message, class",
    )
    file = sqlite3.connect(path)
    before = [file.execute(query).fetchall() for query in queries]
    file.close()
    assert before[0]
    outbox = Outbox(path, boot="f" * 16, limit=10**8)
    assert [outbox._database.execute(query).fetchall() for query in queries] == before
    assert outbox._database.execute("SELECT program FROM written_by").fetchall() == [(program_version(),)]
    sent = outbox.take(0.0, lambda size, *, backlog: True, ())
    assert [one.payload for one in sent] == [payload for _, _, payload in before[0]]
    outbox.close()


class Trainer(MemoryLink):
    """A trainer that takes in everything."""

    def __init__(self, robot: str) -> None:
        super().__init__(MemoryBroker())
        self.robot = robot
        self.taken: list[ActivationBatch] = []
        self._is_known = False

    def receive(self, timeout: float) -> Delivery | None:
        if not self._is_known:
            self._is_known = True
            self.offer(Delivery(topics.topic("trainer", "t1", "state"), pack(TRAINER), retained=True))
        return super().receive(0)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if topics.parse(topic).channel == "activations":
            batch = unpack_as(ActivationBatch, payload)
            self.taken.append(batch)
            receipt = Receipt(boot=batch.boot, sequence=batch.sequence, outcome="accepted", reason="", held=0.0)
            self.offer(Delivery(topics.topic("robot", self.robot, "receipt"), pack(receipt), retained=False))
            self.offer(Delivery(topics.topic("trainer", "t1", "metrics"), pack(self._figures(batch)), retained=False))
        return super().publish(topic, payload, qos=qos, retain=retain)

    def _figures(self, batch: ActivationBatch) -> TrainerMetrics:
        tested = [one for one in self.taken if one.evaluation == batch.evaluation and batch.evaluation]
        return TrainerMetrics(
            robot=self.robot,
            boot=batch.boot,
            images=0,
            classes=3,
            cloud_loss=0.5,
            cloud_prequential=0.6,
            cloud_recent=0.7,
            cloud_accuracy=0.8,
            evaluation=batch.evaluation,
            evaluated=sum(len(one.names) for one in tested),
            messages_trained=len(self.taken),
            messages_waiting=0,
            quarantine="",
            messages_rejected=0,
        )


def figures(state: RobotCheckpoint) -> dict[str, Any]:
    """Return all that follows neither from how a processor rounds nor from the time."""
    packed = LAYOUT.pack(state, lambda _: "")
    return {name: value for name, value in packed.items() if name not in {"figures", "written_by", "compute"}}


def test_a_robot_goes_on_as_the_one_before_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Trainer("r1")
    monkeypatch.setattr(robot_edge.run.start, "connect", lambda *_arguments, **_settings: link)
    monkeypatch.setattr(hierarchy.runtime.run_folder.RunFolder, "_write", lambda *_arguments: None)
    folder = golden_state("robot", tmp_path)
    file = sqlite3.connect(folder / "outbox.db")
    waiting = file.execute("SELECT boot, sequence FROM messages WHERE evaluation = 0 ORDER BY id").fetchall()
    file.close()
    settings = {
        name: value for name, value in (former_settings(folder) or {}).items() if name in flat_fields(RobotConfig)
    }
    start.run(RobotConfig.from_flags(**{**settings, "run_dir": str(folder)}))
    assert [(one.boot, one.sequence) for one in link.taken[: len(waiting)]] == waiting
    now = load_checkpoint(folder / "checkpoint", LAYOUT)
    then = load_checkpoint(golden_state("robot-after", tmp_path) / "checkpoint", LAYOUT)
    assert figures(now) == figures(then)
    assert (now.figures.prequential.count, now.figures.evaluation) == (then.figures.prequential.count, 2)
    theirs = tensors_of(then)
    for name, tensor in tensors_of(now).items():
        if not name.startswith(("rehearsal", "held_out")):  # JPEGs are as Pillow's version makes them
            # Processors round otherwise, and steps add that up: by 0.0024 from AVX-512 to AVX2.
            assert torch.allclose(tensor.double(), theirs[name].double(), rtol=1e-3, atol=5e-3), name


def test_a_live_robot_keeps_lessons_and_frames(tmp_path: Path) -> None:
    saved = load_checkpoint(golden_state("live", tmp_path) / "checkpoint", LAYOUT)
    assert saved.teaching is not None
    assert [(one.number, one.name) for one in saved.teaching.lessons] == [(1, "ball"), (2, "sun")]
    assert (saved.trainer.learner.classes, saved.edits) == (["ball", "sun"], 1)
    assert Counter(one.name for one in frames_in(saved.rehearsal)) == {"ball": 16, "sun": 18}
    save_checkpoint(tmp_path / "again", LAYOUT, saved)
    assert figures(load_checkpoint(tmp_path / "again", LAYOUT)) == figures(saved)


def settings_of(folder: Path) -> RobotConfig:
    """Return the settings of the run in a folder, for it to go on."""
    former, known = former_settings(folder) or {}, flat_fields(RobotConfig)
    settings = {name: value for name, value in former.items() if name in known}
    return RobotConfig.from_flags(**{**settings, "run_dir": str(folder)})


def newer_json(path: Path) -> None:
    path.write_text(json.dumps({"schema": 9, "written_by": "reflexarc 9.0", "new": 1}))


def newer_checkpoint(path: Path) -> None:
    about = json.dumps({"schema": 9, "written_by": "reflexarc 9.0"})
    save_file({"a": torch.zeros(1)}, path / CHECKPOINT, metadata={"about": about})


def newer_outbox(path: Path) -> None:
    file = sqlite3.connect(path)
    file.executescript("PRAGMA user_version = 99; CREATE TABLE written_by (program);")
    file.execute("INSERT INTO written_by VALUES ('reflexarc 9.0')")
    file.commit()
    file.close()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        (RUN, newer_json, NEWER),
        ("outbox.db", newer_outbox, NEWER),
        ("checkpoint", newer_checkpoint, NEWER),
        (RUN, truncated, r"run\.json is damaged .*put a copy of it back"),
        ("outbox.db", truncated, "outbox.db cannot be used; move it away"),
        (f"checkpoint/{CHECKPOINT}", truncated, "is damaged, or none of ours .*put a copy of it back"),
    ],
)
def test_a_newer_or_damaged_file_ends_the_start_with_what_to_do(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], says: str
) -> None:
    folder = golden_state("robot", tmp_path)
    spoil(folder / name)
    with pytest.raises(ConfigError, match=says) as error:
        start.run(settings_of(folder))
    assert exit_status(error.value) == 2


@pytest.mark.parametrize("spoil", [newer_json, truncated])
def test_files_of_a_newer_source_are_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = golden_state("source", tmp_path)
    spoil(folder / FILE)
    with pytest.raises(ConfigError, match=NEWER if spoil is newer_json else "cannot be read .*put a copy of it back"):
        read_files(folder)
