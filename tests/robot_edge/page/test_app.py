"""The robot's page in a browser, of a board that says what a test wants."""

from __future__ import annotations

import re
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
from tests.end_to_end.wcag import faults
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
        robot.tell("holds 12 frames held back until the front tells little: leak 0.34, line 0.20")
        held = page.locator(".rx-chip.warn")
        expect(held).to_have_text(
            "12 frames held back until the front tells little: leak 0.34, line 0.20", timeout=SLOW_MS
        )
        robot.tell("holds")
        expect(held).to_be_hidden(timeout=SLOW_MS)
        assert page.evaluate("window.hit") is None
        page.close()


def test_a_box_is_drawn_by_mouse_and_finger_written_and_cleared(chromium: Browser) -> None:
    with scene("robot") as robot:
        page = chromium.new_context(has_touch=True).new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(robot.url, wait_until="domcontentloaded")
        picture = page.locator(".rb-look svg")
        expect(picture).to_have_attribute("viewBox", "0 0 64 48", timeout=SLOW_MS)
        said, box = page.get_by_text("of the picture."), picture.locator("rect")
        expect(said).to_be_hidden()

        def point(across: float, down: float) -> tuple[float, float]:
            """Return where on the page that share of the frame is, which has 4:3 in an element that may be wider."""
            lies = picture.bounding_box()
            assert lies
            width = min(lies["width"], lies["height"] * 64 / 48)
            left, top = lies["x"] + (lies["width"] - width) / 2, lies["y"] + (lies["height"] - width * 48 / 64) / 2
            return left + across * width, top + down * width * 48 / 64

        def looks_at(left: int, top: int, width: int, height: int) -> None:
            robot.tell("obey")
            for name, value in (("x", left), ("y", top), ("width", width), ("height", height)):
                nearly = re.compile(rf"^({value - 1}|{value}|{value + 1})$")  # a mouse stands on whole pixels
                expect(picture.locator("path + rect")).to_have_attribute(name, nearly, timeout=SLOW_MS)
            expect(said).to_be_visible()

        page.mouse.move(*point(0.1, 0.1))
        page.mouse.down()  # who has not said so draws nothing, and a finger scrolls
        expect(box).to_have_count(0)
        page.mouse.up()
        page.get_by_role("button", name="Look at a part").click()
        page.mouse.move(*point(0.75, 0.75))
        page.mouse.down()
        page.mouse.move(*point(0.5, 0.5))
        expect(box).to_have_count(1)
        page.mouse.move(*point(0.25, 0.25))
        page.mouse.up()
        looks_at(16, 12, 32, 24)
        page.get_by_role("button", name="Look at a part").click()
        touch = page.context.new_cdp_session(page)
        for kind, place in (("touchStart", (0.5, 0.0)), ("touchMove", (0.8, 0.5)), ("touchMove", (1.3, 1.0))):
            across, down = point(*place)
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": across, "y": down}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        looks_at(32, 0, 32, 48)
        page.get_by_role("button", name="Look at a part").press("Enter")
        field = page.get_by_label("Left, top, width, height")
        field.fill("1,2,3")
        field.press("Enter")
        expect(page.get_by_text("'1,2,3' is no region: give left")).to_be_visible(timeout=SLOW_MS)
        field.fill("0%, 50%, 50%, 50%")
        field.press("Enter")
        looks_at(0, 24, 32, 24)
        expect(said).to_have_text("Looks at 0%,50%,50%,50% of the picture.")
        page.get_by_role("button", name="Look at all of it").press("Enter")
        robot.tell("obey")
        expect(box).to_have_count(0, timeout=SLOW_MS)
        expect(said).to_be_hidden()
        page.context.close()


def test_frames_are_named_several_at_once_and_taught_ones_removed_by_hand_and_by_keys(chromium: Browser) -> None:
    with scene("robot") as robot:
        page = chromium.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(robot.url, wait_until="domcontentloaded")
        card, told = page.locator(".rx-card", has_text="What is this?"), page.locator(".q-notification")
        expect(page.locator(".rb-one")).to_have_count(len(NAMES), timeout=SLOW_MS)
        expect(card).to_be_hidden()
        robot.tell("ask")
        frames = card.get_by_role("group", name="Frames to name").get_by_role("button")
        expect(frames).to_have_count(3, timeout=SLOW_MS)
        expect(frames.first).to_have_accessible_name(f"Frame 1: perhaps {NAMES[0]}, 40.0 % sure")
        page.wait_for_function("document.querySelectorAll('.rb-pick img')[2].naturalWidth == 32")

        card.get_by_role("button", name="Name", exact=True).click()
        expect(card.get_by_text("First tap the frames that show it.")).to_be_visible(timeout=SLOW_MS)
        frames.nth(0).click()
        frames.nth(1).press("Enter")
        frames.nth(2).press("Space")
        frames.nth(2).press("Space")
        expect(frames.nth(1)).to_have_attribute("aria-pressed", "true", timeout=SLOW_MS)
        expect(card.get_by_text("2 frames chosen")).to_be_visible(timeout=SLOW_MS)
        field = card.get_by_label("Name of the chosen frames")
        field.fill("x" * 65)
        field.press("Enter")
        expect(card.get_by_text("use 1 to 64 printable characters")).to_be_visible(timeout=SLOW_MS)
        assert faults(page) == []
        card.get_by_role("button", name=NAMES[2]).click()
        robot.tell("decide")
        expect(told.filter(has_text=f"learning 2 frames of {NAMES[2]!r}")).to_be_visible(timeout=SLOW_MS)
        expect(frames).to_have_count(1, timeout=SLOW_MS)
        frames.first.click()
        card.get_by_role("button", name="Dismiss").click()
        robot.tell("decide")
        expect(card).to_be_hidden(timeout=SLOW_MS)

        row = page.locator(".rb-one").first
        expect(row).to_contain_text("2 in doubt", timeout=SLOW_MS)
        row.get_by_label("More").click()
        page.get_by_role("menu").get_by_text("Frames in doubt", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Remove")).to_be_disabled(timeout=SLOW_MS)
        dialog.get_by_role("button", name="most like it").first.press("Enter")
        expect(dialog.get_by_role("button", name="Remove")).to_be_enabled(timeout=SLOW_MS)
        # For buttons in a dialog axe takes what lies behind the dialog as their background.
        assert [one for one in faults(page) if "color-contrast" not in one] == []
        dialog.get_by_role("button", name="Remove").click()
        robot.tell("decide")
        expect(row).to_contain_text("1 in doubt", timeout=SLOW_MS)
        assert page.evaluate("window.hit") is None
        page.close()
