"""With a key no class name crosses a real broker: not in learning, teaching, editing, asking, predicting or testing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from broker.errors import ConfigError
from broker.security.names_key import load_names_key, make_names_key
from broker.wire.codec import unpack
from broker.wire.messages import ActivationBatch, Answer, ClassEdit, Command, CommandResult, Prediction
from hierarchy.device import Compute
from robot_edge.sources.folder import read_picture
from robot_edge.teaching.remote import give_command
from tests.end_to_end.test_evaluate import PATIENT
from tests.warm_start import run_warm

if TYPE_CHECKING:
    from robot_edge.sources.frames import Pixels
    from tests.end_to_end.conftest import Launcher, Program, Recorder

SIDE = 16
COLOURS = {"red", "green", "blue", "yellow"}
# Long enough not to stand by chance in megabytes of weights and activations.
SECRETS = ["green", "yellow", "white thing", "белое", "snow white"]


class Spy:
    """What crossed the broker, and what of it is a name."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def kinds(self) -> set[type]:
        return {type(unpack(payload)) for _, payload in list(self._recorder.traffic) if payload}

    def found(self, names: list[str]) -> list[tuple[str, str]]:
        forms = [(name, form) for name in names for form in (name.encode(), json.dumps(name).strip('"').encode())]
        traffic = list(self._recorder.traffic)
        return [(name, topic) for topic, payload in traffic for name, form in forms if form in topic.encode() + payload]


@pytest.fixture(name="key")
def _key(tmp_path: Path) -> Path:
    make_names_key(path := tmp_path / "names.key")
    return path


@pytest.fixture(name="spy")
def _spy(mosquitto_url: str, record: type[Recorder]) -> Iterator[Spy]:
    recorder = record(mosquitto_url)
    yield Spy(recorder)
    recorder.close()


def white(count: int, seed: int = 1) -> Iterator[Pixels]:
    noise = np.random.default_rng(seed).normal(0, 30, (count, SIDE, SIDE, 3))
    yield from np.clip(225 + noise, 0, 255).astype(np.uint8)


def settings(url: str, run: Path, **more: Any) -> dict[str, Any]:
    learning = {"image_size": SIDE, "bottleneck": 16, "batch": 16, "learning_rate": 0.02, "threshold": 1.0}
    return {**learning, "broker": url, "run_dir": str(run), "ask_deadline": 10.0, **more}


def test_a_life_with_tokens(
    launcher: Launcher,
    mosquitto_url: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spy: Spy,
    key: Path,
) -> None:
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: Compute(device=torch.device("cpu")))
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
    trainer = launcher.trainer(mosquitto_url, "--practice", "0")
    run = tmp_path / "run"
    asked: dict[str, Any] = {"robot": "secret", "broker": mosquitto_url, "credentials": "", "names_key": str(key)}
    with edge.Robot("secret", names_key=str(key), **settings(mosquitto_url, run)) as robot:
        steps = list(robot.train(edge.open_source(f"folder:{pictures}/few")))
        assert set(robot.classes) == COLOURS
        assert robot.teach("white thing", list(white(40))) > 20
        trainer.until(lambda: robot.cloud.images >= steps[-1].images, "it learned")
        disc = read_picture(str(pictures / "test" / "blue" / "0.png"))
        trainer.until(lambda: robot.predict(disc).answered_by == "cloud", "the cloud answered")
        assert robot.predict(disc).name in robot.classes
        robot.observe(next(white(1, seed=2)))
        trainer.until(lambda: Prediction in spy.kinds(), "a prediction was published")
        assert give_command("rename", **asked, name="white thing", to="белое")
        assert not give_command("teach", **{**asked, "names_key": ""}, name="mug", seconds=1.0)
        with pytest.raises(ConfigError, match="31 at most"):
            give_command("rename", **asked, name="белое", to="a" * 32)
        with pytest.raises(ConfigError, match="31 at most"):
            robot.teach("a" * 32, list(white(2)))
        with pytest.raises(ConfigError, match="31 at most"):
            list(robot.train([(next(white(1)), "ы" * 16)]))
        assert "белое" in robot.classes
    for other in ("", str(tmp_path / "other.key")):
        if other:
            make_names_key(Path(other))
        with pytest.raises(ConfigError, match="give the key that it began with"):
            edge.Robot("secret", names_key=other, **settings(mosquitto_url, run)).__enter__()
    moved = key.rename(tmp_path / "moved.key")
    asked["names_key"] = str(moved)
    with edge.Robot.load(run, names_key=str(moved)) as robot:
        assert {"белое", "yellow"} < set(robot.classes)
        robot.rename("белое", "snow white")
        assert give_command("merge", **asked, name="yellow", to="green")
        assert give_command("forget", **asked, name="blue")
        assert set(robot.classes) == {"red", "green", "snow white"}
        trainer.until(lambda: robot.cloud.is_through, "the cloud has caught up")
    test = ["--source", f"folder:{pictures}/test", "--images", "40", "--broker", mosquitto_url, *PATIENT]
    flags = ["--checkpoint", str(run), "--names-key", str(moved), *test]
    status, printed = run_warm(["robot_edge", "evaluate", *flags])
    assert status == 0, printed
    report = json.loads((run / "evaluation.json").read_text())
    assert report["answered_by_the_cloud_in_time"] == 1
    assert report["cloud_accuracy"] > 0.5, "its answers came back under real names"
    trainer.interrupt()
    told(trainer, moved)
    assert {ActivationBatch, ClassEdit, Command, CommandResult, Answer, Prediction} <= spy.kinds()
    assert spy.found(SECRETS) == []
    assert spy.found(["mug"]) == [("mug", "reflexarc/1/robot/secret/command")] * 2, "the spy finds what does cross"


def told(trainer: Program, key: Path) -> None:
    """The trainer knows classes by tokens, which the key reads."""
    names = load_names_key(key)
    classes = trainer.summary["robots"]["secret"]["classes"]
    assert {names.name_of(one) for one in classes} == {"red", "green", "snow white"}
    files = [path for path in trainer.run_dir.rglob("*") if path.is_file()]
    assert not [(path, name) for path in files for name in SECRETS if name.encode() in path.read_bytes()]
    assert not [name for name in SECRETS if name in trainer.printed]


def test_a_name_that_is_too_long_is_said_before_anything_is_learned(
    launcher: Launcher, mosquitto_url: str, pictures: Path, tmp_path: Path, key: Path
) -> None:
    for name in ("red", "a" * 32):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "0.png").write_bytes((pictures / "few" / "red" / "0.png").read_bytes())
    robot = launcher.robot(mosquitto_url, "long", f"folder:{tmp_path}/pictures", "--names-key", str(key))
    assert robot.wait() == 2
    assert f"class name '{'a' * 32}' has 32 bytes in UTF-8, and with --names-key a name has 31 at most" in robot.printed
    assert not robot.run_dir.exists()


def test_the_command_makes_a_key_and_reads_what_it_made(tmp_path: Path) -> None:
    command = ["robot_edge", "names-key", str(tmp_path / "names.key")]
    status, printed = run_warm(command)
    assert (status, "copy it to each robot" in printed) == (0, True), printed
    assert run_warm([*command, "a" * 32])[0] == 2
    status, token = run_warm([*command, "mug"])
    assert (status, run_warm([*command, token.strip()])) == (0, (0, "mug\n"))
