"""The part of the picture that the robot looks at: shown on it, drawn with mouse or finger, or written."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui
from nicegui.events import GenericEventArguments

from broker.errors import ConfigError
from robot_edge.learning.framing import LEAST_PERCENT, WHOLE, Framing, Region, parse_region

CSS = """
.rb-look, .rb-look svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.rb-look path { fill: #0f151b; fill-opacity: .55; fill-rule: evenodd; }
.rb-look rect { fill: none; stroke: #3bbab2; stroke-width: 2; vector-effect: non-scaling-stroke; }
.rb-choosing svg { pointer-events: auto; cursor: crosshair; touch-action: none; }
.rb-where { width: 100%; }
"""

# The whole document listens: the picture's box is made anew where the camera's size or the region changes. A viewBox of
# the frame's size lies on it as `object-fit: contain` does, so the browser knows where on the frame a finger is.
DRAW = """
(() => {
  let finger = null, svg = null, from = null, before = '';
  const share = (value, most) => Math.round(10000 * Math.min(1, Math.max(0, value / most))) / 100;
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const {width, height} = svg.viewBox.baseVal;
    return [share(point.x, width), share(point.y, height)]; };
  const box = (event) => { const to = at(event);
    return [0, 1].map((side) => Math.min(from[side], to[side])).concat(
      [0, 1].map((side) => Math.abs(from[side] - to[side]))); };
  const end = () => { finger = null; if (svg) svg.innerHTML = before; };
  document.addEventListener('pointerdown', (event) => {
    const one = event.target instanceof Element ? event.target.closest('.rb-choosing svg') : null;
    if (finger !== null || event.button > 0 || !one) return;
    svg = one; finger = event.pointerId; before = svg.innerHTML; from = at(event);
    event.preventDefault(); try { svg.setPointerCapture(finger); } catch (error) {} });
  document.addEventListener('pointermove', (event) => {
    if (event.pointerId !== finger) return;
    const [left, top, width, height] = box(event);
    svg.innerHTML = `<rect x="${left}%" y="${top}%" width="${width}%" height="${height}%"/>`; });
  document.addEventListener('pointerup', (event) => {
    if (event.pointerId !== finger) return;
    const drawn = box(event); end();
    if (Math.min(drawn[2], drawn[3]) >= LEAST) emitEvent('look', drawn); });
  document.addEventListener('pointercancel', (event) => { if (event.pointerId === finger) end(); });
})();
""".replace("LEAST", f"{LEAST_PERCENT:g}")


class RegionBox:
    """A box on the picture, what is not seen darker, and beside it what chooses another box or clears it."""

    def __init__(self, look: Callable[[Region], None]) -> None:
        """look: asks the robot to look there."""
        self._look = look
        self._shown: tuple[Framing, int, int] | None = None
        self._choosing = False

    def on_picture(self) -> None:
        """Put the box where the picture is being built."""
        self._box = ui.html("", sanitize=False).classes("rb-look").props('aria-hidden="true"')

    def controls(self) -> None:
        """Put buttons and field where the page is being built."""
        with ui.element("div").classes("rx-row"):
            self._choose = ui.button("Look at a part", icon="crop_free", on_click=self._turn).props("flat dense")
            self._clear = ui.button("Look at all of it", icon="zoom_out_map", on_click=lambda: self._ask(WHOLE))
            self._clear.props("flat dense")
            self._said = ui.label("").classes("rx-soft")
        with ui.element("div").classes("rb-where") as self._where:
            self._field = ui.input(placeholder="25%,10%,50%,80%").props(
                'outlined dense maxlength=60 autocomplete="off" aria-label="Left, top, width, height"'
            )
            self._field.on("keydown.enter", self._written)
            self._field.on("keydown.escape", self._turn)
            self._field.on_value_change(lambda: setattr(self._field, "error", None))
            ui.label("Draw a box on the picture. Or write left, top, width and height, and press Enter.").classes(
                "rx-soft"
            )
        ui.on("look", self._drawn)
        self._show_choosing()

    def show(self, framing: Framing, width: int, height: int) -> None:
        """Show what the network sees of a picture of that many pixels."""
        if (framing, width, height) == self._shown:
            return
        self._shown = framing, width, height
        region, whole = framing.region, framing.region == WHOLE
        left, top, right, bottom = framing.seen(width, height)
        drawn = f'<path d="M0 0H{width}V{height}H0Z M{left} {top}H{right}V{bottom}H{left}Z"/>'
        if not whole:
            left, top, right, bottom = region.box(width, height)
            drawn += f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'
        self._box.set_content(f'<svg viewBox="0 0 {width} {height}">{drawn}</svg>')
        self._said.set_text("" if whole else f"Looks at {region} of the picture.")
        self._clear.set_visibility(not whole)

    def _turn(self) -> None:
        self._choosing = not self._choosing
        self._show_choosing()

    def _show_choosing(self) -> None:
        self._where.set_visibility(self._choosing)
        self._box.classes(
            add="rb-choosing" if self._choosing else None, remove=None if self._choosing else "rb-choosing"
        )
        self._choose.props(f"aria-expanded={str(self._choosing).lower()}")
        self._choose.set_text("Leave it as it is" if self._choosing else "Look at a part")

    def _drawn(self, event: GenericEventArguments) -> None:
        try:
            left, top, width, height = (float(one) for one in event.args)
            self._ask(Region(left, top, width, height))
        except (ConfigError, TypeError, ValueError) as error:  # a browser may send what it likes
            ui.notify(str(error)[:200], type="warning")

    def _written(self) -> None:
        try:
            self._ask(parse_region(str(self._field.value or "")))
        except ConfigError as error:
            self._field.error = str(error)

    def _ask(self, region: Region) -> None:
        self._look(region)
        self._field.value = ""
        self._choosing = False
        self._show_choosing()
