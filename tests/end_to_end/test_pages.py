"""Both pages in a real browser, with real programs behind them."""

from __future__ import annotations

import re
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

SLOW_MS = 60_000
# A class name that a page which took it for HTML would not show as it is.
NAME = "<i>mug</i>"


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


class Visit:
    """An open page, and what it asked other hosts for."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(SLOW_MS)
        own = url.split("//")[1]
        self.page.on("request", lambda request: self.foreign.append(request.url) if own not in request.url else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url, wait_until="domcontentloaded")

    def sees(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until an element says so."""
        expect(self.page.locator(selector)).to_have_text(text, timeout=SLOW_MS)

    def is_told(self, text: str) -> None:
        """Wait for a notification."""
        expect(self.page.locator(".q-notification", has_text=text).first).to_be_visible(timeout=SLOW_MS)

    def teach(self, name: str) -> None:
        self.page.get_by_label("Class name").fill(name)
        self.page.get_by_role("button", name="Teach", exact=True).click()

    def end(self) -> None:
        assert not self.foreign  # a robot has no internet
        assert not self.errors
        self.page.context.close()


def test_a_class_is_taught_on_the_page_answered_without_a_trainer_and_taken_back(
    launcher: Any, mosquitto_url: str, chromium: Browser
) -> None:
    port = free_port()
    robot = launcher.robot(mosquitto_url, "pages", "sim:mug", "--live", "--practice", "2", "--page", port)
    robot.until_it_says("page at")
    visit = Visit(chromium, f"http://127.0.0.1:{port}/", viewport={"width": 390, "height": 844})
    visit.sees(".rb-class", "nothing it knows")
    expect(visit.page.get_by_text("trainer away")).to_be_visible()
    live = visit.page.locator(".rb-view img")
    visit.page.wait_for_function("document.querySelector('.rb-view img').naturalWidth > 0")
    assert live.evaluate("image => image.naturalWidth") <= 640
    assert not scrolls_sideways(visit.page)

    visit.teach("")
    visit.is_told("First say what it is called")
    visit.teach("x" * 10_000)
    visit.is_told("use 1 to 64 printable characters")

    other = Visit(chromium, f"http://127.0.0.1:{port}/")  # somebody else, at the same time
    other.sees(".rb-class", "nothing it knows")
    visit.teach(NAME)
    expect(visit.page.locator(".rb-lesson", has_text=f"This is '{NAME}'")).to_be_visible(timeout=SLOW_MS)
    other.teach("star")
    other.is_told("is being taught for")
    other.end()
    visit.is_told("frames of '<i>mug</i>' that differ")
    visit.sees(".rb-class", NAME)
    expect(visit.page.get_by_text("answered by the robot")).to_be_visible()
    visit.sees(".rb-one .rb-about div:first-child", NAME)
    visit.page.wait_for_function("document.querySelector('.rb-one img').naturalWidth > 0")

    visit.page.get_by_role("button", name="Undo").click()
    visit.is_told("took back")
    visit.sees(".rb-class", "nothing it knows")
    expect(visit.page.locator(".rb-one")).to_have_count(0, timeout=SLOW_MS)

    begin = time.monotonic()
    assert robot.interrupt() == 130  # with a page open, and its camera running
    assert time.monotonic() - begin < 30
    visit.end()


def test_teaching_lasts_as_long_as_the_button_is_held(launcher: Any, mosquitto_url: str, chromium: Browser) -> None:
    port = free_port()
    robot = launcher.robot(mosquitto_url, "hold", "sim:mug", "--live", "--page", port)
    robot.until_it_says("page at")
    visit = Visit(chromium, f"http://127.0.0.1:{port}/")
    visit.sees(".rb-class", "nothing it knows")
    visit.page.get_by_label("Class name").fill("mug")
    visit.page.get_by_role("button", name="Hold to teach").hover()
    visit.page.mouse.down()
    expect(visit.page.locator(".rb-lesson")).to_be_visible(timeout=SLOW_MS)
    visit.page.wait_for_timeout(5000)  # longer than a lesson that nobody goes on with
    expect(visit.page.locator(".rb-lesson")).to_be_visible()
    assert robot.printed.count("teaching 'mug'") == 1
    visit.page.mouse.up()
    visit.is_told("frames of 'mug' that differ")
    expect(visit.page.locator(".rb-lesson")).to_be_hidden(timeout=SLOW_MS)
    visit.sees(".rb-one .rb-about div:first-child", "mug")

    visit.end()
    robot.send(signal.SIGTERM)
    assert robot.wait() == 130


def test_the_cloud_page_shows_robots_behind_a_password(
    launcher: Any,
    mosquitto_url: str,
    pictures: Path,
    chromium: Browser,
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["--page", port, "--page-host", "0.0.0.0", "--page-password-file", str(password)]
    trainer = launcher.trainer(mosquitto_url, *flags)
    trainer.until_it_says("page at")
    visit = Visit(chromium, url)
    visit.page.get_by_label("Password").fill("wrong")
    visit.page.get_by_role("button", name="Log in").click()
    visit.sees("p", "That is not the password.")
    visit.page.get_by_label("Password").fill("correct horse")
    visit.page.get_by_role("button", name="Log in").click()

    robot = launcher.robot(
        mosquitto_url, "shown", f"folder:{pictures}/few", "--held-out", f"folder:{pictures}/test", "--epochs", "2"
    )
    row = visit.page.locator("tr", has_text="shown")
    expect(row).to_contain_text("there", timeout=SLOW_MS)
    assert robot.wait() == 0
    expect(row).to_contain_text("away", timeout=SLOW_MS)
    expect(row).to_contain_text("320", timeout=SLOW_MS)
    for colour in ("red", "green", "blue", "yellow"):
        expect(visit.page.locator("tr", has_text=colour)).to_contain_text("%", timeout=SLOW_MS)
    row.click()
    expect(visit.page.get_by_text("resnet18, cut after")).to_be_visible()
    visit.end()

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/metrics")
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": "Bearer correct horse"})
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert 'reflexarc_robot_images{robot="shown"} 320' in text
    assert trainer.interrupt() == 0


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))
