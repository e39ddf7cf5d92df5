"""The trainer's page in a browser, of a board that says what a test wants."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from cloud_trainer.page.app import MATRIX_COLOURS, MATRIX_TEXT
from tests.end_to_end.wcag import faults
from tests.page_scene import NAMES, scene

pytestmark = pytest.mark.slow

SLOW_MS = 60_000


def test_names_are_text_rows_are_chosen_by_keys_and_what_is_old_is_grey(chromium: Browser) -> None:
    with scene("trainer") as trainer:
        page = chromium.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(trainer.url, wait_until="domcontentloaded")
        expect(page.get_by_text("No robot yet. Start one").first).to_be_visible(timeout=SLOW_MS)
        assert page.title() == "t1 · Reflexarc"
        assert faults(page) == []

        expect(page.get_by_label("Fleets")).to_be_hidden()
        trainer.tell("two robots")
        r2 = page.get_by_role("button", name="r2")
        expect(r2).to_be_visible(timeout=SLOW_MS)
        expect(page.locator(".rx-chart.rx-old")).to_have_count(0)
        expect(page.get_by_label("Fleets").get_by_text("r1, r2")).to_be_visible(timeout=SLOW_MS)
        r2.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="r2")).to_be_visible(timeout=SLOW_MS)
        expect(page.locator(".rx-chart.rx-old")).to_have_count(2)
        for name in NAMES:
            expect(page.locator("svg text", has_text=name).first).to_be_visible(timeout=SLOW_MS)
        matrix = page.get_by_label("Confusion matrix of held-out frames")
        matrix.hover()  # its tooltip has names, too
        assert faults(page) == []
        assert page.evaluate("window.hit") is None
        page.close()


def test_a_cluster_lists_its_processes_and_robots_and_has_all_of_them_for_prometheus(chromium: Browser) -> None:
    with scene("cluster") as cluster:
        page = chromium.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(cluster.url, wait_until="domcontentloaded")
        expect(page.get_by_text("No robot yet. Start one").first).to_be_visible(timeout=SLOW_MS)
        cluster.tell("robots")
        robots = page.get_by_label("Robots").locator("tbody tr")
        expect(robots).to_have_count(200, timeout=SLOW_MS)
        expect(robots.nth(0)).to_contain_text(NAMES[0])
        expect(robots.nth(1)).to_contain_text("r7")
        expect(robots.nth(1)).to_contain_text("t1-0")
        expect(page.get_by_label("Processes").get_by_text("12.5")).to_be_visible()
        expect(page.get_by_text("4 more are in /metrics")).to_be_visible()
        assert faults(page) == []
        assert page.evaluate("window.hit") is None
        answer = page.request.get(f"{cluster.url}/metrics")
        assert answer.text().count("reflexarc_robot_online{") == 204
        page.close()


def test_a_number_in_the_matrix_can_be_read_on_every_colour() -> None:
    for colour in MATRIX_COLOURS:
        bright, dark = sorted(map(luminance, (colour, MATRIX_TEXT)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 4.5


def luminance(colour: str) -> float:
    """Return a colour's relative luminance, as WCAG defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
