"""The robot's page in a browser, of a board that says what a test wants."""

from __future__ import annotations

import time

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from broker.link.mailbox import Mailbox
from robot_edge.inference.cascade import Decision, nothing_seen
from robot_edge.inference.seeing_thread import View
from robot_edge.page.app import seen_now
from robot_edge.page.page_model import PageModel
from robot_edge.sources.frames import Frame
from tests.page_scene import NAMES, scene

pytestmark = pytest.mark.slow

FRAME = Frame(image=np.zeros((48, 64, 3), np.uint8), label=None, scene=0, time=0.0)
SLOW_MS = 60_000
MUG = Decision(name="mug", confidence=1.0, by="exit", taken_at=0.0, latency=0.001)


def test_what_a_camera_saw_before_it_was_lost_is_said_to_be_of_before() -> None:
    now = time.monotonic()
    page_model = PageModel(robot="r1", commands=Mailbox(8))
    page_model.next_view = lambda number, timeout: View(FRAME, nothing_seen(now), number + 1, now - 40, stale=True)
    seen = seen_now(page_model)
    assert seen["stale"]
    assert not seen["name"]
    assert 39 < seen["age"] < 60
    page_model.next_view = lambda number, timeout: View(FRAME, MUG, number + 1, now)
    assert not seen_now(page_model)["stale"]


def test_names_are_text_and_a_lost_camera_says_so(chromium: Browser) -> None:
    with scene("robot") as robot:
        page = chromium.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(robot.url, wait_until="domcontentloaded")
        expect(page.locator(".rb-one .rb-about div:first-child")).to_have_text(list(NAMES), timeout=SLOW_MS)
        assert page.title() == "r1 · Reflexarc"
        assert page.locator("html").get_attribute("lang") == "en-US"
        expect(page.locator(".rb-class")).to_have_text("mug", timeout=SLOW_MS)
        page.get_by_label(f"More for {NAMES[0]}").click()
        page.get_by_role("menu").get_by_text("Rename or merge", exact=True).click()
        expect(page.get_by_text("Another name for")).to_be_visible(timeout=SLOW_MS)
        robot.tell("stale")
        expect(page.locator(".rb-class")).to_have_text("nothing seen now", timeout=SLOW_MS)
        expect(page.locator(".rb-answer")).to_contain_text("the last picture came 4")
        expect(page.locator(".rb-answer.rx-old")).to_have_count(1)
        expect(page.locator(".rb-view")).to_contain_text("reconnecting to camera 0")
        robot.tell("seen")
        expect(page.locator(".rb-class")).to_have_text("mug", timeout=SLOW_MS)
        expect(page.locator(".rb-answer.rx-old")).to_have_count(0)
        assert page.evaluate("window.hit") is None
        page.close()
