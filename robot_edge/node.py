"""The robot's loop: the one file where source, broker, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator

import numpy as np
import torch

from broker.codec import samples_per_message
from broker.link import MqttLink, credentials_for
from broker.messages import RobotState
from hierarchy.checkpoint import save_checkpoint
from hierarchy.command_line import EXIT_INTERRUPTED, Notice, StopRequest
from hierarchy.device import choose_device, set_threads
from hierarchy.rehearsal import BalancedMemory
from hierarchy.run_folder import RunFolder
from robot_edge.batches import Batch, Batcher, Pixels
from robot_edge.config import RobotConfig
from robot_edge.figures import FINAL_EVALUATION, RunFigures
from robot_edge.frames import FrameSource
from robot_edge.progress import RunProgress, print_summary
from robot_edge.segment import build_edge
from robot_edge.sources import open_source
from robot_edge.trainer import EdgeTrainer, fastest_compute
from robot_edge.uplink import Uplink, will

# Held-out frames kept for the end: a percentage point of accuracy is 20 of them.
HELD_OUT_FRAMES = 2000
# Added to the seed for --held-out sim:, or it would show the scenes that were trained on. Phases add their number.
HELD_OUT_SEED = 1_000_000
# Frames predicted at a time in an evaluation.
PREDICT_AT_ONCE = 256
# Between two metrics messages.
METRICS_SECONDS = 1.0
# How long the cloud may take for the figures of an evaluation that it has receipted.
FIGURES_SECONDS = 60.0

log = logging.getLogger("robot-edge")


def run(config: RobotConfig) -> None:
    """Train on the source, test on the held-out frames, and write everything down.

    Raises ConfigError for settings that cannot work, NameTaken, and SystemExit where Ctrl-C ended it.
    """
    credentials = credentials_for(config.broker, config.credentials)
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
    shown = [list(dict.fromkeys(name for phase in config.phase_classes for name in phase))] if config.phases else []
    held_out = None
    if config.held_out:  # tested on no class that the phases never show
        held_out = open_source(
            config.held_out, image_size=config.image_size, phases=shown, seed=config.seed + HELD_OUT_SEED
        )
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
        folder = RunFolder(config.run_path, config.as_toml())
        link = MqttLink(
            config.broker,
            config.robot,
            will=will(config.robot, state),
            credentials=credentials,
        )
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
        frames = int(config.rehearsal_mb * 1e6 / self._batcher.raw_bytes_per_image)
        self._memory: BalancedMemory[Pixels] = BalancedMemory(frames, config.seed)
        self._figures = RunFigures(trainer, uplink, self._batcher)
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
                self._figures.seconds = time.monotonic() - begin
                self._write_metrics()
                progress.show(self._batcher.frames_read, self._figures.live_line())
                self._notice.say(f"training goes on without {self._uplink.waits_for}" if self._uplink.waits_for else "")

    def test(self) -> None:
        """Predict the held-out frames here, and have the cloud predict them from their activations."""
        self._drain("activations")
        for batch in self._held_out_batches():
            if not self._trainer.classes:
                return
            predicted, quantized = self._trainer.evaluate(batch.images)
            self._figures.held_out.add(batch.names, predicted)
            if not self._stop.made:  # after Ctrl-C nothing waits for the cloud any more
                self._uplink.send(quantized, batch.names, evaluation=FINAL_EVALUATION)
                self._wait_for_room()
            self._uplink.pump()
        self._drain("held-out activations")
        self._wait_for_figures()

    def finish(self) -> None:
        """Write checkpoint, summary and curves, and show the summary."""
        self._source.close()
        parts, about = self._trainer.state()
        save_checkpoint(
            self._folder.checkpoint, parts, {**about, "split": dataclasses.asdict(self._uplink.state.split)}
        )
        summary = self._figures.summary(interrupted=self._stop.made)
        self._uplink.publish_metrics(self._figures.message())
        self._folder.finish(summary)
        print_summary(summary, self._folder.path)

    def _learn(self, batch: Batch) -> None:
        fresh = len(batch.names)
        rehearsed = self._memory.draw(round(fresh * self._config.rehearsed_per_fresh))
        images = np.concatenate([batch.images, *(image[None] for _, image in rehearsed)])
        names = batch.names + [name for name, _ in rehearsed]
        step = self._trainer.step(images, names, fresh=fresh, progress=self._batcher.progress)
        self._figures.add(step)
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
        total, figures = len(self._uplink.outbox), self._uplink.figures
        with RunProgress(total, f"messages of {what} taken by the cloud") as progress:
            while len(self._uplink.outbox) and not self._stop.made:
                self._uplink.pump(timeout=0.1)
                progress.show(total - len(self._uplink.outbox))
                if self._uplink.figures != figures:
                    figures = self._uplink.figures
                    self._write_metrics()
                missing = self._uplink.waits_for
                self._notice.say(f"waiting for {missing} to take {what}; Ctrl-C ends without it" if missing else "")

    def _wait_for_figures(self) -> None:
        deadline = time.monotonic() + FIGURES_SECONDS
        while not self._stop.made and time.monotonic() < deadline:
            if self._figures.cloud_has_tested:
                return
            self._uplink.pump(timeout=0.1)
        if not self._stop.made:
            log.warning("the cloud's figures did not come within %.0f seconds", FIGURES_SECONDS)

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

    def _write_metrics(self) -> None:
        self._folder.add_metrics(**self._figures.step_line())
        if time.monotonic() >= self._next_metrics:
            self._next_metrics = time.monotonic() + METRICS_SECONDS
            self._uplink.publish_metrics(self._figures.message())
