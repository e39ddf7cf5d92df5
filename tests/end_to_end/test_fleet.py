"""Three robots of a fleet with a front that stands still: one half in the cloud, which a kill does not confuse."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchvision
from PIL import Image

from broker.wire.codec import pack
from broker.wire.messages import Answer, Ask, RobotState, TrainerMetrics
from broker.wire.quantize import pack_activations
from cloud_trainer.replay import replay
from cloud_trainer.store.opening import STORE
from hierarchy.device import Compute
from hierarchy.edge import front_digest, still_encoder
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from tests.end_to_end.conftest import COLOURS

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program, Recorder

# Above 64 pixels a pretrained network stands still.
BACKBONE, CUT, SIDE = "resnet18", "layer3", 72
TAUGHT = {"f1": ("red", "green"), "f2": ("blue", "yellow"), "f3": ("red", "blue")}
OF_EACH, ASKED_OF_EACH = 40, 10


def weights(path: Path, seed: int) -> Path:
    """Write a state dict as a pretrained one would be: random, with statistics of what it has seen."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(BACKBONE, weights=None).train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(8, 3, SIDE, SIDE))
    torch.save(network.state_dict(), path)
    return path


class Fleet:
    """The robots and their trainer. f3 has another front under the fleet's name."""

    def __init__(self, url: str, launcher: Launcher, pictures: Path, folder: Path) -> None:
        self.url, self._launcher = url, launcher
        self.files = {"ours": weights(folder / "ours.pth", 0), "other": weights(folder / "other.pth", 1)}
        self.run_dir = folder / "cloud"
        self._folder, self._pictures = folder, pictures

    def trainer(self) -> Program:
        flags = ["--weights", str(self.files["ours"]), "--run-dir", str(self.run_dir), "--checkpoint-every", "3"]
        trainer = self._launcher.trainer(self.url, *flags)
        trainer.run_dir = self.run_dir
        return trainer

    def flags(self, robot: str) -> dict[str, str]:
        file = self.files["other" if robot == "f3" else "ours"]
        network = {"backbone": BACKBONE, "cut": CUT, "image-size": str(SIDE), "bottleneck": "0", "weights": str(file)}
        return {**network, "fleet": "lab"}

    def robot(self, name: str) -> Program:
        for part, colour in product(("few", "test"), TAUGHT[name]):
            (self._folder / name / part).mkdir(parents=True, exist_ok=True)
            (self._folder / name / part / colour).symlink_to(self._pictures / part / colour)
        flags = [one for flag, value in self.flags(name).items() for one in (f"--{flag}", value)]
        flags += ["--held-out", f"folder:{self._folder / name}/test", "--rehearse", "1"]
        return self._launcher.robot(self.url, name, f"folder:{self._folder / name}/few", *flags)


class Asker:
    """Asks the cloud as a robot, about test pictures that the robot's front encodes."""

    def __init__(self, fleet: Fleet, robot: str, recorder: Recorder, pictures: Path) -> None:
        flags = {name.replace("-", "_"): value for name, value in fleet.flags(robot).items()}
        settings = RobotConfig.from_flags(source="sim:", **{**flags, "image_size": SIDE, "bottleneck": 0})
        segment, self._split, _ = build_edge(settings.network)
        self.front = front_digest(segment.state_dict(), self._split)
        self._encode = still_encoder(segment, Compute(device=torch.device("cpu")))
        self._robot, self._recorder, self._pictures = f"reflexarc/1/robot/{robot}", recorder, pictures
        self._boot = recorder.messages(RobotState, f"{self._robot}/state")[-1].boot

    def named(self, trainer: Program, colours: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return what pictures of these colours are, and what the cloud named each."""
        asked = list(product(colours, range(ASKED_OF_EACH)))
        for number, (colour, place) in enumerate(asked):
            trainer.until(
                partial(self._is_answered, number, self._ask(number, colour, place)), f"an answer to {number}"
            )
        names = {one.number: one.classes[0] for one in self._answers()}
        return [(colour, names[number]) for number, (colour, _) in enumerate(asked)]

    def _ask(self, number: int, colour: str, place: int) -> bytes:
        with Image.open(self._pictures / "test" / colour / f"{place}.png") as picture:
            image = np.asarray(picture.resize((SIDE, SIDE)), np.uint8)
        activations = pack_activations(self._encode(image[None]).quantized(self._split.bits))
        split = self._split.fingerprint
        return pack(Ask(boot=self._boot, number=number, split=split, deadline=60.0, activations=activations))

    def _answers(self) -> list[Answer]:
        return self._recorder.messages(Answer, f"{self._robot}/answer")

    def _is_answered(self, number: int, ask: bytes) -> bool:
        if any(one.number == number for one in self._answers()):
            return True
        self._recorder.publish(f"{self._robot}/ask", ask)  # the first ones only wake it
        return False


def test_what_one_robot_was_taught_the_cloud_names_for_another_and_a_kill_loses_nothing(
    mosquitto_url: str, launcher: Launcher, record: type[Recorder], pictures: Path, tmp_path: Path
) -> None:
    recorder = record(mosquitto_url)
    try:
        fleet = Fleet(mosquitto_url, launcher, pictures, tmp_path)
        trainer = fleet.trainer()
        robots = {name: fleet.robot(name) for name in TAUGHT}
        trainer.until(lambda: trainer.images("f1") and trainer.images("f2"), "two robots were learned from")
        trainer.kill()
        trainer = fleet.trainer()
        assert {name: robot.wait() for name, robot in robots.items()} == dict.fromkeys(TAUGHT, 0)

        asker = Asker(fleet, "f2", recorder, pictures)
        named = asker.named(trainer, tuple(COLOURS))
        for colours in (("red", "green"), TAUGHT["f2"]):
            right = [colour == name for colour, name in named if colour in colours]
            assert sum(right) >= 0.7 * len(right), f"{colours}: {named}"
        assert trainer.interrupt() == 0
    finally:
        recorder.close()

    summary = trainer.summary
    for name, robot in robots.items():
        assert robot.summary["images"] == summary["robots"][name]["images"] == 2 * OF_EACH
        assert robot.summary["messages_sent"] == summary["robots"][name]["messages_trained"]
    figures = {
        name: recorder.messages(TrainerMetrics, f"reflexarc/1/robot/{name}/cloud-metrics/trainer")[-1]
        for name in TAUGHT
    }
    assert [figures[name].fleet_robots for name in TAUGHT] == [2, 2, 1]
    assert [figures[name].fleet_classes for name in TAUGHT] == [4, 4, 2]
    assert figures["f1"].fleet_images == 4 * OF_EACH
    assert "their front is another one" in robots["f3"].printed

    states = {name: recorder.messages(RobotState, f"reflexarc/1/robot/{name}/state")[-1] for name in TAUGHT}
    assert states["f1"].front == states["f2"].front == asker.front
    logs = {f"lab@{states[name].front}" for name in TAUGHT}
    assert {path.name for path in (fleet.run_dir / "checkpoint").iterdir()} == logs
    assert len(logs) == 2
    torch.set_num_threads(1)
    assert replay(fleet.run_dir / STORE, None, "cpu"), "bit for bit"
