"""The robot's loop: the one file where source, broker, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from broker.codec import samples_per_message
from broker.link import MqttLink
from broker.messages import RobotMetrics, RobotState
from hierarchy.checkpoint import save_checkpoint
from hierarchy.command_line import EXIT_INTERRUPTED, Notice, StopRequest
from hierarchy.device import choose_device, set_threads
from hierarchy.evaluation import HeldOut, Prequential
from hierarchy.rehearsal import BalancedMemory
from hierarchy.run_folder import RunFolder
from robot_edge.batches import Batch, Batcher, Pixels
from robot_edge.config import RobotConfig
from robot_edge.frames import FrameSource
from robot_edge.progress import RunProgress, print_summary
from robot_edge.segment import build_edge
from robot_edge.sources import open_source
from robot_edge.trainer import EdgeTrainer, fastest_compute
from robot_edge.uplink import Uplink, will

# Held-out frames kept for the end: a percentage point of accuracy is 20 of them.
HELD_OUT_FRAMES = 2000
# Frames predicted at a time in an evaluation.
PREDICT_AT_ONCE = 256
# Between two metrics messages.
METRICS_SECONDS = 1.0
# How long the cloud may take for the figures of an evaluation that it has receipted.
FIGURES_SECONDS = 60.0
# The one evaluation of a run, at its end.
FINAL_EVALUATION = 1

log = logging.getLogger("robot-edge")


def run(config: RobotConfig) -> None:
    """Train on the source, test on the held-out frames, and write everything down.

    Raises ConfigError for settings that cannot work, NameTaken, and SystemExit where Ctrl-C ended it.
    """
    set_threads(config.threads)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    segment, split, start = build_edge(config)
    samples_per_message(split, classes=1)  # a sample that fits no message should be said before anything starts
    source = open_source(
        config.source,
        image_size=config.image_size,
        phases=config.phase_classes,
        epochs=config.epochs,
        images=config.images,
        seed=config.seed,
    )
    held_out = open_source(config.held_out, image_size=config.image_size) if config.held_out else None
    folder = RunFolder(config.run_path, config.as_toml())
    log.info("measuring how this machine trains fastest")
    compute = fastest_compute(segment, image_size=config.image_size, batch=config.batch, device=device)
    log.info("%s up to %s, %s values cross for each image, %s", split.backbone, split.cut, split.values, compute)
    trainer = EdgeTrainer(
        segment, bits=config.bits, compute=compute, peak_learning_rate=config.learning_rate, seed=config.seed
    )
    state = RobotState(
        boot=secrets.token_hex(8),
        started=time.time(),
        online=True,
        split=split,
        weights=start,
        rehearse=config.rehearsed_per_fresh,
    )
    with StopRequest() as stop:
        link = MqttLink(config.broker, f"{config.robot}-{state.boot}", will=will(config.robot, state))
        uplink = Uplink(link, config.robot, state)
        node = RobotNode(config, trainer, uplink, source, held_out, folder, stop)
        try:
            node.wait_for_trainer()
            node.train()
            node.test()
        finally:
            node.finish()
            uplink.close()
    if stop.made:
        raise SystemExit(EXIT_INTERRUPTED)


class RobotNode:
    """Lets the edge learn and the uplink breathe, in turn, on one thread."""

    def __init__(
        self,
        config: RobotConfig,
        trainer: EdgeTrainer,
        uplink: Uplink,
        source: FrameSource,
        held_out: FrameSource | None,
        folder: RunFolder,
        stop: StopRequest,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._uplink = uplink
        self._source = source
        self._held_out_source = held_out
        self._folder = folder
        self._stop = stop
        self._notice = Notice(log)
        self._batcher = Batcher(
            source=source,
            size=config.fresh_per_batch,
            image_size=config.image_size,
            held_out_every=0 if held_out else config.held_out_every,
            held_out=BalancedMemory(HELD_OUT_FRAMES, config.seed),
        )
        frames = int(config.rehearsal_mb * 1e6 / self._raw_bytes)
        self._memory: BalancedMemory[Pixels] = BalancedMemory(frames, config.seed)
        self._prequential = Prequential()
        self._exit_held_out = HeldOut()
        self._exit_loss: float | None = None
        self._seconds = 0.0
        self._next_metrics = 0.0

    def wait_for_trainer(self) -> None:
        """Wait until activations can go out. Raises NameTaken."""
        while not self._stop.made:
            self._uplink.pump(timeout=0.2)
            if not self._uplink.waits_for:
                return
            self._notice.say(f"waiting for {self._uplink.waits_for}")

    def train(self) -> None:
        """Learn from the source until it ends or a stop is asked for."""
        begin = time.monotonic()
        with RunProgress(self._source.length) as progress:
            while not self._stop.made and (batch := self._batcher.next()) is not None:
                self._learn(batch)
                self._wait_for_room()
                self._uplink.pump()
                self._seconds = time.monotonic() - begin
                self._write_metrics()
                progress.show(self._batcher.frames_read, self._figures_line())
                self._notice.say(f"training goes on without {self._uplink.waits_for}" if self._uplink.waits_for else "")

    def test(self) -> None:
        """Predict the held-out frames here, and have the cloud predict them from their activations."""
        self._drain("activations")
        for batch in self._held_out_batches():
            if not self._trainer.classes:
                return
            predicted, quantized = self._trainer.evaluate(batch.images)
            self._exit_held_out.add(batch.names, predicted)
            if not self._stop.made:  # after Ctrl-C nothing waits for the cloud any more
                self._uplink.send(quantized, batch.names, evaluation=FINAL_EVALUATION)
                self._wait_for_room()
            self._uplink.pump()
        self._drain("held-out activations")
        self._wait_for_figures()

    def finish(self) -> None:
        """Write checkpoint, summary and curves, and show the summary."""
        self._source.close()
        about = {
            "classes": self._trainer.classes,
            "split": dataclasses.asdict(self._uplink.state.split),
            "steps": self._trainer.steps,
        }
        save_checkpoint(self._folder.checkpoint, self._trainer.segment, about)
        summary = self._summary()
        self._uplink.publish_metrics(self._metrics())
        self._folder.finish(summary)
        print_summary(summary, self._folder.path)

    def _learn(self, batch: Batch) -> None:
        fresh = len(batch.names)
        rehearsed = self._memory.draw(round(fresh * self._config.rehearsed_per_fresh))
        images = np.concatenate([batch.images, *(image[None] for _, image in rehearsed)])
        names = batch.names + [name for name, _ in rehearsed]
        step = self._trainer.step(images, names, fresh=fresh, progress=self._batcher.progress)
        self._exit_loss = step.loss
        self._prequential.add(step.correct)
        self._uplink.send(
            step.quantized, batch.names, progress=self._batcher.progress, edge_version=self._trainer.steps
        )
        if self._config.rehearsed_per_fresh:
            for name, image in zip(batch.names, batch.images, strict=True):
                self._memory.add(name, image.copy())  # a view would keep its whole batch

    def _wait_for_room(self) -> None:
        """Hold a replay back while the outbox is full, so that nothing is dropped."""
        while self._uplink.outbox.full and not self._stop.made:
            self._uplink.pump(timeout=0.2)
            self._notice.say(f"outbox full; waiting for {self._uplink.waits_for or 'the cloud to catch up'}")

    def _drain(self, what: str) -> None:
        total = len(self._uplink.outbox)
        with RunProgress(total, f"messages of {what} taken by the cloud") as progress:
            while len(self._uplink.outbox) and not self._stop.made:
                self._uplink.pump(timeout=0.1)
                progress.show(total - len(self._uplink.outbox))
                missing = self._uplink.waits_for
                self._notice.say(f"waiting for {missing} to take {what}; Ctrl-C ends without it" if missing else "")

    def _wait_for_figures(self) -> None:
        deadline = time.monotonic() + FIGURES_SECONDS
        while not self._stop.made and time.monotonic() < deadline:
            if self._cloud_has_tested:
                return
            self._uplink.pump(timeout=0.1)
        if not self._stop.made:
            log.warning("the cloud's figures did not come within %.0f seconds", FIGURES_SECONDS)

    @property
    def _cloud_has_tested(self) -> bool:
        figures = self._uplink.figures
        return (
            figures is not None
            and figures.evaluation == FINAL_EVALUATION
            and figures.evaluated >= self._exit_held_out.count
        )

    def _held_out_batches(self) -> Iterator[Batch]:
        """Yield the held-out frames, mixed, in batches."""
        if self._held_out_source is not None:
            reader = Batcher(
                source=self._held_out_source,
                size=PREDICT_AT_ONCE,
                image_size=self._config.image_size,
                held_out_every=0,
                held_out=BalancedMemory(0, 0),
            )
            while (batch := reader.next()) is not None:
                yield batch
            return
        frames = self._batcher.held_out.draw(HELD_OUT_FRAMES)
        for start in range(0, len(frames), PREDICT_AT_ONCE):
            part = frames[start : start + PREDICT_AT_ONCE]
            yield Batch(images=np.stack([image for _, image in part]), names=[name for name, _ in part])

    @property
    def _raw_bytes(self) -> int:
        """Bytes of one frame, as the network sees it and as rehearsal keeps it."""
        return 3 * self._config.image_size**2

    def _metrics(self) -> RobotMetrics:
        images, uplink = self._prequential.count, self._uplink
        return RobotMetrics(
            boot=uplink.state.boot,
            images=images,
            classes=len(self._trainer.classes),
            exit_loss=self._exit_loss,
            exit_prequential=self._prequential.overall,
            exit_accuracy=self._exit_held_out.accuracy,
            images_per_second=images / self._seconds if self._seconds else 0.0,
            bytes_per_image=uplink.bytes_sent / images if images else None,
            raw_bytes_per_image=self._raw_bytes,
            jpeg_bytes_per_image=self._batcher.jpeg_bytes_per_image,
            messages_sent=uplink.messages_sent,
            messages_rejected=uplink.messages_rejected,
            queued=len(uplink.outbox),
            dropped=uplink.outbox.samples_held,
        )

    def _summary(self) -> dict[str, Any]:
        """Return what summary.json holds; what the cloud did not say is None."""
        cloud = self._uplink.figures
        known = cloud if self._cloud_has_tested else None
        values = dataclasses.asdict(self._metrics())
        for name in ("boot", "exit_loss", "queued"):
            del values[name]
        return {
            **values,
            "classes": list(self._trainer.classes),
            "cloud_accuracy": known.cloud_accuracy if known else None,
            "cloud_prequential": cloud.cloud_prequential if cloud else None,
            "messages_trained": cloud.messages_trained if cloud else 0,
            "held_out_images": self._exit_held_out.count,
            "exit_accuracy_by_class": self._exit_held_out.by_class,
            "unlabelled": self._batcher.unlabelled,
            "unreadable": self._source.skipped,
            "interrupted": self._stop.made,
        }

    def _write_metrics(self) -> None:
        cloud = self._uplink.figures
        self._folder.add_metrics(
            images=self._prequential.count,
            classes=len(self._trainer.classes),
            exit_loss=self._exit_loss,
            exit_prequential=self._prequential.recent,
            cloud_loss=cloud.cloud_loss if cloud else None,
            cloud_prequential=cloud.cloud_recent if cloud else None,
            queued=len(self._uplink.outbox),
        )
        if time.monotonic() >= self._next_metrics:
            self._next_metrics = time.monotonic() + METRICS_SECONDS
            self._uplink.publish_metrics(self._metrics())

    def _figures_line(self) -> str:
        metrics, cloud = self._metrics(), self._uplink.figures
        cloud_recent, cloud_loss = (cloud.cloud_recent, cloud.cloud_loss) if cloud else (None, None)
        link = "link down" if self._uplink.waits_for else f"{self._uplink.goodput / 1e3:.0f} kB/s"
        return " | ".join(
            [
                f"exit {_percent(self._prequential.recent)} loss {_loss(self._exit_loss)}",
                f"cloud {_percent(cloud_recent)} loss {_loss(cloud_loss)}",
                f"{metrics.images_per_second:.0f} images/s",
                f"{metrics.bytes_per_image or 0:.0f} B/image",
                f"{link}, {metrics.queued} queued",
            ]
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.2f}"
