"""What a run says and hears: uplink, commands and answers, page, metrics, terminal; and the one way to wait."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console

from broker.wire.messages import Command, CommandResult
from hierarchy.runtime.command_line import Notice, StopRequest
from hierarchy.runtime.progress import RunProgress
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.fleet.exits import FleetExits
from robot_edge.page.page_model import PageModel
from robot_edge.run.page_publisher import PagePublisher
from robot_edge.run.run_metrics import RunMetrics
from robot_edge.run.tracked import RunTracking
from robot_edge.teaching.choices import Choices
from robot_edge.teaching.commands import Commands
from robot_edge.uplink.home_assistant import HomeAssistant
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink

# Between two metrics messages.
METRICS_SECONDS = 1.0
# A robot that learns nothing tells them so seldom: a trainer whose broker lost the fleet's exit must know which version
# is here, as robots take later ones only, and a Home Assistant that has just started knows no accuracy.
IDLE_SECONDS = 30.0
# How long to listen to the broker before looking whether there is still something to wait for.
WAIT_SECONDS = 0.1

log = logging.getLogger("robot-edge")


@dataclass(kw_only=True, eq=False)
class Talk:
    """Speaks for a run to the cloud, to pages and to the terminal.

    choices: does what people choose on the page of a live robot; None for none. fleet: exits of the robot's fleet,
    which are fetched meanwhile; None for none. console: where progress is shown; the terminal's for None. notice: what
    is said once. jobs: what other threads want done on this one, between two steps.
    """

    stop: StopRequest
    folder: RunFolder
    metrics: RunMetrics
    uplink: Uplink
    outbox: Outbox
    commands: Commands
    page_model: PageModel | None
    publisher: PagePublisher | None
    choices: Choices | None
    tracking: RunTracking | None
    home_assistant: HomeAssistant | None
    fleet: FleetExits | None
    console: Console | None
    notice: Notice = field(default_factory=lambda: Notice(log))
    jobs: queue.SimpleQueue[Callable[[], object]] = field(default_factory=queue.SimpleQueue)
    _next_metrics: float = 0.0

    def pump(self, timeout: float = 0.0) -> None:
        """Give the uplink its turn, waiting up to so many seconds for a message, the page and trackers."""
        self.uplink.pump(timeout)
        if self.fleet:
            self.fleet.turn()
        if self.home_assistant:
            self.home_assistant.turn()
        is_listened_to = self.home_assistant or (self.fleet and self.fleet.status.version)
        if is_listened_to and time.monotonic() >= self._next_metrics + IDLE_SECONDS:
            self._tell_metrics()
        if self.publisher:
            self.publisher.post(time.monotonic(), time.time())
        if self.tracking:
            self.tracking.post(time.monotonic())

    def obey(self) -> None:
        """Do what people asked for since the last time."""
        while command := self.uplink.commands.take(0.0):
            self.give(command)
        while self.choices and self.page_model and (choice := self.page_model.choices.take(0.0)):
            self._answer([self.choices.obey(choice)])
        self._answer(self.commands.ended())
        for _ in range(self.jobs.qsize()):
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:  # a job that trains obeys, too, and has done those behind it
                break
            job()

    def give(self, command: Command) -> list[CommandResult]:
        """Do what a command says, and return what there is to say of it."""
        results = self.commands.obey(command)
        self._answer(results)
        return results

    def write_metrics(self) -> None:
        """Add a line to metrics.jsonl, and tell others now and then."""
        # A killed process has written lines of steps that are taken again.
        if self.metrics.images >= self.folder.last_metrics.get("images", 0):
            self.folder.add_metrics(**self.metrics.step_line())
        if time.monotonic() >= self._next_metrics:
            self._tell_metrics()

    def _tell_metrics(self) -> None:
        self._next_metrics = time.monotonic() + METRICS_SECONDS
        self.uplink.publish_metrics(self.metrics.message())

    def progress(self, total: int | None, unit: str = "images") -> RunProgress:
        """Return what shows how far something is."""
        return RunProgress(total, unit, console=self.console)

    def shown(self) -> list[str]:
        """Return what a person sees of the run, the most important first."""
        missing = ", ".join(self.folder.disk.missing)
        return [*([f"DISK FULL: {missing} not written"] if missing else []), *self.metrics.live_line()]

    def wait_until(
        self, condition: Callable[[], bool], say: Callable[[], str], show: Callable[[], object] = lambda: None
    ) -> bool:
        """Talk until the condition holds. Return False where a stop was asked for.

        say: returns what is waited for, empty for nothing to say. show: called in each turn.
        """
        while not self.stop.made and not condition():
            self.pump(WAIT_SECONDS)
            show()
            self.notice.say(say())
        return not self.stop.made

    def wait_for_room(self, *, always: bool = False) -> None:
        """Hold a replay back while the outbox is full; with ``always``, whatever --when-full says."""
        outbox = self.outbox

        def why() -> str:
            missing = self.uplink.waits_for or "the cloud to catch up"
            reason = f"cannot be written ({outbox.trouble})" if outbox.trouble else f"is full; waiting for {missing}"
            return f"the outbox {reason}"

        if always or outbox.when_full == "block":
            self.wait_until(lambda: not outbox.full, why)

    def drain(self, what: str) -> bool:
        """Wait until the cloud has taken all; return False where a stop was asked for."""
        outbox, uplink, total = self.outbox, self.uplink, len(self.outbox)

        def why() -> str:
            missing = uplink.waits_for or uplink.quarantine or outbox.trouble
            return f"waiting for {missing} to take {what}; Ctrl-C ends without it" if missing else ""

        with self.progress(total, f"messages of {what} taken by the cloud") as progress:
            on_news = self.on_news()

            def show() -> None:
                progress.show(total - len(outbox))
                on_news()

            return self.wait_until(lambda: not len(outbox), why, show)

    def on_news(self) -> Callable[[], bool]:
        """Return what tells whether the cloud has said anything new, and then writes metrics."""
        seen = self.uplink.cloud_metrics

        def look() -> bool:
            nonlocal seen
            is_new, seen = self.uplink.cloud_metrics != seen, self.uplink.cloud_metrics
            if is_new:
                self.write_metrics()
            return is_new

        return look

    def _answer(self, results: list[CommandResult]) -> None:
        for result in results:
            log.info("%s", result.text)
            self.uplink.answer_command(result)
            if self.page_model:
                self.page_model.tell(result)
