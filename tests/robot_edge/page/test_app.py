"""The robot's page in a browser, of a board that says what a test wants."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from broker.mailbox import Mailbox
from hierarchy.page.options import PageOptions
from hierarchy.page.server import PageServer
from robot_edge.cascade import Decision, nothing_seen
from robot_edge.frames import Frame
from robot_edge.page.app import build, seen_now
from robot_edge.page.board import Board, ClassRow, PageState, Thumbnail
from robot_edge.seeing import View

# What would run as a script, or be taken for markup, wherever a name is no text.
NAMES = (
    "<img src=x onerror=window.hit=1>",
    "</script><script>window.hit=1</script>",
    "{b}{@[2]} $x^$",
    "a\" b='c'",
    "כוס",
)
FRAME = Frame(image=np.zeros((48, 64, 3), np.uint8), label=None, scene=0, time=0.0)
SLOW_MS = 60_000
MUG = Decision(name="mug", confidence=1.0, by="exit", taken_at=0.0, latency=0.001)


def view(number: int, *, stale: bool) -> View:
    now = time.monotonic()
    return View(FRAME, nothing_seen(now) if stale else MUG, number, now - 40 * stale, stale=stale)


def board_of(state: PageState) -> Board:
    return Board(robot="r1", commands=Mailbox(8), state=state)


def test_what_a_camera_saw_before_it_was_lost_is_said_to_be_of_before() -> None:
    board = board_of(PageState())
    board.look = lambda number, timeout: view(number + 1, stale=True)
    seen = seen_now(board)
    assert seen["stale"]
    assert not seen["name"]
    assert 39 < seen["age"] < 60
    board.look = lambda number, timeout: view(number + 1, stale=False)
    assert not seen_now(board)["stale"]


# NiceGUI looks at every object there is to find its server, torch's deprecated ones too.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_are_text_and_a_lost_camera_says_so(chromium: Browser) -> None:
    rows = tuple(ClassRow(name=name, frames=1, accuracy=0.5) for name in NAMES)
    board = board_of(PageState(classes=rows, camera="reconnecting to camera 0"))
    board.thumbnails = {name: Thumbnail.of(FRAME.image) for name in NAMES}
    shown: dict[str, Any] = {"view": view(1, stale=False)}
    board.look = lambda number, timeout: shown["view"] if shown["view"].number > number else None
    with closing(PageServer(PageOptions(page=0), title="r1")) as server:
        server.start(partial(build, board=board, server=server))
        page = chromium.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(server.urls[0], wait_until="domcontentloaded")
        expect(page.locator(".rb-one .rb-about div:first-child")).to_have_text(list(NAMES), timeout=SLOW_MS)
        assert page.title() == "r1 · Reflexarc"
        assert page.locator("html").get_attribute("lang") == "en-US"
        expect(page.locator(".rb-class")).to_have_text("mug", timeout=SLOW_MS)
        page.get_by_label(f"More for {NAMES[3]}").click()
        page.get_by_role("menu").get_by_text("Rename or merge", exact=True).click()
        expect(page.get_by_text("Another name for")).to_be_visible(timeout=SLOW_MS)
        shown["view"] = view(2, stale=True)
        expect(page.locator(".rb-class")).to_have_text("nothing seen now", timeout=SLOW_MS)
        expect(page.locator(".rb-answer")).to_contain_text("the last picture came 4")
        expect(page.locator(".rb-answer.rx-old")).to_have_count(1)
        expect(page.locator(".rb-view")).to_contain_text("reconnecting to camera 0")
        shown["view"] = view(3, stale=False)
        expect(page.locator(".rb-class")).to_have_text("mug", timeout=SLOW_MS)
        expect(page.locator(".rb-answer.rx-old")).to_have_count(0)
        assert page.evaluate("window.hit") is None
        page.close()
