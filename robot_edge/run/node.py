"""The robot's loop: the one file where source, broker, disk and clock meet training."""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
import time
from bisect import bisect_right
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from broker.errors import AccessDenied, ConfigError, NameTaken, StorageError
from broker.wire.codec import unpack_as
from broker.wire.messages import Change, ClassEdit, CommandResult
from broker.wire.quantize import Quantized
from hierarchy.runtime.checkpoint import CHECKPOINT, Parts, load_checkpoint, save_checkpoint
from hierarchy.runtime.command_line import Notice, StopRequest
from hierarchy.runtime.disk import other_place
from hierarchy.runtime.progress import RunProgress
from hierarchy.runtime.run_folder import CONFIG, RunFolder
from hierarchy.schedule import settling
from robot_edge.learning.batcher import Batch, Batcher
from robot_edge.learning.class_edits import Knowledge
from robot_edge.learning.frame_memory import FrameMemory, KeptFrame
from robot_edge.learning.held_out import HELD_OUT_FRAMES, PREDICT_AT_ONCE, HeldOutFrames, OpenSource
from robot_edge.learning.practice import practice_steps
from robot_edge.learning.trainer import EdgeTrainer
from robot_edge.page.board import Board
from robot_edge.run.config import RobotConfig
from robot_edge.run.figures import RunFigures
from robot_edge.run.outcome import FRAMES_WITHOUT_LABEL, HOW_TO_LABEL, why_untested, why_untested_by_cloud
from robot_edge.run.page_publisher import Posting
from robot_edge.run.progress import print_files, print_summary
from robot_edge.run.resume import (
    checkpoint_error,
    checkpoint_parts,
    pack_compute,
)
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.frames import PacedSource
from robot_edge.teaching.commands import Commands
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.rate_control import RateControl
from robot_edge.uplink.uplink import Uplink

# Remembered frames that go up once more when what was learned has settled: so many, or behind a replay this share of
# all that it showed, if that is more.
FRAMES_SENT_AGAIN, SHARE_SENT_AGAIN = 1000, 0.2
# Between two metrics messages.
METRICS_SECONDS = 1.0
# How long to wait for a batch's frames before the uplink gets its turn.
SOURCE_SECONDS = 0.2
# How long the cloud may go without new figures while the robot waits for those of the last evaluation.
FIGURES_SECONDS = 60.0

# A checkpoint that the disk did not take is tried again this often, not at every step; and at the end for so long:
# less than systemd gives a stopped robot.
RETRY_SECONDS, LAST_SAVE_SECONDS = 10.0, 30.0
# Between two tries at the end: somebody may be making room just then.
LAST_RETRY_SECONDS = 2.0
CHECKPOINT_NAME = "the checkpoint"

log = logging.getLogger("robot-edge")


