"""How both pages look: one grid of cards, figures large enough to read from where the robot is, dark and light."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.label import Label

from hierarchy.runtime.page.history import Point

CSS = """
:root { --back: #f3f5f7; --card: #ffffff; --line: #dde3e9; --text: #1b2631; --soft: #55636f; --main: #0b7a75;
  --good: #1a7c43; --warn: #955a00; --bad: #b3362e; --cloud: #4a63c8; --fill: #e9edf1; }
.body--dark { --back: #0f151b; --card: #172028; --line: #27333d; --text: #e4ebf1; --soft: #95a3b0; --main: #3bbab2;
  --good: #4cc27d; --warn: #e2a33d; --bad: #f0766e; --cloud: #8fa4ff; --fill: #22303a; }
body, body.body--dark { background: var(--back); color: var(--text); }
.nicegui-content { padding: 16px; gap: 16px; max-width: 1240px; margin: 0 auto; align-items: stretch; }
.rx-head { display: flex; align-items: center; gap: 12px; flex-wrap: wrap; width: 100%; min-height: 40px; }
.rx-name { font-size: 20px; line-height: 1.3; font-weight: 600; overflow-wrap: anywhere; margin: 0; }
.rx-space { flex: 1; }
.rx-grid { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 16px; width: 100%; }
.rx-card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; display: flex;
  flex-direction: column; gap: 12px; min-width: 0; }
.rx-4 { grid-column: span 4; } .rx-5 { grid-column: span 5; } .rx-6 { grid-column: span 6; }
.rx-7 { grid-column: span 7; } .rx-8 { grid-column: span 8; } .rx-12 { grid-column: span 12; }
.rx-column { display: flex; flex-direction: column; gap: 16px; min-width: 0; }
.rx-column > .rx-card:last-child { flex: 1; }
.rx-title { margin: 0; line-height: 1.4; font-size: 13px; font-weight: 600; color: var(--soft); letter-spacing: .02em; }
.rx-row { display: flex; align-items: center; gap: 12px; flex-wrap: wrap; }
.rx-soft { color: var(--soft); font-size: 13px; }
.rx-figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: 14px 16px; width: 100%; }
.rx-figure { min-width: 0; display: flex; flex-direction: column; gap: 2px; }
.rx-figure b { font-size: 21px; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.rx-figure span { font-size: 12px; color: var(--soft); }
.rx-chip { display: inline-flex; align-items: center; gap: 7px; padding: 4px 11px; border-radius: 999px;
  background: var(--fill); font-size: 13px; max-width: 100%; overflow-wrap: anywhere; }
.rx-chip::before { content: ''; width: 8px; height: 8px; border-radius: 50%; background: var(--soft); flex: none; }
.rx-chip.good::before { background: var(--good); } .rx-chip.warn::before { background: var(--warn); }
.rx-chip.bad::before { background: var(--bad); }
.rx-chart { height: 210px; width: 100%; }
svg text[fill="#8593a0"] { fill: var(--soft) !important; }
.rx-old, .rx-old * { color: var(--soft) !important; font-weight: 400 !important; }
.rx-chart.rx-old { filter: grayscale(1); }
.rx-link { font: inherit; color: inherit; background: none; border: 0; padding: 4px 0; text-align: left;
  cursor: pointer; text-decoration: underline; text-underline-offset: 3px; overflow-wrap: anywhere; }
:focus-visible, .q-btn:focus-visible, .q-field--focused .q-field__control { outline: 3px solid var(--main) !important;
  outline-offset: 2px; }
.rx-table { width: 100%; overflow-x: auto; }
.rx-table table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
.rx-table th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12px; padding: 4px 10px 6px 0; }
.rx-table td { padding: 7px 10px 7px 0; border-top: 1px solid var(--line); vertical-align: middle; }
.body--dark { --q-primary: #3bbab2 !important; --q-negative: #f0766e !important; }
.body--dark .q-btn.text-white, .body--dark .q-btn.text-white * { color: #0f151b !important; }
.body--dark .q-btn.bg-primary { background: #3bbab2 !important; }
.body--dark .q-btn.bg-negative { background: #f0766e !important; }
.body--dark .q-btn.text-primary, .body--dark .q-btn.text-primary * { color: #3bbab2 !important; }
.q-btn { text-transform: none; border-radius: 8px; font-weight: 500; }
.q-field--outlined .q-field__control { border-radius: 8px; }
.q-loading-bar { display: none; }
.q-notification { border-radius: 10px; max-width: min(92vw, 480px); }
.q-notification__message { overflow-wrap: anywhere; }
#popup { left: 50%; right: auto; transform: translateX(-50%); margin: 16px 0; padding: 12px 20px; gap: 2px;
  width: max-content; max-width: 92vw; text-align: center; border: 1px solid var(--bad); border-radius: 10px;
  background: var(--card); color: var(--text); overflow-wrap: anywhere; }
#popup > span::before { content: none !important; }
.nicegui-content { transition: opacity .5s, filter .5s; }
body:has(#popup[aria-hidden="false"]) .nicegui-content { opacity: .4; filter: grayscale(1); transition-delay: 2s; }
@media (max-width: 860px) {
  .nicegui-content { padding: 12px; gap: 12px; } .rx-grid, .rx-column { gap: 12px; } .rx-card { padding: 14px; }
  .rx-4, .rx-5, .rx-6, .rx-7, .rx-8 { grid-column: span 12; }
}
"""

# Says who is away while the connection is lost. NiceGUI tries again and again, but where its program has forgotten a
# login only a page that is loaded anew can ask for the password.
AWAY = """
document.addEventListener('DOMContentLoaded', () => {
  const popup = document.getElementById('popup');
  popup.children[0].textContent = document.title.split(' · ')[0] + ' is away';
  popup.children[1].textContent = 'What stands here is old. It comes back by itself.';
  setInterval(async () => {
    if (popup.ariaHidden !== 'false') return;
    try { if ((await fetch('/login', {cache: 'no-store'})).status === 401) location.reload(); } catch (error) {}
  }, 3000);
});
"""

# In both modes readable on the card behind it.
EDGE_COLOUR, CLOUD_COLOUR, AXIS_COLOUR = "#12a59b", "#6f86ea", "#8593a0"
PRODUCT = "Reflexarc"
MODES = {None: "brightness_auto", True: "dark_mode", False: "light_mode"}


def page_title(name: str) -> str:
    """Return a page's title: among many tabs both whose it is and what it is can be seen."""
    return f"{name} · {PRODUCT}"


def heading(text: str, level: int) -> Label:
    """Show a heading, which people who hear a page find their way by. level: from 1."""
    label = ui.label(text).classes("rx-name" if level == 1 else "rx-title")
    label.props(f"role=heading aria-level={level}")
    return label


def begin_page(name: str) -> None:
    """Set up colours and styles, and let them follow the system until somebody chooses.

    Until the page is connected it cannot be used: what is clicked or typed would be lost without a word.
    """
    client = ui.context.client
    client.content.props("inert")
    client.on_connect(lambda: client.content.props(remove="inert"))
    ui.colors(primary="#0b7a75", secondary="#4a63c8", positive="#1a7c43", negative="#b3362e", warning="#955a00")
    ui.add_css(CSS)
    ui.add_head_html(f"<script>{AWAY}</script>")
    ui.page_title(page_title(name))


def mode_button() -> None:
    """Show a button that goes from the system's mode to dark, light, and back."""
    dark = ui.dark_mode(None)

    def turn() -> None:
        order = list(MODES)
        dark.value = order[(order.index(dark.value) + 1) % len(order)]
        button.props(f"icon={MODES[dark.value]}")

    button = ui.button(icon=MODES[None], on_click=turn).props('flat round dense aria-label="Dark or light"')
    button.style("color: var(--soft)")


@contextmanager
def card(title: str, columns: int) -> Iterator[Element]:
    """Lay out a card, so many of the grid's twelve columns wide; on a phone all of them."""
    with ui.element("section").classes(f"rx-card rx-{columns}") as box:
        if title:
            heading(title, 2)
        yield box


def mark_old(element: Element, old: bool) -> None:
    """Show an element in grey where what it says is of before, and no more in grey where it is not."""
    element.classes(add="rx-old" if old else None, remove=None if old else "rx-old")


class Figures:
    """Figures side by side, each with what it is below it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._values: dict[str, Label] = {}
        with ui.element("div").classes("rx-figures"):
            for name in names:
                with ui.element("div").classes("rx-figure"):
                    with ui.element("b"):
                        self._values[name] = ui.label("-")
                    with ui.element("span"):
                        ui.label(name)

    def show(self, **values: str) -> None:
        """Set figures, named as at the start with _ for a blank."""
        for name, value in values.items():
            self._values[name.replace("_", " ")].set_text(value)

    def mark_old(self, names: Collection[str]) -> None:
        """Show the figures of these names in grey, as they are of before, and the others not."""
        for name, label in self._values.items():
            mark_old(label, name in names)


class Chip:
    """A short text with a dot whose colour says how it is: good, warn, bad, or none of them."""

    def __init__(self) -> None:
        self._label = ui.label("").classes("rx-chip")
        self._mood = ""

    def show(self, text: str, mood: str = "") -> None:
        """Say so; an empty text hides it."""
        self._label.set_text(text)
        self._label.set_visibility(bool(text))
        if mood != self._mood:
            self._label.classes(add=mood or None, remove=self._mood or None)
            self._mood = mood


class Curves:
    """A chart of values over time, in both colours: the robot's and the cloud's."""

    def __init__(self, names: Sequence[str], *, about: str, empty: str, percent: bool = False) -> None:
        """about: what is drawn, for who cannot see it. empty: what to do for there to be something to draw."""
        colours = (EDGE_COLOUR, CLOUD_COLOUR)
        label = {"color": AXIS_COLOUR, "fontSize": 11}
        line = {"lineStyle": {"color": AXIS_COLOUR, "opacity": 0.25}}
        times = {**label, "hideOverlap": True, "showMinLabel": False, "showMaxLabel": False}
        value: dict[str, Any] = {"type": "value", "axisLabel": label, "splitLine": line, "splitNumber": 4}
        if percent:
            value |= {"min": 0, "max": 100, "interval": 25, "axisLabel": {**label, "formatter": "{value} %"}}
        options = {
            "animation": False,
            "grid": {"left": 8, "right": 14, "top": 30, "bottom": 4, "containLabel": True},
            "legend": {"top": 0, "left": 0, "icon": "roundRect", "itemWidth": 12, "itemHeight": 4, "textStyle": label},
            "tooltip": {"trigger": "axis", "confine": True},
            "xAxis": {
                "type": "time",
                "axisLabel": times,
                "splitLine": {"show": False},
            },
            "yAxis": value,
            "series": [
                {"type": "line", "name": name, "showSymbol": False, "data": [], "color": colour, "connectNulls": True}
                for name, colour in zip(names, colours, strict=False)
            ],
        }
        self._scale = 100.0 if percent else 1.0
        self._shown: tuple[Point, ...] = ()
        self._empty = ui.label(empty).classes("rx-soft")
        self._chart = ui.echart(options, renderer="svg").classes("rx-chart").props("role=img")
        self._chart.props["aria-label"] = about
        self._chart.set_visibility(False)

    def show(self, points: tuple[Point, ...], first: int, *, old: bool = False) -> None:
        """Draw the points' values from the one with that index on, in grey where they are of before.

        Draws nothing where they are those shown already.
        """
        mark_old(self._chart, old)
        if points == self._shown:
            return
        self._shown = points
        every = self._chart.options["series"]
        drawn = [(when, values[first : first + len(every)]) for when, values in points]
        # Not the time before there was anything to draw, which may be most of it.
        drawn = list(itertools.dropwhile(lambda point: set(point[1]) <= {None}, drawn))
        self._empty.set_visibility(not drawn)
        self._chart.set_visibility(bool(drawn))
        for index, series in enumerate(every):
            values = ((when, each[index]) for when, each in drawn)
            series["data"] = [
                [round(when * 1000), None if value is None else round(value * self._scale, 3)] for when, value in values
            ]
        self._chart.update()


class Table:
    """Rows of text, updated in place.

    choose: hears of the index of a row that somebody clicks.
    """

    def __init__(self, columns: Sequence[str], *, about: str, choose: Callable[[int], None] | None = None) -> None:
        """about: what it lists. On a narrow screen it scrolls by itself, by keys too, and the page does not."""
        self._choose = choose
        self._rows: list[list[Label]] = []
        with ui.element("div").classes("rx-table").props("tabindex=0 role=region") as box:
            box.props["aria-label"] = about
            with ui.element("table"):
                with ui.element("thead"), ui.element("tr"):
                    for column in columns:
                        with ui.element("th"):
                            ui.label(column)
                self._body = ui.element("tbody")
            self._nothing = ui.label("").classes("rx-soft")

    def show(self, rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
        """Show these rows, or a text where there are none."""
        self._nothing.set_text("" if rows else empty)
        if len(rows) != len(self._rows):
            self._body.clear()
            with self._body:
                self._rows = [self._make(index, len(row)) for index, row in enumerate(rows)]
        for labels, row in zip(self._rows, rows, strict=True):
            for label, text in zip(labels, row, strict=True):
                label.set_text(text)

    def _make(self, index: int, columns: int) -> list[Label]:
        labels: list[Label] = []
        with ui.element("tr") as line:
            for column in range(columns):
                with ui.element("td"), self._found_by_keys(column):
                    labels.append(ui.label(""))
        if choose := self._choose:
            line.on("click", lambda: choose(index)).style("cursor: pointer")
        return labels

    def _found_by_keys(self, column: int) -> AbstractContextManager[object]:
        """Return what a row's first text stands in, where rows can be chosen: a button, whose click is the row's."""
        return ui.element("button").classes("rx-link") if self._choose and not column else nullcontext()


def percent(share: float | None) -> str:
    """Return a share of 1 as people read it."""
    return "-" if share is None else f"{100 * share:.0f} %" if share >= 0.9995 else f"{100 * share:.1f} %"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number as people read it."""
    return "-" if value is None else f"{value:,.{digits}f}"


def size(count: float | None) -> str:
    """Return bytes as people read them."""
    if count is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
