"""Whether a page can be used by everybody: WCAG 2.2 AA as far as axe-core can tell, which needs no network."""

from __future__ import annotations

import importlib.resources
from typing import Any

from playwright.sync_api import Page, ViewportSize

AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
DESK: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


def faults(page: Page, most_rows: int = 20) -> list[str]:
    """Return what is wrong with a page, light and dark, on a desk and on a phone.

    most_rows: of a table that are looked at. With hundreds axe takes so long that the page loses its connection.
    """
    before = page.viewport_size
    found = []
    for mode in ("light", "dark"):
        for size in (DESK, PHONE):
            page.emulate_media(color_scheme=mode, reduced_motion="reduce")
            page.set_viewport_size(size)
            page.wait_for_function(
                "mode => !window.Quasar || document.body.classList.contains('body--' + mode)", arg=mode
            )
            page.wait_for_selector("h1, [role=heading][aria-level='1']")  # while it is drawn anew there is none
            page.wait_for_function("document.getAnimations().every(one => one.playState !== 'running')")
            found += [f"{mode}, {size['width']} wide: {one}" for one in _violations(page, most_rows)]
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{mode}, {size['width']} wide: it scrolls sideways")
    if before:
        page.set_viewport_size(before)
    return found


def _violations(page: Page, most_rows: int) -> list[str]:
    page.evaluate(AXE)
    result: dict[str, Any] = page.evaluate(
        "([rules, rest]) => axe.run({exclude: document.querySelector(rest) ? [[rest]] : []},"
        " {runOnly: rules, resultTypes: ['violations']})",
        [RULES, f"tbody tr:nth-child(n + {most_rows + 1})"],
    )
    return [
        f"{violation['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]
