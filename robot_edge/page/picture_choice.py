"""Pictures of which several are chosen, with one tap each. They are buttons, so keys and screen readers choose, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from nicegui import ui
from nicegui.element import Element

from robot_edge.teaching.choices import ChoiceAction


class Choose(Protocol):
    """Has something done with pictures; returns what is wrong with the name, empty for nothing."""

    def __call__(self, action: ChoiceAction, numbers: Collection[int], *, name: str = "") -> str: ...


@dataclass(frozen=True, kw_only=True)
class Picture:
    """number: that it is chosen by. mark: stands for it in URLs. about: what there is to say of it.

    is_said: whether that stands beside the picture; else it is for those alone who cannot see the picture.
    """

    number: int
    mark: str
    about: str
    is_said: bool = False


class PictureChoice:
    """A strip of pictures. chosen: numbers of those that are chosen, in the order in which that was done."""

    def __init__(self, changed: Callable[[], object], *, label: str) -> None:
        """Put the strip where the page is being built. changed: called when another choice was made."""
        self._changed = changed
        self._buttons: dict[int, Element] = {}
        self._chosen: dict[int, None] = {}
        self._box = ui.element("div").classes("rb-strip").props("role=group")
        self._box.props["aria-label"] = label

    @property
    def chosen(self) -> tuple[int, ...]:
        return tuple(self._chosen)

    def show(self, pictures: Sequence[Picture]) -> None:
        """Show these pictures, and what stays of those that were shown as it is."""
        numbers = {one.number for one in pictures}
        for gone in self._buttons.keys() - numbers:
            self._buttons.pop(gone).delete()
        for one in pictures:
            if one.number not in self._buttons:
                self._buttons[one.number] = self._button(one)
            elif self._buttons[one.number].props.get("aria-label") != one.about:
                self._buttons[one.number].props["aria-label"] = one.about
                self._buttons[one.number].update()
        if self._chosen.keys() - numbers:
            self._chosen = {number: None for number in self._chosen if number in numbers}
            self._changed()

    def _button(self, one: Picture) -> Element:
        with self._box, ui.element("button").classes("rb-pick").props("type=button aria-pressed=false") as button:
            ui.element("img").props(f'src="/thumbnail/{one.mark}" alt=""')
            if one.is_said:
                button.classes("rb-said")
                ui.label(one.about)
        button.props["aria-label"] = one.about
        button.on("click", lambda: self._turn(one.number))
        return button

    def _turn(self, number: int) -> None:
        if number not in self._buttons:  # it went while it was tapped
            return
        if number in self._chosen:
            del self._chosen[number]
        else:
            self._chosen[number] = None
        self._buttons[number].props(f"aria-pressed={'true' if number in self._chosen else 'false'}")
        self._changed()