class RobotNode:
    """Lets the edge learn and the uplink breathe, in turn, on one thread."""

    def __init__(
        self,
        config: RobotConfig,
        trainer: EdgeTrainer,
        uplink: Uplink,
        source: PacedSource,
        held_out: OpenSource | None,
        folder: RunFolder,
        stop: StopRequest,
        saved: tuple[Parts, dict[str, Any]] | None = None,
        teaching: Teaching | None = None,
        board: Board | None = None,
    ) -> None:
        """Get ready, from a checkpoint of the run where there is one.

        held_out: opens the source of frames to test on, each time anew; None where they are set apart. teaching: for a
        robot that is taught what it sees. board: of its page.
        Raises ConfigError where the run cannot go on from it, or is over.
        """
        self._config = config
        self._trainer = trainer
        self._uplink = uplink
        self._source = source
        self._folder = folder
        self._stop = stop
        self._notice = Notice(log)
        self._disk = folder.disk
        self._save_again_at = -math.inf  # after the disk did not take one
        self._kept_elsewhere: Path | None = None  # the last checkpoint, where the run's disk did not take it
        self._warned_of_labels = False
        self._camera_notice = Notice(log)
        self._batcher = Batcher(
            source=source,
            size=config.fresh_per_batch,
            image_size=config.network.image_size,
            held_out_every=0 if held_out else config.source.held_out_every,
            held_out=FrameMemory(HELD_OUT_FRAMES, config.network.image_size, config.seed, exact=True),
        )
        frames = FrameMemory.limit_of(config.learning.rehearsal_mb, config.network.image_size)
        memory = FrameMemory(frames, config.network.image_size, config.seed)
        self._knowledge = Knowledge(trainer, memory, self._batcher.held_out)
        self._held_out = HeldOutFrames(self._knowledge, uplink.outbox, held_out)
        self._figures = RunFigures(trainer, uplink, self._batcher)
        self._rate_control = RateControl(most=trainer.bits, least=min(config.network.least_bits, trainer.bits))
        self._next_metrics = 0.0
        self._phase = 0  # of the last batch
        self._practised = 0  # steps of the practice behind a replay
        self._has_settled = False
        self._tested_steps = -1  # taken when it was tested last
        # Frames up to here are in the outbox, or were: a killed process learned from them after its last checkpoint.
        self._sent_position = uplink.outbox.position
        self._resumed = saved is not None or self._sent_position > 0
        self._commands = Commands(
            teaching=teaching,
            source=source,
            classes=lambda: self._knowledge.classes,
            has_other=self._knowledge.has_other,
            edit=self._edit,
            edits=lambda: uplink.outbox.edits,
        )
        self._board = board
        self._posting = (
            Posting(
                board,
                figures=self._figures,
                uplink=uplink,
                knowledge=self._knowledge,
                source=source,
                teaching=teaching,
            )
            if board
            else None
        )
        self._take_up(saved)
        self._saved_steps = trainer.steps
        self._refuse_finished_run()
        folder.drop_summary()
        if self._resumed:
            log.info("going on with the run in %s, at %d images", folder.path, self._figures.images)

    def _take_up(self, saved: tuple[Parts, dict[str, Any]] | None) -> None:
        """Go on from a checkpoint, where there is one, and from what the outbox knows beyond it. Raises ConfigError."""
        outbox = self._uplink.outbox
        if saved:
            try:
                self._restore(*saved)
            except (KeyError, RuntimeError, ValueError) as error:
                raise checkpoint_error(self._folder.path, error) from error
            if outbox.is_new:
                self._knowledge.edits = 0
                log.warning(
                    "the outbox of this run is gone: what it held is lost, and the cloud may train twice on what was "
                    "sent after the last checkpoint; lessons of before can no longer be taken back in the cloud"
                )
        # A process that was killed right behind an edit had told the outbox of it, and no checkpoint yet.
        for payload in outbox.edits_after(self._knowledge.edits):
            self._apply(unpack_as(ClassEdit, payload))

    def inherit(self, former_run: Path) -> None:
        """Remember the frames of the run whose weights this one begins with. Raises ConfigError."""
        try:
            parts, about = load_checkpoint(former_run / "checkpoint")
            self._knowledge.inherit(parts, about)
            self._batcher.inherit(about["batcher"])
        except (KeyError, IndexError, *UNREADABLE) as error:
            raise ConfigError(f"--weights {former_run} is of another version: {error!r}") from error
        # Made before there was a checkpoint to hold what they did: these frames come from before them.
        for payload in self._uplink.outbox.edits_after(0):
            self._apply(unpack_as(ClassEdit, payload))
        kept = self._knowledge.rehearsal.counts()
        forgettable = [name for name in self._knowledge.classes if name not in kept]
        if forgettable:
            log.warning(
                "%s kept no frames to rehearse of %s: other lessons will make the robot forget them",
                former_run,
                ", ".join(forgettable),
            )

    def run(self) -> dict[str, Any]:
        """Go through the whole run, write down how it ended, and return its summary.

        Raises NameTaken and AccessDenied, and StorageError where the disk did not take all of it.
        """
        try:
            self.wait_for_trainer()
            if self._knowledge.inherited and not self._trainer.steps:
                self._test_so_far(in_the_cloud=False)  # it may have a new network
            self.train()
            self._settle()
            self.save()  # a test takes time, and whoever stopped the run may not wait for its end
            self.test()
        except (NameTaken, AccessDenied):
            self.save()  # and no summary: nobody would look for the error behind it
            raise
        except BaseException:
            self.save()  # what a step that broke off was to learn may be all that is new
            try:
                self.finish()
            except StorageError as error:
                log.error("%s", error)  # behind it comes what ended the run
            raise
        return self.finish()

    def wait_for_trainer(self) -> None:
        """Wait until activations can go out, unless the run began before. Raises NameTaken."""
        while not self._stop.made and not self._resumed:
            self._pump(timeout=0.2)
            if not self._uplink.waits_for:
                return
            self._notice.say(f"waiting for {self._uplink.waits_for}")

    def train(self) -> None:
        """Learn from the source until it ends or a stop is asked for."""
        begin = time.monotonic() - self._figures.seconds
        with RunProgress(self._source.length) as progress:
            while not self._stop.made and not self._batcher.ended:
                batch = self._batcher.next(SOURCE_SECONDS)
                if batch is not None:
                    self._test_former_phase(batch.phase)
                    self._learn(batch)
                    self._wait_for_room()
                self._pump()
                self._obey()
                self._figures.seconds = time.monotonic() - begin
                if batch is not None:
                    self._write_metrics()
                self._camera_notice.say(self._source.status)
                self._warn_of_labels()
                progress.show(self._batcher.frames_read, self._shown())
                self._notice.say(f"training goes on without {self._uplink.waits_for}" if self._uplink.waits_for else "")
                self._save_now_and_then()

    def test(self) -> None:
        """Predict the held-out frames here, and have the cloud predict them from their activations."""
        self._drain("activations")
        self._figures.begin_test()
        stopped_before = self._stop.made  # then the exit is tested all the same, as there is no other chance to
        with RunProgress(
            None if self._config.source.held_out else len(self._batcher.held_out), "frames tested"
        ) as progress:
            for batch in self._held_out.batches():
                if not self._trainer.classes or (self._stop.made and not stopped_before):
                    return
                predicted, quantized = self._trainer.evaluate(batch.images)
                self._figures.held_out.add(batch.names, predicted)
                progress.show(self._figures.held_out.count)
                if not self._stop.made:  # after Ctrl-C nothing waits for the cloud any more
                    self._uplink.send(quantized, batch.names, evaluation=self._figures.evaluation)
                    self._wait_for_room(always=True)
                self._pump()
        self._drain("held-out activations")
        self._wait_for_figures()

    def _test_former_phase(self, phase: int) -> None:
        """Where a phase begins, test what was learned in those before it."""
        if phase > self._phase and self._trainer.classes:
            self._test_so_far()
        self._phase = phase

    def _test_so_far(self, most: int = HELD_OUT_FRAMES, *, in_the_cloud: bool = True) -> None:
        """Predict held-out frames of the classes known by now, here and in the cloud.

        That has what came before them learned by then, whenever it is there; a live robot does not make it wait.
        """
        in_the_cloud = in_the_cloud and (self._uplink.trainer_online or not self._config.is_live)
        self._tested_steps = self._trainer.steps
        self._figures.begin_test()
        for batch in self._held_out.batches_of_known_classes(most):
            if self._stop.made:
                return
            predicted, quantized = self._trainer.evaluate(batch.images)
            self._figures.held_out.add(batch.names, predicted)
            if in_the_cloud:
                self._uplink.send(quantized, batch.names, evaluation=self._figures.evaluation)
                self._wait_for_room()
            self._pump()

    def _warn_of_labels(self) -> None:
        """Say early that no frame has had a label so far: a recording may take hours to its end."""
        read = self._batcher.frames_read
        if read >= FRAMES_WITHOUT_LABEL and self._batcher.unlabelled == read and not self._warned_of_labels:
            self._warned_of_labels = True
            log.warning(
                "none of the first %s frames has a label, and nothing is learned; %s", f"{read:,}", HOW_TO_LABEL
            )

    def _shown(self) -> list[str]:
        """Return what a person sees of the run, the most important first."""
        missing = ", ".join(self._disk.missing)
        return [*([f"DISK FULL: {missing} not written"] if missing else []), *self._figures.live_line()]

    def _save_now_and_then(self) -> None:
        due = self._trainer.steps - self._saved_steps >= self._config.learning.checkpoint_every
        if due and time.monotonic() >= self._save_again_at:
            self.save()
        self._disk.remind()

    def save(self) -> bool:
        """Write a checkpoint, if anything was learned. Return False where the disk does not take it."""
        if self._trainer.steps == 0:
            return True
        try:
            # In this order: a checkpoint that is ahead of the outbox would skip what the outbox has not got.
            if not self._uplink.outbox.sync(time.monotonic()):
                raise OSError(f"the outbox takes no more: {self._uplink.outbox.trouble}")
            save_checkpoint(self._folder.checkpoint, *self._state())
        except OSError as error:
            self._disk.failed(CHECKPOINT_NAME, error, ", training goes on without")
            self._save_again_at = time.monotonic() + RETRY_SECONDS
            return False
        self._saved_steps = self._trainer.steps
        self._disk.written(CHECKPOINT_NAME)
        return True

    def finish(self) -> dict[str, Any]:
        """Write checkpoint, summary and curves, show the summary, and return it.

        Raises StorageError where the disk did not take all of it: it says what is missing, and how to go on.
        """
        self._source.close()
        if self._trainer.steps != self._saved_steps:
            self._save_last()
        if not self._uplink.outbox.sync(time.monotonic()):
            self._disk.failed("outbox.db", self._uplink.outbox.trouble)
        summary = self._summary()
        self._uplink.publish_metrics(self._figures.message())
        print_summary(summary)
        self._folder.finish(summary)
        print_files(self._folder.path)
        if error := self._disk.error(self._how_to_go_on()):
            raise error
        return summary

    def _summary(self) -> dict[str, Any]:
        stopped, figures = self._stop.made, self._figures
        summary = figures.summary(interrupted=stopped)
        kept, tested = len(self._batcher.held_out), figures.held_out.count
        untested = "" if tested else why_untested(self._config, learned=figures.images > 0, kept=kept)
        evaluated = self._uplink.figures.evaluated if self._uplink.figures else None
        untested_by_cloud = untested or why_untested_by_cloud(tested=tested, evaluated=evaluated, stopped=stopped)
        return {
            **summary,
            "exit_accuracy_missing": untested or None,
            "cloud_accuracy_missing": untested_by_cloud if summary["cloud_accuracy"] is None else None,
            "metrics_lost": self._folder.lines_lost,
            "left_out": {one.kind: {"count": one.count, "first": one.example} for one in self._source.left_out},
            "source_reconnects": self._source.reconnects,
        }

    def _save_last(self) -> None:
        """Write the last checkpoint; where the disk does not take it, wait a while for room, then look elsewhere."""
        give_up = time.monotonic() + LAST_SAVE_SECONDS
        stopped_before = self._stop.made
        try:
            while not self.save():
                left = give_up - time.monotonic()
                if left <= 0 or (self._stop.made and not stopped_before):
                    break
                self._notice.say(
                    f"trying again for {LAST_SAVE_SECONDS:.0f} s to write the checkpoint; Ctrl-C ends that"
                )
                time.sleep(min(left, LAST_RETRY_SECONDS))
        except KeyboardInterrupt:  # whoever waits no longer still wants what was learned
            pass
        if self._trainer.steps != self._saved_steps:
            self._save_elsewhere()

    def _save_elsewhere(self) -> None:
        """Keep what was learned on another disk, if there is one with room, as a folder that --weights takes."""
        parts, about = self._state()
        size = sum(one.numel() * one.element_size() for named in parts.values() for one in named.values())
        try:
            place = other_place(self._folder.path, size, [Path(tempfile.gettempdir()), Path.home()])
            if place is None:
                return
            # For nobody else's eyes: it has frames in it.
            folder = Path(tempfile.mkdtemp(prefix=f"reflexarc-{self._config.robot}-", dir=place))
            save_checkpoint(folder / "checkpoint", parts, about)
            (folder / CONFIG).write_bytes((self._folder.path / CONFIG).read_bytes())
            self._kept_elsewhere = folder
        except (OSError, RuntimeError) as error:  # a home that nobody knows is a RuntimeError
            log.warning("what was learned cannot be kept elsewhere either: %s", error)

    def _how_to_go_on(self) -> str:
        lost = self._trainer.steps - self._saved_steps
        if self._kept_elsewhere:
            return (
                f"What was learned is in {self._kept_elsewhere} for now: start again with another --run-dir and "
                f"--weights {self._kept_elsewhere}"
            )
        if lost and (self._folder.checkpoint / CHECKPOINT).exists():
            return f"The checkpoint that is there lacks the last {lost:,} steps: the same --run-dir goes on from it"
        if lost:
            return f"Nothing of what was learned in {lost:,} steps is left"
        return f"What was learned is saved: the same --run-dir {self._folder.path} goes on from it"

    def _state(self) -> tuple[Parts, dict[str, Any]]:
        parts, about = self._trainer.state()
        rehearsal, about_rehearsal = self._knowledge.rehearsal.state()
        held_out, about_held_out = self._batcher.held_out.state()
        about_batcher, batcher = self._batcher.state()
        return checkpoint_parts(parts, rehearsal, held_out, batcher), {
            **about,
            "split": dataclasses.asdict(self._uplink.state.split),
            "compute": pack_compute(self._trainer.learner.compute),
            "rehearsal": about_rehearsal,
            "held_out": about_held_out,
            "batcher": about_batcher,
            "figures": self._figures.state(),
            "edits": self._knowledge.edits,
            "inherited": self._knowledge.inherited,
            "position": self._batcher.position,
            "phase": self._phase,
            "practised": self._practised,
            "settled": self._has_settled,
            "tested": self._tested_steps,
            "bits": self._trainer.bits,
        }

    def _restore(self, parts: Parts, about: dict[str, Any]) -> None:
        self._trainer.restore(parts, about)
        self._knowledge.rehearsal.restore(parts.get("rehearsal", {}), about["rehearsal"])
        self._batcher.held_out.restore(parts.get("held_out", {}), about["held_out"])
        self._batcher.restore(about["batcher"], {name: one.numpy() for name, one in parts["batcher"].items()})
        self._figures.restore(about["figures"])
        self._knowledge.edits, self._knowledge.inherited = about["edits"], about["inherited"]
        self._phase, self._practised, self._has_settled = about["phase"], about["practised"], about["settled"]
        self._tested_steps = about["tested"]
        self._rate_control.go_on(about["bits"])
        self._trainer.bits = self._rate_control.bits
        self._source.seek(about["position"])

    def _pump(self, timeout: float = 0.0) -> None:
        """Give the uplink its turn, and the page."""
        self._uplink.pump(timeout)
        if self._posting:
            self._posting.post(time.monotonic(), time.time())

    def _obey(self) -> None:
        """Do what people asked for since the last time."""
        while command := self._uplink.commands.take(0.0):
            self._answer(self._commands.obey(command))
        self._answer(self._commands.ended())

    def _answer(self, results: list[CommandResult]) -> None:
        for result in results:
            log.info("%s", result.text)
            self._uplink.answer_command(result)
            if self._board:
                self._board.tell(result)

    def _edit(self, change: Change, name: str, to: str, session: int) -> ClassEdit:
        edit = self._uplink.send_edit(change, name, to=to, session=session)
        self._apply(edit)
        self.save()
        return edit

    def _apply(self, edit: ClassEdit) -> None:
        self._figures.apply(edit)
        self._knowledge.apply(edit)
        self._batcher.apply(edit)

    def _refuse_finished_run(self) -> None:
        summary, length = self._folder.last_summary(), self._source.length
        if summary and not summary["interrupted"] and length is not None and self._source.position >= length:
            more = "" if self._config.source.phases else ", or show it more with larger --epochs or --images"
            raise ConfigError(
                f"the run in {self._folder.path} is over: choose another --run-dir, with --weights "
                f"{self._folder.path} to go on from what it learned{more}"
            )

    def _spare_the_link(self) -> None:
        """Take fewer bits for a value where the link cannot carry them, or more again."""
        uplink = self._uplink
        if uplink.waits_for:
            self._rate_control.pause()  # an outage is no reason: its queue will shrink
            return
        changed = self._rate_control.review(
            time.monotonic(),
            queued=len(uplink.outbox),
            behind=uplink.is_behind,
            made=uplink.outbox.bytes_made,
            capacity=uplink.capacity,
        )
        if changed:
            fewer = self._rate_control.bits < self._trainer.bits
            reason = "the link is behind" if fewer else "the link has room again"
            log.info("%s: values go up with %d bits from now on", reason, self._rate_control.bits)
            self._trainer.bits = self._rate_control.bits

    def _learn(self, batch: Batch) -> None:
        self._spare_the_link()
        fresh = len(batch.names)
        rehearsed = self._knowledge.rehearsal.draw(self._rehearsed_with(fresh))
        images = np.concatenate([batch.images, *(one.image[None] for one in rehearsed)])
        names = batch.names + [one.name for one in rehearsed]
        numbers = [self._knowledge.inherited + position for position in batch.positions]
        version = self._trainer.version  # of the segment that encodes them
        step = self._trainer.step(images, names, fresh=fresh, progress=self._progress)
        self._figures.add(step)
        sent = bisect_right(batch.positions, self._sent_position)
        if sent < fresh:
            self._send_again(step.quantized[fresh:], rehearsed, version)
            self._uplink.send(
                step.quantized[sent:fresh],
                batch.names[sent:],
                samples=numbers[sent:],
                position=self._batcher.position,
                progress=self._progress,
                edge_version=version,
                session=batch.session,
            )
        if self._config.rehearsed_per_fresh:
            for name, image, number in zip(batch.names, batch.images, numbers, strict=True):
                self._knowledge.rehearsal.add(name, image, batch.session, number)
        self._batcher.learned()

    def _send_again(self, quantized: Quantized, frames: list[KeptFrame], version: int) -> None:
        """Send frames that went up before as they are encoded now, unless the link has enough to do without."""
        if frames and self._config.learning.encode_anew and not self._uplink.is_behind:
            self._uplink.send(
                quantized,
                [one.name for one in frames],
                samples=[one.sample for one in frames],
                again=True,
                progress=self._progress,
                edge_version=version,
            )

    def _send_memory_again(self, most: int = FRAMES_SENT_AGAIN, *, patient: bool = False) -> bool:
        """Send what is remembered as it is encoded now, class-balanced, as much as is worth the link's time.

        patient: wait where the link falls behind, and return False where a stop was asked for meanwhile.
        """
        frames = self._knowledge.rehearsal.draw_one_by_one(most if self._config.learning.encode_anew else 0)
        while part := list(islice(frames, PREDICT_AT_ONCE)):
            if patient and (self._stop.made or (self._uplink.is_behind and not self._drain("activations"))):
                return False
            _, quantized = self._trainer.evaluate(np.stack([one.image for one in part]))
            self._send_again(quantized, part, self._trainer.version)
            self._pump()
        return True

    @property
    def _progress(self) -> float | None:
        """The progress that sets the learning rate; None, for a constant one, where classes come one after the other.

        A rate that falls over the whole run would leave nothing for the last ones.
        """
        return None if self._config.forgets else self._batcher.progress

    def _settle(self) -> None:
        """Where a replay ended on some of its classes: practise on all of them at a falling rate, then send them."""
        if not self._config.forgets or self._has_settled or self._stop.made:
            return
        if not self._practised and self._tested_steps != self._trainer.steps:  # else that was before a stop
            self._test_so_far()
        kept = len(self._knowledge.rehearsal)
        most = round(self._config.learning.practice * self._figures.images)
        # Frames of a former run took steps, too.
        learned = self._trainer.steps - self._practised + self._knowledge.inherited // self._config.fresh_per_batch
        steps = min(practice_steps(kept, self._config.learning.batch, learned), most) if kept else 0
        self._practise_up_to(steps)
        self.save()  # the cloud may not be there for hours
        # While the link is behind, nothing goes up again.
        if self._practised < steps or not self._drain("activations"):
            return  # the rest at the next start
        most = max(FRAMES_SENT_AGAIN, round(SHARE_SENT_AGAIN * self._figures.images))
        self._has_settled = self._send_memory_again(most, patient=True)

    def _practise_up_to(self, steps: int) -> None:
        """Take what is missing of so many steps on remembered frames alone, until a stop is asked for."""
        with RunProgress(steps, "steps of practice") as progress:
            while self._practised < steps and not self._stop.made:
                remembered = self._knowledge.rehearsal.draw(self._config.learning.batch)
                images, names = np.stack([one.image for one in remembered]), [one.name for one in remembered]
                falling = settling(self._practised, steps - self._practised)
                loss = self._trainer.step(images, names, fresh=0, progress=falling).loss
                self._practised += 1
                self._pump()
                progress.show(self._practised, [f"exit loss {loss:.2f}"])
                self._save_now_and_then()

    def _rehearsed_with(self, fresh: int) -> int:
        """Return how many frames are rehearsed in a step with so many fresh ones."""
        return round(fresh * self._config.rehearsed_per_fresh)

    def _wait_for_room(self, *, always: bool = False) -> None:
        """Hold a replay back while the outbox is full; with ``always``, whatever --when-full says."""
        outbox = self._uplink.outbox
        while outbox.full and (always or outbox.when_full == "block") and not self._stop.made:
            self._pump(timeout=0.2)
            missing = self._uplink.waits_for or "the cloud to catch up"
            reason = f"cannot be written ({outbox.trouble})" if outbox.trouble else f"is full; waiting for {missing}"
            self._notice.say(f"the outbox {reason}")

    def _drain(self, what: str) -> bool:
        """Wait until the cloud has taken all; return False where a stop was asked for."""
        total, figures = len(self._uplink.outbox), self._uplink.figures
        with RunProgress(total, f"messages of {what} taken by the cloud") as progress:
            while len(self._uplink.outbox) and not self._stop.made:
                self._pump(timeout=0.1)
                progress.show(total - len(self._uplink.outbox))
                if self._uplink.figures != figures:
                    figures = self._uplink.figures
                    self._write_metrics()
                missing = self._uplink.waits_for or self._uplink.quarantine or self._uplink.outbox.trouble
                self._notice.say(f"waiting for {missing} to take {what}; Ctrl-C ends without it" if missing else "")
        return not self._stop.made

    def _wait_for_figures(self) -> None:
        """Wait for the cloud to learn and test, as long as it gets on."""
        seen, deadline = None, time.monotonic() + FIGURES_SECONDS
        with RunProgress(None, "messages wait in the cloud") as progress:
            while not self._stop.made and not self._figures.cloud_is_through:
                self._pump(timeout=0.1)
                figures = self._uplink.figures
                if figures is not None and figures != seen:
                    seen, deadline = figures, time.monotonic() + FIGURES_SECONDS
                    progress.show(figures.messages_waiting)
                    self._write_metrics()
                missing = self._uplink.waits_for
                self._notice.say(f"waiting for {missing} to test; Ctrl-C ends without it" if missing else "")
                if missing:
                    deadline = time.monotonic() + FIGURES_SECONDS
                if time.monotonic() > deadline:
                    log.warning("no new figures came from the cloud within %.0f seconds", FIGURES_SECONDS)
                    return

    def _write_metrics(self) -> None:
        # A killed process has written lines of steps that are taken again.
        if self._figures.images >= self._folder.last_metrics.get("images", 0):
            self._folder.add_metrics(**self._figures.step_line())
        if time.monotonic() >= self._next_metrics:
            self._next_metrics = time.monotonic() + METRICS_SECONDS
            self._uplink.publish_metrics(self._figures.message())
