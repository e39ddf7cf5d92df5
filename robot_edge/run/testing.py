"""What tests a run: held-out frames on the way, where a phase ends, and at the end, here and in the cloud."""

from __future__ import annotations

import logging
import time

from hierarchy.runtime.command_line import StopRequest
from robot_edge.learning.held_out import HELD_OUT_FRAMES, HeldOutFrames
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.run.edge_learning import Learning
from robot_edge.run.talk import Talk
from robot_edge.uplink.uplink import Uplink

# How long the cloud may go without new figures while the robot waits for those of the last evaluation.
FIGURES_SECONDS = 60.0

log = logging.getLogger("robot-edge")


class Testing:
    """Predicts frames that are never learned from, and has the cloud predict them from their activations."""

    __test__ = False  # no tests of pytest's

    def __init__(
        self,
        config: RobotConfig,
        state: RunState,
        learning: Learning,
        held_out: HeldOutFrames,
        uplink: Uplink,
        talk: Talk,
        stop: StopRequest,
    ) -> None:
        self.held_out = held_out
        self._config = config
        self._state = state
        self._learning = learning
        self._uplink = uplink
        self._talk = talk
        self._stop = stop

    def phase_begins(self, phase: int) -> None:
        """Where that is another phase, test what was learned in those before it."""
        if phase > self._state.phase and self._state.trainer.classes:
            self.test_so_far()
        self._state.phase = phase

    def test_so_far(self, most: int = HELD_OUT_FRAMES, *, in_the_cloud: bool = True) -> None:
        """Predict held-out frames of the classes known by now, here and in the cloud.

        That has what came before them learned by then, whenever it is there; a live robot does not make it wait.
        """
        state, talk = self._state, self._talk
        in_the_cloud = (
            in_the_cloud and state.may_send and (self._uplink.presence.trainer_online or not self._config.is_live)
        )
        state.tested = state.trainer.steps
        state.metrics.begin_test()
        for batch in self.held_out.batches_of_known_classes(most):
            if self._stop.made:
                return
            predicted, quantized = self._learning.test(batch)
            state.metrics.held_out.add(batch.names, predicted)
            if in_the_cloud:
                self._uplink.send(quantized, batch.names, evaluation=state.metrics.evaluation)
                talk.wait_for_room()
            talk.pump()

    def test_all(self) -> None:
        """Predict all held-out frames here, have the cloud predict them, and wait for what it says."""
        state, talk, metrics = self._state, self._talk, self._state.metrics
        talk.drain("activations")
        metrics.begin_test()
        stopped_before = self._stop.made  # then the exit is tested all the same, as there is no other chance to
        total = None if self._config.source.held_out else len(state.batcher.held_out)
        with talk.progress(total, "frames tested") as progress:
            for batch in self.held_out.batches():
                if not state.trainer.classes or (self._stop.made and not stopped_before):
                    return
                predicted, quantized = self._learning.test(batch)
                metrics.held_out.add(batch.names, predicted)
                progress.show(metrics.held_out.count)
                if not self._stop.made and state.may_send:  # after Ctrl-C nothing waits for the cloud any more
                    self._uplink.send(quantized, batch.names, evaluation=metrics.evaluation)
                    talk.wait_for_room(always=True)
                talk.pump()
        if not state.may_send:
            return  # nothing went up, so the cloud will say nothing
        talk.drain("held-out activations")
        self._wait_for_figures()

    def _wait_for_figures(self) -> None:
        """Wait for the cloud to learn and test, as long as it gets on."""
        metrics, uplink, has_news = self._state.metrics, self._uplink, self._talk.on_news()
        deadline = time.monotonic() + FIGURES_SECONDS

        def why() -> str:
            missing = uplink.waits_for
            return f"waiting for {missing} to test; Ctrl-C ends without it" if missing else ""

        with self._talk.progress(None, "messages wait in the cloud") as progress:

            def show() -> None:
                nonlocal deadline
                if has_news() and uplink.cloud_metrics:
                    progress.show(uplink.cloud_metrics.messages_waiting)
                elif not uplink.waits_for:
                    return
                deadline = time.monotonic() + FIGURES_SECONDS

            self._talk.wait_until(lambda: metrics.cloud_is_through or time.monotonic() > deadline, why, show)
        if not self._stop.made and not metrics.cloud_is_through:
            log.warning("no new figures came from the cloud within %.0f seconds", FIGURES_SECONDS)
