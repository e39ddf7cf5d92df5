"""How a robot's run goes: what it counted itself and what the cloud said, as people get to see it. No I/O."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from broker.wire.messages import ClassEdit, RobotMetrics
from hierarchy.continual import AccuracyRounds, Round
from hierarchy.edge import EdgeStep, EdgeTrainer
from hierarchy.evaluation import HeldOut, Prequential
from robot_edge.fleet.exits import FleetExits
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.held_back import HeldBack
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink


@dataclass(frozen=True, kw_only=True)
class FiguresState:
    """What a robot counted itself. rounds: of all tests."""

    prequential: Prequential
    exit_loss: float | None
    seconds: float
    evaluation: int
    rounds: list[Round]


class RunMetrics:
    """The figures of one run.

    held: frames that wait for a front that tells less; None where none ever do. fleet: the exits of the robot's fleet;
    None for none.
    """

    def __init__(
        self,
        trainer: EdgeTrainer,
        uplink: Uplink,
        outbox: Outbox,
        batcher: Batcher,
        held: HeldBack | None = None,
        fleet: FleetExits | None = None,
    ) -> None:
        self.held_out = HeldOut()
        self.rounds = AccuracyRounds()  # of tests before this one
        self.evaluation = 0
        self.seconds = 0.0  # of training so far
        self._prequential = Prequential()
        self._exit_loss: float | None = None
        self._trainer = trainer
        self._uplink = uplink
        self._outbox = outbox
        self._batcher = batcher
        self._held = held
        self._fleet = fleet

    @property
    def images(self) -> int:
        """Fresh images learned from so far."""
        return self._prequential.count

    @property
    def recent(self) -> float | None:
        """The exit's prequential accuracy over the last thousand images; None before the first."""
        return self._prequential.recent

    def state(self) -> FiguresState:
        return FiguresState(
            prequential=self._prequential,
            exit_loss=self._exit_loss,
            seconds=self.seconds,
            evaluation=self.evaluation,
            rounds=self._all_rounds().rounds,
        )

    def restore(self, state: FiguresState) -> None:
        self._prequential = dataclasses.replace(state.prequential)
        self._exit_loss, self.seconds, self.evaluation = state.exit_loss, state.seconds, state.evaluation
        self.rounds = AccuracyRounds(state.rounds)

    def apply(self, edit: ClassEdit) -> None:
        """Do to the counts what a class edit says, before the network does it.

        Those of an undone session stay until the next test.
        """
        if edit.change == "rename":
            self.held_out.rename(edit.name, edit.to)
            self.rounds.rename(edit.name, edit.to, merged=edit.to in self._trainer.classes)
        elif edit.name:
            self.held_out.remove(edit.name)
            self.rounds.remove(edit.name)

    def add(self, step: EdgeStep) -> None:
        """Take in what a training step found."""
        self._exit_loss = step.loss
        self._prequential.add(step.correct)

    def begin_test(self) -> None:
        """Begin another round of predicting held-out frames."""
        self.rounds = self._all_rounds()
        self.held_out = HeldOut()
        self.evaluation += 1

    def _all_rounds(self) -> AccuracyRounds:
        """Return the rounds of tests with the last one."""
        rounds = AccuracyRounds(self.rounds.rounds)
        rounds.add(self.held_out.by_class, self.evaluation)
        return rounds

    @property
    def held_back(self) -> str:
        """What a person who watches has to know of frames that are held back, empty for nothing."""
        return self._held.status if self._held is not None else ""

    @property
    def cloud_has_tested(self) -> bool:
        """Whether the cloud has predicted every held-out frame that was predicted here."""
        cloud = self._uplink.cloud_metrics
        return cloud is not None and cloud.evaluation == self.evaluation > 0 and cloud.evaluated >= self.held_out.count

    @property
    def cloud_is_through(self) -> bool:
        """Whether the cloud has tested; where nothing is held out, so that it will not: whether it has learned all."""
        if self.held_out.count:
            return self.cloud_has_tested
        if not self._outbox.messages_made:
            return True  # it has nothing to learn, so it will say nothing
        cloud = self._uplink.cloud_metrics
        return cloud is not None and not cloud.messages_waiting

    def message(self) -> RobotMetrics:
        """Return what others are told."""
        images, uplink, outbox = self._prequential.count, self._uplink, self._outbox
        counts = outbox.counts().values()
        # Not the images learned from: after a kill the outbox is ahead of them, and behind where it was moved away.
        taken = sum(each.taken for each in counts)
        return RobotMetrics(
            boot=uplink.state.boot,
            images=images,
            classes=len(self._trainer.classes),
            exit_loss=self._exit_loss,
            exit_prequential=self._prequential.overall,
            exit_accuracy=self.held_out.accuracy,
            images_per_second=images / self.seconds if self.seconds else 0.0,
            bytes_per_image=outbox.bytes_made / taken if taken else None,
            raw_bytes_per_image=self._batcher.raw_bytes_per_image,
            jpeg_bytes_per_image=self._batcher.jpeg_bytes_per_image,
            messages_sent=outbox.messages_made,
            messages_rejected=outbox.messages_rejected,
            queued=len(outbox),
            dropped=sum(each.dropped for each in counts),
            exit_version=self._fleet.status.version if self._fleet else 0,
            exit_refused=self._fleet.status.refusal if self._fleet else "",
        )

    def step_line(self) -> dict[str, Any]:
        """Return a line of metrics.jsonl."""
        cloud = self._uplink.cloud_metrics
        return {
            "images": self._prequential.count,
            "classes": len(self._trainer.classes),
            "exit_loss": self._exit_loss,
            "exit_prequential": self._prequential.overall,
            "exit_recent": self._prequential.recent,
            "cloud_images": cloud.images if cloud else 0,
            "cloud_loss": cloud.cloud_loss if cloud else None,
            "cloud_prequential": cloud.cloud_prequential if cloud else None,
            "cloud_recent": cloud.cloud_recent if cloud else None,
            "queued": len(self._outbox),
            "bits": self._trainer.bits,
            **({"exit_version": self._fleet.status.version} if self._fleet else {}),
        }

    def live_line(self) -> list[str]:
        """Return what a person sees while it runs, the most important first.

        Accuracies are of the last RECENT images.
        """
        own, cloud = self.message(), self._uplink.cloud_metrics
        cloud_recent, cloud_loss = (cloud.cloud_recent, cloud.cloud_loss) if cloud else (None, None)
        goodput = self._uplink.pace.goodput
        link = "link up" if goodput is None else f"{goodput / 1e3:.0f} kB/s"
        troubles = []
        if self._uplink.waits_for:
            link = "link down"
            troubles.append(link)
        if self._outbox.trouble:
            troubles.append(f"OUTBOX: {self._outbox.trouble}")
        if self._uplink.quarantine:
            troubles.append(f"QUARANTINE: {self._uplink.quarantine}")
        if cloud and cloud.began_alike is False:
            troubles.append("THE CLOUD BEGAN WITH OTHER WEIGHTS")
        if cloud and cloud.apart:
            troubles.append("APART FROM ITS FLEET" if cloud.fleet_robots < 2 else "PART OF THE FLEET IS APART")
        if self.held_back:
            troubles.append(f"PRIVACY: {self.held_back}")
        if own.dropped:
            troubles.append(f"{own.dropped:,} samples dropped")
        return [
            *troubles,
            f"exit {_percent(self._prequential.recent)}",
            f"cloud {_percent(cloud_recent)}",
            f"{link}, {self._samples_waiting:,} samples wait",
            f"{own.images_per_second:.0f}/s",
            f"loss {_loss(self._exit_loss)}, cloud {_loss(cloud_loss)}",
            f"{own.bytes_per_image or 0:.0f} B/image, {self._trainer.bits} bits",
            *([self._fleet.status.text] if self._fleet else []),
        ]

    @property
    def _samples_waiting(self) -> int:
        return sum(each.queued for each in self._outbox.counts().values())

    def summary(self, *, interrupted: bool) -> dict[str, Any]:
        """Return what summary.json holds; what the cloud did not say is None."""
        cloud = self._uplink.cloud_metrics
        values = dataclasses.asdict(self.message())
        for name in ("boot", "exit_loss", "queued", "exit_version", "exit_refused"):
            del values[name]
        return {
            **values,
            "classes": list(self._trainer.classes),
            "cloud_accuracy": cloud.cloud_accuracy if cloud and self.cloud_has_tested else None,
            "cloud_prequential": cloud.cloud_prequential if cloud else None,
            "exit_recent": self._prequential.recent,
            "cloud_recent": cloud.cloud_recent if cloud else None,
            "cloud_images": cloud.images if cloud else 0,
            "messages_trained": cloud.messages_trained if cloud else 0,
            "held_out_images": self.held_out.count,
            "exit_accuracy_by_class": self.held_out.by_class,
            "untested_classes": [name for name in self._trainer.classes if name not in self.held_out.by_class],
            **self._all_rounds().figures("exit"),
            "samples_by_class": {name: counts._asdict() for name, counts in self._outbox.counts().items()},
            "deliveries_dropped": self._uplink.link.dropped,
            "starts": self._outbox.starts,
            "frames_shown": self._batcher.frames_read,
            "unlabelled": self._batcher.unlabelled,
            "nothing_sent_why": (self._held.why if self._held is not None else "") or None,
            "leak": self._held.told if self._held is not None else None,
            "leak_line": self._held.line if self._held is not None else None,
            "frames_held_back": len(self._held) if self._held is not None else 0,
            "frames_never_sent": self._held.lost if self._held is not None else 0,
            **({"fleet_exit": dataclasses.asdict(self._fleet.status)} if self._fleet else {}),
            "interrupted": interrupted,
        }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.2f}"
