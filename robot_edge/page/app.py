"""The robot's page, for a phone as well as for a desk: what it sees, and whoever is there may teach it.

Everything here runs on the page's thread. It reads the page model, and puts commands into it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Collection
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from nicegui import ui
from nicegui.events import GenericEventArguments

from broker.errors import MalformedMessage
from broker.program.plain_text import counted
from broker.wire.messages import Action
from hierarchy.runtime.page.look import (
    Chip,
    Curves,
    Figures,
    begin_page,
    card,
    heading,
    mark_old,
    mode_button,
    number,
    page_title,
    percent,
    size,
)
from hierarchy.runtime.page.server import PageServer
from robot_edge.page.class_list import ClassList
from robot_edge.page.page_model import OwnResults, PageModel, PageState, new_id
from robot_edge.page.pictures import Encoder, jpeg
from robot_edge.page.question_card import QuestionCard
from robot_edge.page.region_box import CSS as BOX_CSS
from robot_edge.page.region_box import DRAW, RegionBox
from robot_edge.page.style import CSS, HOLD
from robot_edge.page.viewers import MAX_VIEWERS, Viewers
from robot_edge.teaching.choices import ChoiceAction

# Of the live view.
FRAMES_PER_SECOND = 15.0
# Characters that a field takes. More than a name may have: a long one is refused, not cut to another.
MAX_TYPED = 1000
# Between two looks at the page model: of what changes all the time, and of figures and curves.
QUICK_SECONDS, SLOW_SECONDS = 0.25, 1.0
# A page whose picture has ended asks for it again after so long. Shorter, and a slow network would never bring it.
AGAIN_SECONDS = 5.0
# A button that is held says so twice a second. Where nothing comes for so long, whoever held it is gone.
HELD_SECONDS = 3.0
# How long one may choose to teach; the second is chosen at first.
TEACH_SECONDS = (5, 10, 20, 60)

ENDS = ["exit, on the robot", "cloud"]
NO_CURVE = "Nothing learned yet: teach a class, or wait for the first step."

BOUNDARY = "frame"
NO_STORE = {"Cache-Control": "no-store"}
# JPEG does not shrink further: compressing it costs time, and holds frames back.
AS_IT_IS = {**NO_STORE, "Content-Encoding": "identity"}


def build(app: FastAPI, page_model: PageModel, server: PageServer) -> None:
    """Add the page and its routes."""
    encoder = Encoder()
    viewers = Viewers()

    @app.get("/live.mjpeg")
    async def live(viewer: str = "") -> StreamingResponse:
        frames = _frames(page_model, encoder, viewers, viewer or new_id(), server)
        media = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return StreamingResponse(frames, media_type=media, headers=AS_IT_IS)

    @app.get("/sees.json")
    async def sees() -> JSONResponse:
        return JSONResponse(seen_now(page_model), headers=NO_STORE)

    @app.get("/thumbnail/{mark}")
    async def thumbnail(mark: str) -> Response:
        image = page_model.picture(mark)
        if image is None:
            return Response(status_code=404)
        return Response(await asyncio.to_thread(jpeg, image, quality=90), media_type="image/jpeg")

    ui.page("/", title=page_title(page_model.robot))(functools.partial(_Page, page_model, viewers))


def seen_now(page_model: PageModel) -> dict[str, Any]:
    """Return what the robot takes the newest frame for, as JSON.

    name: empty where nothing fits. stale: no picture has come for too long; age: of the last one, in seconds.
    """
    view = page_model.next_view(0, 0.0) if page_model.next_view else None
    if view is None:
        return {"seen": False}
    decision = view.decision
    return {
        "seen": True,
        "name": decision.name,
        "confidence": decision.confidence,
        "stale": view.stale,
        "age": time.monotonic() - view.seen_at,
        "by": decision.by,
        "latency": decision.latency,
    }


async def _frames(
    page_model: PageModel, encoder: Encoder, viewers: Viewers, viewer: str, server: PageServer
) -> AsyncIterator[bytes]:
    """Yield a multipart stream. A browser shows a part when the next one begins, so that is said at once."""
    shown = 0
    view = viewers.begin(viewer)
    try:
        yield f"--{BOUNDARY}\r\n".encode()
        while viewers.has(viewer, view) and not server.ending.is_set():
            seen = page_model.next_view(shown, 0.0) if page_model.next_view else None
            if seen is not None:
                shown = seen.number
                picture = await asyncio.to_thread(encoder.encoded, seen)
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + f"\r\n--{BOUNDARY}\r\n".encode()
            await asyncio.sleep(1 / FRAMES_PER_SECOND)
    finally:  # whoever leaves frees the place
        viewers.end(viewer, view)


class _Page:
    """One open page."""

    def __init__(self, page_model: PageModel, viewers: Viewers) -> None:
        self._page_model = page_model
        self._viewers = viewers
        self._viewer = new_id()
        self._asked_for_view = time.monotonic()
        self._results = OwnResults(page_model)
        self._region = RegionBox(lambda region: self._give("look", region=str(region)))
        self._hold_id = ""
        self._taught: dict[str, str] = {}  # names by the ids of lessons that this page has asked for
        begin_page(page_model.robot)
        ui.add_css(CSS + BOX_CSS)
        ui.add_head_html(f"<script>{HOLD}{DRAW}</script>")
        self._header()
        with ui.element("div").classes("rx-grid"):
            with card("", 7):
                self._live_view()
            with ui.element("div").classes("rx-column rx-5"):
                with card("Teach", 12):
                    self._teaching()
                with card("Classes", 12):
                    self._classes = ClassList(self._give, self._choose, most_typed=MAX_TYPED)
                    self._fleet()
            with card("What is this?", 12) as asked:
                self._questions = QuestionCard(asked, self._choose, most_typed=MAX_TYPED)
            with card("Now", 12):
                self._figures = Figures(
                    ["exit accuracy", "cloud accuracy", "frames learned", "images/s", "bytes/image", "link", "queued"]
                )
            with card("Loss", 6):
                self._losses = Curves(ENDS, about="Loss over time", empty=NO_CURVE)
            with card("Accuracy before learning", 6):
                self._accuracies = Curves(ENDS, about="Accuracy over time", empty=NO_CURVE, percent=True)
        self._quick()
        self._slow()
        ui.timer(QUICK_SECONDS, self._quick)
        ui.timer(SLOW_SECONDS, self._slow)
        # After a cut in the network the picture would stand still, for the rest goes on with another connection.
        ui.context.client.on_connect(self._ask_for_view)

    def _fleet(self) -> None:
        with ui.element("div").classes("rb-fleet") as self._fleet_box:
            self._fleet_text = ui.label("").mark("fleet")
            self._fleet_button = ui.button("", on_click=self._use_other).props("flat dense")

    def _use_other(self) -> None:
        fleet = self._page_model.state.fleet
        if fleet:
            self._give("use-fleet" if fleet.use == "own" else "use-own")

    def _show_fleet(self, state: PageState) -> None:
        self._fleet_box.set_visibility(state.fleet is not None)
        if state.fleet:
            text = state.fleet.text
            self._fleet_text.set_text(text[:1].upper() + text[1:])
            self._fleet_button.set_text(
                "Use the fleet's exit" if state.fleet.use == "own" else "Use its own exit alone"
            )

    def _header(self) -> None:
        with ui.element("header").classes("rx-head"):
            heading(self._page_model.robot, 1)
            self._trainer = Chip()
            self._trouble = Chip()
            self._held_back = Chip()
            ui.element("div").classes("rx-space")
            mode_button()

    def _live_view(self) -> None:
        with ui.element("div").classes("rb-view"):
            if self._page_model.next_view:
                self._view = ui.element("img").props('alt="What the camera sees"')
                self._region.on_picture()
            self._crowd = ui.label(
                f"{MAX_VIEWERS} others look at once: the picture comes back when one of them leaves."
            )
            self._crowd.classes("rb-none")
            self._nothing = ui.label("").classes("rb-none")
        if self._page_model.next_view:
            self._region.controls()
        with ui.element("div").classes("rb-answer") as self._answer:
            self._name = ui.label("").classes("rb-class").mark("answer")
            self._by = ui.label("").classes("rx-soft")
        with ui.element("div").classes("rb-bar"):
            self._bar = ui.element("i")

    def _teaching(self) -> None:
        with ui.element("div").classes("rb-what"):
            self._input = ui.input(placeholder="What is it called?").props(
                f'outlined dense maxlength={MAX_TYPED} autocomplete="off" aria-label="Class name"'
            )
            self._input.on("keydown.enter", self._teach)
            lengths = {seconds: f"{seconds} s" for seconds in TEACH_SECONDS}
            self._input.on_value_change(lambda: setattr(self._input, "error", None))
            self._seconds = ui.select(lengths, value=TEACH_SECONDS[1]).props('outlined dense aria-label="How long"')
        with ui.element("div").classes("rb-how"):
            ui.button("Teach", icon="school", on_click=self._teach).props("unelevated")
            ui.button("Hold to teach", icon="touch_app").props("outline").classes("rb-hold")
        with ui.element("div").classes("rb-lesson") as self._lesson_box:
            self._lesson = ui.label("")
            with ui.element("div").classes("rx-row"):
                self._lesson_left = ui.label("").classes("rx-soft")
                ui.element("div").classes("rx-space")
                ui.button("Stop", on_click=lambda: self._give("stop")).props("flat dense")
        ui.label("Turn it, move it nearer and further. What looks like a frame before is left out.").classes("rx-soft")
        with ui.element("div").classes("rx-row"):
            self._undo = ui.button("Undo", icon="undo", on_click=lambda: self._give("undo")).props("flat dense")
            self._pause = ui.button("Pause", icon="pause", on_click=self._turn_pause).props("flat dense")
            self._step = ui.button("Step", icon="skip_next", on_click=lambda: self._give("step")).props("flat dense")
        ui.on("hold", self._held)

    # What people do

    def _give(
        self,
        action: Action,
        *,
        name: str = "",
        to: str = "",
        seconds: float = 0.0,
        region: str = "",
        id_: str = "",
    ) -> None:
        try:
            given = self._page_model.give(action, name=name, to=to, seconds=seconds, region=region, id_=id_)
        except MalformedMessage as error:
            if action == "teach":
                self._input.error = str(error)
            else:
                ui.notify(str(error), type="warning")
        else:
            self._results.expect(given)
            if action == "teach":
                self._taught = {given: name}

    def _choose(self, action: ChoiceAction, numbers: Collection[int], *, name: str = "") -> str:
        try:
            self._results.expect(self._page_model.choose(action, numbers, name=name))
        except MalformedMessage as error:
            return str(error)
        return ""

    def _teach(self) -> None:
        if name := self._named():
            self._give("teach", name=name, seconds=float(self._seconds.value))

    def _held(self, event: GenericEventArguments) -> None:
        if event.args is True:
            if name := self._named(quiet=bool(self._hold_id)):
                self._hold_id = self._hold_id or new_id()
                self._give("teach", name=name, seconds=HELD_SECONDS, id_=self._hold_id)
        elif self._hold_id:
            self._hold_id = ""
            lesson = self._page_model.state.lesson
            if lesson is None or lesson.name == self._typed():  # else it is somebody else's
                self._give("stop")

    def _named(self, *, quiet: bool = False) -> str:
        name = self._typed()
        if not name and not quiet:
            self._input.error = "First say what it is called."
        return name

    def _typed(self) -> str:
        return str(self._input.value or "").strip()

    def _turn_pause(self) -> None:
        self._give("resume" if self._page_model.state.paused else "pause")

    # What people see

    def _quick(self) -> None:
        state, seen = self._page_model.state, seen_now(self._page_model)
        for result in self._results.new():
            if result.text and not (self._hold_id and not result.done):
                ui.notify(result.text, type="positive" if result.ok else "warning")
            if result.done and result.ok and self._taught.pop(result.id, None) == self._typed():
                self._input.value = ""  # the next lesson is of something else
        stale = seen.get("stale", False)
        # Of a frame that is old nothing is said: what was there may have gone.
        self._nothing.set_text("" if seen["seen"] and not stale else self._why_nothing(state))
        self._nothing.set_visibility(not seen["seen"] or stale)
        mark_old(self._answer, stale)
        if stale:
            self._name.set_text("nothing seen now")
            self._by.set_text(f"the last picture came {seen['age']:.0f} s ago")
        elif seen["seen"]:
            # With one class everything would be that: there is nothing to compare with, but for remembered frames.
            incomparable = len(state.classes) == 1 and not seen["confidence"]
            alone = f"only {state.classes[0].name} is known" if incomparable else ""
            self._name.set_text(alone or seen["name"] or "nothing it knows")
            ends = {"exit": "the robot", "cloud": "the cloud"}
            sure = "teach it another class to compare with" if alone else f"{percent(seen['confidence'])} sure"
            self._by.set_text(f"{sure} · answered by {ends[seen['by']]} · {1000 * seen['latency']:.0f} ms")
        self._bar.style(f"width: {100 * (0.0 if stale else seen.get('confidence', 0.0)):.0f}%")
        self._show_region(state)
        self._show_lesson(state)
        self._show_questions(state)
        self._undo.set_text(f"Undo {state.undoable!r}" if len(state.undoable) in range(1, 17) else "Undo")
        self._undo.set_enabled(bool(state.undoable))
        self._pause.set_text("Go on" if state.paused else "Pause")
        self._pause.props(f"icon={'play_arrow' if state.paused else 'pause'}")
        self._step.set_visibility(state.paused)

    def _ask_for_view(self) -> None:
        if self._page_model.next_view:
            self._asked_for_view = time.monotonic()
            self._view.props(f'src="/live.mjpeg?viewer={self._viewer}&since={self._asked_for_view:.1f}"')

    def _keep_view(self) -> None:
        """Have the picture come back where it has ended: when there is a place, unless it is being asked for."""
        waits = self._viewer not in self._viewers and time.monotonic() > self._asked_for_view + AGAIN_SECONDS
        self._crowd.set_visibility(waits and self._viewers.full)
        if waits and not self._viewers.full:
            self._ask_for_view()

    def _why_nothing(self, state: PageState) -> str:
        if not state.live:
            return "This robot replays a recording, which has its own labels. Start it with --live to teach it."
        return state.camera or "Nothing seen yet."

    def _show_region(self, state: PageState) -> None:
        view = self._page_model.next_view(0, 0.0) if self._page_model.next_view else None
        # A region in pixels is one in percent from the first frame on.
        if view and state.framing and state.framing.region.in_percent:
            height, width, _ = view.frame.image.shape
            self._region.show(state.framing, width, height)

    def _show_lesson(self, state: PageState) -> None:
        lesson = state.lesson
        self._lesson_box.set_visibility(lesson is not None)
        if lesson:
            self._lesson.set_text(f"This is {lesson.name!r}: {counted(lesson.frames, 'frame')}")
            self._lesson_left.set_text(f"{lesson.seconds_left:.0f} s left")

    def _show_questions(self, state: PageState) -> None:
        asked = self._page_model.questions
        self._questions.show(asked.open if asked else (), [one.name for one in state.classes])

    def _slow(self) -> None:
        state = self._page_model.state
        if self._page_model.next_view:
            self._keep_view()
        self._trainer.show("trainer there" if state.trainer_online else "trainer away", "good" * state.trainer_online)
        trouble = state.outbox or state.quarantine or ("" if state.paused else state.camera)
        self._trouble.show("paused" if state.paused and not trouble else trouble[:120], "bad" if trouble else "warn")
        self._held_back.show(state.held_back, "warn")
        self._figures.show(
            exit_accuracy=percent(state.exit_accuracy),
            cloud_accuracy=percent(state.cloud_accuracy),
            frames_learned=number(state.images),
            **{
                "images/s": number(state.images_per_second, 1 if state.images_per_second < 10 else 0),
                "bytes/image": number(state.bytes_per_image),
            },
            link="away" if state.link else "up" if state.goodput is None else f"{size(state.goodput)}/s",
            queued=number(state.queued) + (f" ({state.dropped:,} dropped)" if state.dropped else ""),
        )
        self._figures.mark_old([] if state.trainer_online and not state.link else ["cloud accuracy"])
        self._losses.show(state.history, 0)
        self._accuracies.show(state.history, 2)
        self._classes.show(state.classes, self._page_model.thumbnails, state.fleet, self._page_model.doubts)
        self._show_fleet(state)
