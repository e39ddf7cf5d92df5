"""Bad input: a clear error with the next step, and nothing else lost."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, Receipt, RobotMetrics, RobotState
from hierarchy.runtime.checkpoint import CHECKPOINT
from robot_edge.commands import main as robot_main

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program, Recorder

# A sequence number that no robot here reaches: what is forged with it takes no honest message's place.
FORGED = 1000
HONEST = "reflexarc/1/robot/honest"


@pytest.fixture(name="folders")
def _folders(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that cannot be read, below the folder that the test runs in."""
    for name in ("empty", "nested/train/red", "flat", "held"):
        (tmp_path / name).mkdir(parents=True)
    some = pictures / "few" / "red" / "0.png"
    shutil.copy(some, tmp_path / "flat")
    shutil.copy(some, tmp_path / "nested" / "train" / "red")
    (tmp_path / "held" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "good").symlink_to(pictures / "few")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--source folder:gone", ["folder gone does not exist", "<class>/*.jpg, *.png"]),
        ("--source folder:empty", ["folder empty has no pictures in class folders"]),
        ("--source folder:flat", ["folder flat has no pictures in class folders"]),
        ("--source folder:nested", ["folder nested has no pictures", "did you mean folder:nested/train?"]),
        ("--source good", ["source 'good' (did you mean folder:good?): expected camera:0, ", "folder:PATH, ", "sim:"]),
        ("--source folder:good --phases red|pink", ["has no class 'pink'; it has blue, green, red, yellow"]),
        ("--source folder:good --held-out folder:gone", ["folder gone does not exist"]),
        (
            "--source folder:good --run-dir held",
            ["held holds a run already, whose settings cannot be read", "choose another --run-dir"],
        ),
        ("--source folder:good --backbone resnet19", ["unknown backbone 'resnet19'; did you mean", "resnet18"]),
        ("--source folder:good --least-bits 0", ["--least-bits 0: use 1 to 8"]),
        ("--source folder:good --bits 9", ["--bits 9: use 1 to 8"]),
        ("--source folder:good --broker localhost", ["expected mqtt://HOST:PORT"]),
        (
            "--source folder:good --cut layer2.1.conv1",
            [
                "cannot cut resnet18 at 'layer2.1.conv1': not exactly one tensor",
                "layer1: 64 x 8 x 8, 4,096 bytes at 8 bits",
                "layer2: 128 x 4 x 4, 2,048 bytes at 8 bits",
                "layer3: 256 x 2 x 2, 1,024 bytes at 8 bits",
            ],
        ),
        (
            "--source folder:good --image-size 224 --cut layer1 --bits 8",
            [
                "one sample of resnet18 cut at layer1",
                "limit 128,000",
                "at 5 bits it would be",
                "bottleneck",
                "later cut",
            ],
        ),
    ],
)
def test_a_setting_that_cannot_work(
    flags: str, says: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    command = f"robot-edge run --threads 1 --image-size 16 --batch 2 --run-dir run {flags}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        robot_main()
    assert ended.value.code == 2
    printed = capfd.readouterr().err
    assert printed.count("robot-edge: ") == 1, "one message"
    assert [text for text in says if text not in printed] == []
    assert not Path("run").exists(), "an error before anything starts leaves no folder"


def test_an_error_of_the_whole_program(launcher: Launcher) -> None:
    robot = launcher.robot("mqtt://127.0.0.1:1", "wrong", "sim:", "--bits", "9")
    assert robot.wait() == 2
    assert robot.printed == "robot-edge: --bits 9: use 1 to 8\n"


def test_ctrl_c_while_waiting_for_the_broker(launcher: Launcher) -> None:
    robot = launcher.robot("mqtt://127.0.0.1:1", "patient", "sim:")
    robot.until_it_says("waiting for the broker (no broker at 127.0.0.1:1")
    assert robot.interrupt() == 130
    assert "Traceback" not in robot.printed
    assert robot.summary["interrupted"]
    assert (robot.summary["images"], robot.summary["messages_sent"]) == (0, 0)
    assert {path.name for path in robot.run_dir.iterdir()} >= {"config.toml", "metrics.jsonl", "curves.png"}


@dataclass(frozen=True, kw_only=True)
class TroubledRun:
    """A trainer with a robot that does its work, and what came in between. Statuses are those of exits."""

    trainer: Program
    honest: Program
    namesake: Program
    untested: Program
    untrained: Program
    garbage: int
    statuses: dict[str, int]
    robot_metrics: list[RobotMetrics]


@pytest.fixture(scope="module", name="run")
def _run(mosquitto_url: str, launcher: Launcher, recorder: Recorder, pictures: Path, torn: Path) -> TroubledRun:
    """Everything that can go wrong around one honest robot, in one run."""
    url, statuses = mosquitto_url, {}
    trainer = launcher.trainer(url)
    honest = launcher.robot(url, "honest", f"folder:{torn}", "--held-out", f"folder:{pictures}/test")
    trainer.until(lambda: trainer.images("honest") >= 32, "32 images were trained on")

    # While the trainer stands still its robots stay where they are, each waiting for receipts.
    trainer.send(signal.SIGSTOP)
    garbage = _garbage(recorder)
    for robot, payload in garbage:
        recorder.publish(f"reflexarc/1/robot/{robot}/activations", payload)
    recorder.publish("reflexarc/1/robot/no name/activations", b"from nobody")
    namesake = launcher.robot(url, "honest", f"folder:{pictures}/few")
    untested = launcher.robot(url, "untested", f"folder:{pictures}/few", "--held-out", f"folder:{pictures}/test")
    untested.until(lambda: untested.images() == 160, "it had trained on everything")
    statuses["untested"] = untested.interrupt()
    statuses["namesake"] = namesake.wait()
    untrained = launcher.robot(url, "untrained", "sim:")
    trainer.send(signal.SIGCONT)

    statuses["honest"] = honest.wait()
    trainer.until(lambda: trainer.images("untrained") >= 32, "32 images of the other robot were trained on")
    statuses["trainer"] = trainer.interrupt()
    untrained.until_it_says("training goes on without a cloud trainer")
    statuses["untrained"] = untrained.interrupt()
    return TroubledRun(
        trainer=trainer,
        honest=honest,
        namesake=namesake,
        untested=untested,
        untrained=untrained,
        garbage=len(garbage),
        statuses=statuses,
        robot_metrics=recorder.messages(RobotMetrics, f"{HONEST}/metrics"),
    )


@pytest.fixture(scope="module", name="torn")
def _torn(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The training pictures, of which one is cut off in its middle and another is no picture at all."""
    folder = tmp_path_factory.mktemp("torn") / "train"
    shutil.copytree(pictures / "train", folder)
    cut_off = folder / "red" / "5.png"
    cut_off.write_bytes(cut_off.read_bytes()[:200])
    (folder / "blue" / "6.png").write_bytes(b"no picture")
    return folder


def _garbage(recorder: Recorder) -> list[tuple[str, bytes]]:
    """Messages that no robot sends, each with the robot whose name they are sent under."""
    honest = recorder.messages(RobotState, f"{HONEST}/state")[-1]
    genuine = recorder.messages(ActivationBatch, f"{HONEST}/activations")[0]
    batch = dataclasses.replace(genuine, sequence=FORGED)
    packed = batch.activations
    few = dataclasses.replace(packed, shape=(1, *packed.shape[1:]))
    too_large = dataclasses.replace(packed, shape=(4096, 16, 4, 16), data=packed.data[:500])
    other_shape = dataclasses.replace(packed, shape=(*packed.shape[:2], packed.shape[3] * packed.shape[2], 1))
    not_finite = np.full_like(packed.low, np.nan)
    as_honest = [
        b"",
        b"\x00\xff garbage \xfe",
        b'{"kind": "activations"}',
        b"{" * 100_000,
        pack(genuine)[:-50],
        pack(honest),
        pack(Receipt(boot=honest.boot, sequence=0, outcome="accepted", reason="", held=0.0)),
        pack(dataclasses.replace(batch, labels=batch.labels + 4)),
        pack(dataclasses.replace(batch, activations=dataclasses.replace(packed, low=not_finite))),
        pack(dataclasses.replace(batch, activations=dataclasses.replace(packed, step=not_finite + np.inf))),
        pack(dataclasses.replace(batch, activations=too_large)),
        pack(dataclasses.replace(batch, activations=few)),
        pack(dataclasses.replace(batch, activations=other_shape)),
        pack(dataclasses.replace(batch, split="0" * 16)),
        pack(dataclasses.replace(batch, activations=dataclasses.replace(packed, data=b"\xff" * 500, codec="lz4"))),
        pack(dataclasses.replace(batch, activations=dataclasses.replace(packed, data=b"\xff" * 500, codec="zlib"))),
    ]
    return [*(("honest", payload) for payload in as_honest), ("nobody", b"who am I?")]


@pytest.fixture(scope="module", name="recorder")
def _recorder(mosquitto_url: str, record: type[Recorder]) -> Iterator[Recorder]:
    recorder = record(mosquitto_url)
    yield recorder
    recorder.close()


def test_the_honest_robot_is_unharmed(run: TroubledRun) -> None:
    assert run.statuses["honest"] == 0
    summary, cloud = run.honest.summary, run.trainer.summary["robots"]["honest"]
    assert summary["images"] == cloud["images"] == 478
    assert summary["messages_sent"] == cloud["messages_trained"] == 30
    assert summary["messages_rejected"] == summary["dropped"] == 0
    assert summary["exit_accuracy"] > 0.6
    assert summary["cloud_accuracy"] > 0.6


def test_garbage_is_counted_and_logged_with_robot_and_reason(run: TroubledRun) -> None:
    assert run.statuses["trainer"] == 0
    assert run.trainer.summary["messages_rejected"] == run.garbage
    printed = run.trainer.printed
    assert "Traceback" not in printed
    assert printed.count("robot honest: message rejected") == run.garbage - 1
    assert "robot nobody: message rejected" in printed
    for reason in (
        "not msgpack",
        "not JSON",
        "ActivationBatch or ClassEdit expected, got RobotState",
        "ActivationBatch or ClassEdit expected, got Receipt",
        "label 7 of 4 classes",
        "not finite",
        "the message holds",
        "split 0000000000000000 is not the one",
        "do not decompress",
    ):
        assert reason in printed, reason
    assert "ignoring a message: topic 'reflexarc/1/robot/no name/activations' is not one of ours" in printed


def test_unreadable_pictures_are_skipped_counted_and_named_once(run: TroubledRun, torn: Path) -> None:
    assert run.honest.summary["unreadable"] == 2
    for file in ("red/5.png", "blue/6.png"):
        assert run.honest.printed.count(f"skipping {torn / file}") == 1


def test_the_second_of_two_robots_with_one_name_goes(run: TroubledRun) -> None:
    assert run.statuses["namesake"] == 2
    assert "Traceback" not in run.namesake.printed
    assert "robot-edge: another robot named 'honest' is online" in run.namesake.printed
    assert "give this one its own --robot name" in run.namesake.printed
    assert len({metrics.boot for metrics in run.robot_metrics}) == 1, "it has said nothing under that name"


def test_ctrl_c_while_the_cloud_is_behind(run: TroubledRun) -> None:
    assert run.statuses["untested"] == 130
    assert "Traceback" not in run.untested.printed
    summary = run.untested.summary
    assert summary["interrupted"]
    assert (summary["images"], summary["dropped"], summary["messages_sent"]) == (160, 0, 10)
    assert [counts["queued"] for counts in summary["samples_by_class"].values()] == [40, 40, 40, 40]
    assert "160 samples wait on the disk for the cloud" in run.untested.printed
    assert summary["cloud_accuracy"] is None
    assert summary["held_out_images"] == 200
    assert (run.untested.run_dir / "checkpoint" / CHECKPOINT).exists()


def test_ctrl_c_at_the_trainer_while_it_trains(run: TroubledRun) -> None:
    figures = run.trainer.summary["robots"]["untrained"]
    assert figures["images"] >= 32
    for robot in ("honest", "untrained"):
        assert (run.trainer.run_dir / "checkpoint" / robot / CHECKPOINT).exists()
    assert (run.trainer.run_dir / "curves.png").exists()


def test_ctrl_c_at_the_robot_while_it_trains(run: TroubledRun) -> None:
    assert run.statuses["untrained"] == 130
    assert "Traceback" not in run.untrained.printed
    summary = run.untrained.summary
    assert summary["interrupted"]
    assert summary["images"] == run.untrained.images() > 0
    assert summary["messages_trained"] <= summary["messages_sent"]
    assert (run.untrained.run_dir / "curves.png").exists()
