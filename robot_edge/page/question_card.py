"""The card with frames that neither end is sure of: tapped, and named several at once, or dismissed."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui
from nicegui.element import Element

from broker.program.plain_text import counted
from hierarchy.runtime.page.look import percent
from robot_edge.page.picture_choice import Choose, Picture, PictureChoice
from robot_edge.teaching.questions import Question

# Classes that are a tap away: more would hide the pictures on a phone. The others are written.
MAX_CHIPS = 12


class QuestionCard:
    """Shows questions, and has them named. Where there are none, there is no card."""

    def __init__(self, card: Element, choose: Choose, *, most_typed: int) -> None:
        """Fill a card that is being built. most_typed: characters that a field takes."""
        self._card = card
        self._choose = choose
        self._names: list[str] = []
        self._about = ui.label("").classes("rx-soft")
        self._pictures = PictureChoice(self._count, label="Frames to name")
        with ui.element("div").classes("rb-naming"):
            self._chips = ui.element("div").classes("rx-row").props('role=group aria-label="Known classes"')
            self._input = ui.input(placeholder="What are they called?").props(
                f'outlined dense maxlength={most_typed} autocomplete="off" aria-label="Name of the chosen frames"'
            )
            self._input.on("keydown.enter", lambda: self._name(self._typed()))
            self._input.on_value_change(lambda: setattr(self._input, "error", None))
            with ui.element("div").classes("rx-row"):
                self._teach = ui.button("Name", icon="school", on_click=lambda: self._name(self._typed()))
                self._teach.props("unelevated")
                self._dismiss = ui.button("Dismiss", icon="close", on_click=self._let_go).props("flat")
        self._count()

    def show(self, questions: Sequence[Question], names: Sequence[str]) -> None:
        """Show the questions that are open. names: of the classes known."""
        self._card.set_visibility(bool(questions))
        self._pictures.show([Picture(number=one.number, mark=one.mark, about=_about(one, names)) for one in questions])
        guesses = dict.fromkeys(one.guess for one in questions if one.guess in names)
        shown = list(dict.fromkeys([*guesses, *names]))[:MAX_CHIPS]
        if shown != self._names:
            self._names = shown
            self._chips.clear()
            with self._chips:
                for name in shown:
                    ui.button(name, on_click=lambda name=name: self._name(name)).props("outline no-caps")
            self._count()

    def _count(self) -> None:
        count = len(self._pictures.chosen)
        self._about.set_text(
            f"{counted(count, 'frame')} chosen: say what the robot should call them."
            if count
            else "The robot is not sure of these. Tap those of one thing, then say what it is called."
        )
        self._dismiss.set_enabled(count > 0)

    def _typed(self) -> str:
        return str(self._input.value or "").strip()

    def _name(self, name: str) -> None:
        if not self._pictures.chosen:
            self._input.error = "First tap the frames that show it."
        elif not name:
            self._input.error = "First say what they are called."
        elif wrong := self._choose("name", self._pictures.chosen, name=name):
            self._input.error = wrong
        else:
            self._input.value = ""

    def _let_go(self) -> None:
        self._choose("dismiss", self._pictures.chosen)


def _about(one: Question, names: Sequence[str]) -> str:
    guess = f"perhaps {one.guess}, {percent(one.confidence)} sure" if one.guess in names else "nothing it knows"
    return f"Frame {one.number}: {guess}"
