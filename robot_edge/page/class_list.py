"""The classes on the robot's page, and what may be done to them. A row stays while it changes, with its menu open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from nicegui import ui

from broker.program.plain_text import counted
from broker.wire.messages import Action
from hierarchy.runtime.page.look import percent
from robot_edge.page.doubt_dialog import ask_about
from robot_edge.page.page_model import ClassRow, DoubtRow, FleetRow, Thumbnail
from robot_edge.page.picture_choice import Choose

# A page lists so many classes; more would be more than anybody scrolls through on a phone.
MAX_CLASSES = 200


class Give(Protocol):
    """Gives the robot a command."""

    def __call__(self, action: Action, *, name: str = "", to: str = "") -> None: ...


class ClassList:
    """A row for each class: picture, name, frames, accuracy, and a menu to rename, merge or forget it."""

    def __init__(self, give: Give, choose: Choose, *, most_typed: int) -> None:
        """Put the list where the page is being built. most_typed: characters that a field takes."""
        self._give = give
        self._choose = choose
        self._doubts: tuple[DoubtRow, ...] = ()
        self._most_typed = most_typed
        self._rows: dict[str, _Row] = {}
        self._names: list[str] = []
        self._fleet: FleetRow | None = None
        self._count = ui.label("").classes("rx-soft")
        self._box = ui.element("div").classes("rb-classes").props('tabindex=0 role=region aria-label="Classes"')
        # Not within the rows: what a menu holds goes when the menu closes, and what a row holds when its class does.
        self._dialogs = ui.element("div")

    def show(
        self,
        classes: tuple[ClassRow, ...],
        thumbnails: Mapping[str, Thumbnail],
        fleet: FleetRow | None = None,
        doubts: tuple[DoubtRow, ...] = (),
    ) -> None:
        """Show the classes as they are now. fleet: that the robot shares them with. doubts: taught frames in doubt."""
        self._fleet, self._doubts = fleet, doubts
        in_doubt = Counter(one.name for one in doubts)
        kept = sum(one.frames for one in classes)
        self._count.set_text(
            f"{counted(len(classes), 'class')}, {counted(kept, 'frame')} of them on the robot"
            if classes
            else "None yet: show the robot something, write what it is called, and press Teach."
        )
        classes = classes[:MAX_CLASSES]
        names = [one.name for one in classes]
        for gone in self._rows.keys() - set(names):
            self._rows.pop(gone).element.delete()
        for one in classes:
            if one.name not in self._rows:
                self._rows[one.name] = self._row(one.name)
            thumbnail = thumbnails.get(one.name)
            here_alone = fleet is not None and one.name in fleet.forgotten
            self._rows[one.name].show(
                one, thumbnail.mark if thumbnail else "", here_alone=here_alone, in_doubt=in_doubt[one.name]
            )
        if names != self._names:
            for place, name in enumerate(names):
                self._rows[name].element.move(self._box, place)
        self._names = names

    def _row(self, name: str) -> _Row:
        with self._box:
            return _Row(
                name,
                rename=lambda: self._ask_for_name(name),
                forget=lambda: self._ask_whether(name),
                doubt=lambda: self._ask_about(name),
            )

    def _ask_about(self, name: str) -> None:
        with self._dialogs:
            _open(ask_about(name, [one for one in self._doubts if one.name == name], self._choose))

    def _ask_for_name(self, old: str) -> None:
        with self._dialogs, ui.dialog() as dialog, ui.card().classes("rx-card").style("min-width: min(340px, 84vw)"):
            ui.label(f"Another name for {old!r}").style("font-weight: 600; overflow-wrap: anywhere")
            new = ui.input(value=old).props(
                f'outlined dense autofocus maxlength={self._most_typed} aria-label="New name"'
            )
            new.style("width: 100%")
            about = ui.label("").classes("rx-soft")

            def typed() -> str:
                return str(new.value or "").strip()

            def rename() -> None:
                if typed() and typed() != old:
                    dialog.close()
                    self._give("merge" if typed() in self._rows else "rename", name=old, to=typed())

            def explain() -> None:
                both = typed() in self._rows and typed() != old
                about.set_text(f"There is a class {typed()!r}: both become one." if both else "")
                button.set_text("Merge" if both else "Rename")
                button.set_enabled(typed() not in {"", old})

            with ui.element("div").classes("rx-row"):
                button = ui.button("Rename", on_click=rename).props("unelevated")
                ui.button("Cancel", on_click=dialog.close).props("flat")
            new.on_value_change(explain)
            new.on("keydown.enter", rename)
            explain()
        _open(dialog)

    def _ask_whether(self, name: str) -> None:
        with self._dialogs, ui.dialog() as dialog, ui.card().classes("rx-card").style("max-width: min(400px, 88vw)"):
            ui.label(f"Forget {name!r}?").style("font-weight: 600; overflow-wrap: anywhere")
            what = "The robot and the cloud give up what they know of it. It cannot be undone."
            if self._fleet:
                what = (
                    "Here: what this robot taught of it is given up. Everywhere: what all robots of its fleet taught "
                    "of it, too; they are told. It cannot be undone."
                )
            ui.label(what).classes("rx-soft")

            def forget(action: Action) -> None:
                dialog.close()
                self._give(action, name=name)

            with ui.element("div").classes("rx-row"):
                here = "Forget here" if self._fleet else "Forget"
                ui.button(here, on_click=lambda: forget("forget"), color="negative").props("unelevated")
                if self._fleet:
                    everywhere = ui.button("Forget everywhere", on_click=lambda: forget("forget-everywhere"))
                    everywhere.props("outline color=negative")
                ui.button("Cancel", on_click=dialog.close).props("flat")
        _open(dialog)


class _Row:
    """One class."""

    def __init__(
        self, name: str, *, rename: Callable[[], None], forget: Callable[[], None], doubt: Callable[[], None]
    ) -> None:
        self._mark = ""
        with ui.element("div").classes("rb-one") as self.element:
            self._picture = ui.element("img").classes("rb-thumb").props('alt="" loading="lazy"')
            with ui.element("div").classes("rb-about"):
                ui.label(name)
                self._about = ui.label("").classes("rx-soft")
            more = ui.button(icon="more_vert").props("flat round dense").style("color: var(--soft)")
            more.props["aria-label"] = f"More for {name}"
            with more, ui.menu():
                ui.menu_item("Rename or merge", rename)
                ui.menu_item("Forget", forget)
                self._doubt = ui.menu_item("Frames in doubt", doubt)

    def show(self, one: ClassRow, mark: str, *, here_alone: bool = False, in_doubt: int = 0) -> None:
        tested = "" if one.accuracy is None else f" · {percent(one.accuracy)} right"
        doubted = f" · {in_doubt} in doubt" if in_doubt else ""
        forgotten = " · forgotten by the fleet" if here_alone else ""
        self._about.set_text(f"{counted(one.frames, 'frame')}{tested}{doubted}{forgotten}")
        self._doubt.set_visibility(in_doubt > 0)
        if mark and mark != self._mark:
            self._mark = mark
            self._picture.props(f'src="/thumbnail/{mark}"')


def _open(dialog: ui.dialog) -> None:
    dialog.on("hide", dialog.delete)
    dialog.open()
