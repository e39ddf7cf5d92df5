"""Asks about taught frames of a class whose label is in doubt: which to forget, or whether all are right."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from robot_edge.page.page_model import DoubtRow
from robot_edge.page.picture_choice import Choose, Picture, PictureChoice
from robot_edge.teaching.choices import ChoiceAction


def ask_about(name: str, doubts: Sequence[DoubtRow], choose: Choose) -> ui.dialog:
    """Return a dialog about frames that were taught as a class, built where the page is being built."""
    with ui.dialog() as dialog, ui.card().classes("rx-card").style("width: min(460px, 92vw)"):
        dialog.props["aria-label"] = f"Frames of {name!r} in doubt"
        ui.label(f"Taught as {name!r}, and in doubt").style("font-weight: 600; overflow-wrap: anywhere")

        def changed() -> None:
            remove.set_enabled(bool(pictures.chosen))

        def decide(action: ChoiceAction, numbers: Sequence[int]) -> None:
            dialog.close()
            choose(action, numbers)

        pictures = PictureChoice(changed, label="Taught frames in doubt")
        pictures.show(
            [Picture(number=one.number, mark=one.thumbnail.mark, about=one.why, is_said=True) for one in doubts]
        )
        ui.label(
            "Tap what shows something else. The robot forgets what is removed. The cloud forgets it with its lesson or "
            "its class."
        ).classes("rx-soft")
        with ui.element("div").classes("rx-row"):
            remove = ui.button("Remove", on_click=lambda: decide("remove", pictures.chosen), color="negative")
            remove.props("unelevated")
            ui.button("All are right", on_click=lambda: decide("keep", [one.number for one in doubts])).props("flat")
            ui.button("Cancel", on_click=dialog.close).props("flat")
        changed()
    return dialog
