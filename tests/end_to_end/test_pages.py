"""Both pages in a real browser, with real programs behind them."""

from __future__ import annotations

import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, WebSocketRoute, expect

from robot_edge.page.viewers import MAX_VIEWERS
from tests.end_to_end.conftest import Launcher, Program
from tests.end_to_end.wcag import faults
from tests.ports import free_port
from tests.warm_start import run_warm

# Only a failure takes this long.
SLOW_MS = 180_000
expect.set_options(timeout=SLOW_MS)
# A class name that a page which took it for HTML would not show as it is.
NAME = "<i>mug</i>"
# How sure it is and how long it took changes with each prediction.
LATENCY = "document.querySelector('.rb-answer .rx-soft').textContent"
# What the live view shows at this moment.
PICTURE = """() => {
  const canvas = document.createElement('canvas');
  canvas.getContext('2d').drawImage(document.querySelector('.rb-view img'), 0, 0);
  return canvas.toDataURL();
}"""


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
        expect(self.page.locator(selector)).to_have_text(text)

    def is_connected(self) -> None:
        """Wait until the page is more than the HTML that it began as: pictures come over its connection only."""
        self.page.wait_for_function("document.querySelector('.rb-view img')?.naturalWidth > 0")

    def is_told(self, text: str) -> None:
        """Wait for a notification."""
        expect(self.page.locator(".q-notification", has_text=text).first).to_be_visible()

    def lists(self, *names: str) -> None:
        """Wait until these are the classes, and no others."""
        expect(self.page.locator(".rb-one .rb-about div:first-child")).to_have_text(list(names))

    def chooses(self, name: str, item: str) -> None:
        """Choose from a class's menu."""
        row = self.page.locator(".rb-one", has_text=name)
        row.get_by_label("More").click()
        self.page.get_by_role("menu").get_by_text(item, exact=True).click()

    def stands_still(self) -> str:
        """Wait until the same prediction has stood for a second, and return what it says."""
        self.page.wait_for_function(
            f"window.said === {LATENCY} ? Date.now() > window.since + 1000"
            f" : (window.said = {LATENCY}, window.since = Date.now(), false)"
        )
        return str(self.page.evaluate(LATENCY))

    def counts_on(self) -> None:
        """Wait until the first class in the list has more frames."""
        about = self.page.locator(".rb-one .rx-soft").first
        expect(about).not_to_have_text(about.inner_text())

    def sees_something_move(self) -> None:
        """Wait until another picture is in the live view."""
        before = self.page.evaluate(PICTURE)
        self.page.wait_for_function(f"before => ({PICTURE})() !== before", arg=before)

    def teach(self, name: str) -> None:
        self.page.get_by_label("Class name").fill(name)
        self.page.get_by_role("button", name="Teach", exact=True).click()

    def end(self) -> None:
        assert not self.foreign  # a robot has no internet
        assert not self.errors
        self.page.context.close()


def visit_robot(robot: Program, browser: Browser, port: str, **context: Any) -> Visit:
    """Open a robot's page, and wait until it can be used."""
    robot.until_it_says("page at")
    return visit_page(browser, port, **context)


def visit_page(browser: Browser, port: str, **context: Any) -> Visit:
    """Open the page of a robot that has one, and wait until it can be used."""
    visit = Visit(browser, f"http://127.0.0.1:{port}/", **context)
    visit.is_connected()
    return visit


@pytest.fixture(autouse=True)
def _nobody_stays(launcher: Launcher) -> Iterator[None]:
    """What a test that failed has started should not be seen by the next."""
    yield
    launcher.end()
    launcher.environment = {}


def test_a_class_is_taught_on_the_page_answered_without_a_trainer_taken_back_and_named_frame_by_frame(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    robot = launcher.robot(mosquitto_url, "pages", "sim:mug", "--live", "--practice", "2", "--page", port)
    visit = visit_robot(robot, chromium, port, viewport={"width": 390, "height": 844})
    visit.sees(".rb-class", "nothing it knows")
    expect(visit.page.get_by_text("trainer away")).to_be_visible()
    live = visit.page.locator(".rb-view img")
    assert live.evaluate("image => image.naturalWidth") <= 640
    assert not scrolls_sideways(visit.page)

    visit.teach("")
    error = visit.page.locator(".rb-what").get_by_role("alert")  # beside the field
    expect(error).to_have_text("First say what it is called.")
    visit.teach("x" * 10_000)
    expect(error).to_contain_text("use 1 to 64 printable characters")
    visit.page.get_by_role("button", name="Look at a part").click()
    where = visit.page.get_by_label("Left, top, width, height")
    where.fill("2%,2%,96%,96%")
    assert faults(visit.page) == []
    where.press("Enter")
    visit.is_told("looks at 2%,2%,96%,96% of each frame from now on")
    expect(visit.page.locator(".rb-look svg rect")).to_have_count(1)

    other = visit_robot(robot, chromium, port)  # somebody else, at the same time
    visit.teach(NAME)
    expect(visit.page.locator(".rb-lesson", has_text=f"This is '{NAME}'")).to_be_visible()
    other.teach("star")
    other.is_told("is being taught for")
    other.end()
    visit.is_told("frames of '<i>mug</i>' that differ")
    visit.sees(".rb-class", f"only {NAME} is known")
    expect(visit.page.get_by_text("answered by the robot")).to_be_visible()
    visit.sees(".rb-one .rb-about div:first-child", NAME)
    expect(visit.page.get_by_label("Class name")).to_have_value("")  # the next one is of something else
    visit.page.wait_for_function("document.querySelector('.rb-one img').naturalWidth > 0")
    assert faults(visit.page) == []

    visit.page.get_by_role("button", name="Undo").click()
    visit.is_told("took back")
    visit.sees(".rb-class", "nothing it knows")
    expect(visit.page.locator(".rb-one")).to_have_count(0)

    asked = visit.page.get_by_role("group", name="Frames to name").get_by_role("button")
    for place in range(2):
        asked.nth(place).press("Space")
        expect(asked.nth(place)).to_have_attribute("aria-pressed", "true")
    visit.page.wait_for_function("document.querySelector('.rb-pick img').naturalWidth > 0")
    assert faults(visit.page) == []
    name = visit.page.get_by_label("Name of the chosen frames")
    name.fill("mug")
    name.press("Enter")
    visit.is_told("of 'mug'")
    visit.sees(".rb-one .rb-about div:first-child", "mug")
    visit.page.get_by_role("button", name="Undo").click()
    expect(visit.page.locator(".rb-one")).to_have_count(0)

    begin = time.monotonic()
    assert robot.interrupt() == 130  # with a page open, and its camera running
    assert time.monotonic() - begin < 30
    visit.end()


def test_teaching_lasts_as_long_as_the_button_is_held(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    robot = launcher.robot(mosquitto_url, "hold", "sim:mug", "--live", "--page", port)
    visit = visit_robot(robot, chromium, port)
    visit.page.get_by_label("Class name").fill("mug")
    visit.page.get_by_role("button", name="Hold to teach").hover()
    visit.page.mouse.down()
    expect(visit.page.locator(".rb-lesson")).to_be_visible()
    visit.page.evaluate("document.dispatchEvent(new PointerEvent('pointerup', {pointerId: 99}))")  # another finger's
    visit.page.wait_for_timeout(5000)  # longer than a lesson that nobody goes on with
    expect(visit.page.locator(".rb-lesson")).to_be_visible()
    assert robot.printed.count("teaching 'mug'") == 1
    visit.page.mouse.up()
    visit.is_told("frames of 'mug' that differ")
    expect(visit.page.locator(".rb-lesson")).to_be_hidden()
    visit.sees(".rb-one .rb-about div:first-child", "mug")

    visit.end()
    robot.send(signal.SIGTERM)
    assert robot.wait() == 130


def test_what_is_open_stays_open_while_figures_change(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    robot = launcher.robot(mosquitto_url, "open", "sim:mug", "--live", "--page", port)
    visit = visit_robot(robot, chromium, port)
    visit.page.get_by_label("How long").click()
    visit.page.get_by_role("option", name="60 s", exact=True).click()
    visit.teach("cup")
    visit.page.locator(".rb-one").get_by_label("More").click()
    item = visit.page.get_by_role("menu").get_by_text("Rename or merge", exact=True)
    expect(item).to_be_visible()
    for _ in range(2):
        visit.counts_on()
        expect(item).to_be_visible()
    item.click()
    visit.page.get_by_label("New name").fill("mug")
    visit.counts_on()
    expect(visit.page.get_by_label("New name")).to_have_value("mug")
    visit.page.get_by_role("button", name="Cancel").click()
    visit.end()
    assert robot.interrupt() == 130


def test_classes_are_renamed_merged_and_forgotten_from_their_menus(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    robot = launcher.robot(mosquitto_url, "menus", "sim:mug", "--live", "--practice", "2", "--page", port)
    visit = visit_robot(robot, chromium, port)
    visit.page.get_by_label("How long").click()
    visit.page.get_by_role("option", name="5 s", exact=True).click()
    visit.teach("cup")
    visit.is_told("frames of 'cup' that differ")
    visit.chooses("cup", "Rename or merge")
    visit.page.get_by_label("New name").fill("mug")
    visit.page.get_by_role("button", name="Rename").click()
    visit.lists("mug")
    visit.teach("beaker")
    visit.is_told("frames of 'beaker' that differ")
    visit.lists("mug", "beaker")
    visit.chooses("beaker", "Rename or merge")
    visit.page.get_by_label("New name").fill("mug")
    expect(visit.page.get_by_text("both become one")).to_be_visible()
    visit.page.get_by_role("button", name="Merge").click()
    visit.lists("mug")
    visit.sees(".rb-class", "only mug is known")

    visit.chooses("mug", "Forget")
    visit.page.get_by_role("button", name="Cancel").click()
    expect(visit.page.get_by_role("dialog")).to_have_count(0)
    visit.lists("mug")
    visit.chooses("mug", "Forget")
    visit.page.get_by_role("button", name="Forget").click()
    visit.lists()
    visit.sees(".rb-class", "nothing it knows")
    visit.end()
    assert robot.interrupt() == 130


def test_a_page_left_open_says_that_its_robot_is_away_and_comes_back_with_it(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    flags = ("sim:mug", "--live", "--page", port)
    robot = launcher.robot(mosquitto_url, "left", *flags)
    visit = visit_robot(robot, chromium, port)
    robot.kill()
    expect(visit.page.get_by_text("left is away")).to_be_visible()
    visit.page.evaluate("window.before = true")
    robot = launcher.robot(mosquitto_url, "left", *flags)
    robot.until_it_says("page at")
    visit.page.wait_for_function("window.before === undefined")  # it has loaded the page anew, by itself
    visit.sees(".rb-class", "nothing it knows")
    visit.page.wait_for_function("document.querySelector('.rb-view img').naturalWidth > 0")
    assert robot.interrupt() == 130


def test_a_page_left_open_asks_for_the_password_when_its_robot_has_forgotten_the_login(
    launcher: Launcher, mosquitto_url: str, chromium: Browser
) -> None:
    port = str(free_port())
    flags = ("sim:mug", "--live", "--page", port)
    launcher.environment = {"REFLEXARC_PAGE_PASSWORD": "correct horse"}
    robot = launcher.robot(mosquitto_url, "forgets", *flags)
    robot.until_it_says("page at")
    visit = Visit(chromium, f"http://127.0.0.1:{port}/")
    for _ in range(2):
        visit.page.get_by_label("Password").fill("correct horse")
        visit.page.get_by_role("button", name="Log in").click()
        visit.is_connected()
        robot.kill()
        expect(visit.page.get_by_text("forgets is away")).to_be_visible()
        robot = launcher.robot(mosquitto_url, "forgets", *flags)
        robot.until_it_says("page at")
    expect(visit.page.get_by_label("Password")).to_be_visible()
    assert robot.interrupt() == 130


def test_the_cloud_page_shows_robots_behind_a_password(
    launcher: Launcher,
    mosquitto_url: str,
    pictures: Path,
    chromium: Browser,
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    flags = ["--page", port, "--page-host", "0.0.0.0", "--page-password-file", str(password)]
    trainer = launcher.trainer(mosquitto_url, *flags)
    trainer.until_it_says("page at")
    visit = Visit(chromium, url)
    assert faults(visit.page) == []
    visit.page.get_by_label("Password").fill("wrong")
    visit.page.get_by_role("button", name="Log in").click()
    visit.sees("p", "That is not the password.")
    assert faults(visit.page) == []
    visit.page.get_by_label("Password").fill("correct horse")
    visit.page.get_by_role("button", name="Log in").click()

    # Long enough for somebody to look while it is there.
    flags = ["--held-out", f"folder:{pictures}/test", "--epochs", "2", "--rate", "40"]
    robot = launcher.robot(mosquitto_url, "shown", f"folder:{pictures}/few", *flags)
    row = visit.page.locator("tr", has_text="shown")
    expect(row).to_contain_text("there")
    assert robot.wait() == 0
    expect(row).to_contain_text("away")
    expect(row).to_contain_text("320")
    row.click()  # others may have been at this broker before
    for colour in ("red", "green", "blue", "yellow"):
        expect(visit.page.locator("tr", has_text=colour)).to_contain_text("%")
    expect(visit.page.get_by_text("test_resnet, cut after")).to_be_visible()
    assert visit.page.title() == "trainer · Reflexarc"
    assert faults(visit.page) == []
    visit.end()

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/metrics")
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": "Bearer correct horse"})
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert 'reflexarc_robot_images{robot="shown"} 320' in text
    assert trainer.interrupt() == 0


@pytest.mark.parametrize("end", ["robot_edge", "cloud_trainer"])
def test_a_page_without_nicegui_says_how_to_get_it(end: str, tmp_path: Path) -> None:
    source = ["--source", "sim:"] if end == "robot_edge" else []
    flags = ["run", "--broker", "mqtt://127.0.0.1:1", "--run-dir", str(tmp_path / "run"), *source, "--page", "8080"]
    status, printed = run_warm([end, *flags], missing="nicegui")
    assert status == 2
    assert "--page needs NiceGUI" in printed
    assert "pip install 'reflexarc[page]'" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module", name="watched")
def _watched(tmp_path_factory: pytest.TempPathFactory, mosquitto_url: str) -> Iterator[str]:
    """Port of a robot that is only looked at, by one test after the other. They are the last, as it works on."""
    launcher = Launcher(tmp_path_factory.mktemp("watched"))
    port = str(free_port())
    robot = launcher.robot(mosquitto_url, "watched", "sim:mug", "--live", "--page", port)
    robot.until_it_says("page at")
    yield port
    assert robot.interrupt() == 130
    launcher.end()


def test_a_page_takes_no_click_that_would_be_lost(watched: str, chromium: Browser) -> None:
    connections: list[WebSocketRoute] = []
    page = chromium.new_page()
    page.route_web_socket(re.compile("socket.io"), lambda connection: connections.append(connection))
    page.goto(f"http://127.0.0.1:{watched}/", wait_until="domcontentloaded")
    content = page.locator(".nicegui-content")
    expect(content).to_have_attribute("inert", "")
    teach = page.get_by_text("Hold to teach")
    with pytest.raises(Error, match="Timeout"):
        teach.click(trial=True, timeout=1000)
    connections[0].connect_to_server()
    expect(content).not_to_have_attribute("inert", re.compile(""))
    teach.click(trial=True)
    page.close()


def test_the_camera_is_paused_stepped_and_let_go_on(watched: str, chromium: Browser) -> None:
    visit = visit_page(chromium, watched)
    expect(visit.page.get_by_role("button", name="Step")).to_be_hidden()
    visit.page.get_by_role("button", name="Pause").click()
    expect(visit.page.get_by_role("button", name="Go on")).to_be_visible()
    visit.stands_still()
    before = visit.page.evaluate(PICTURE)
    visit.page.get_by_role("button", name="Step").click()
    visit.page.wait_for_function(f"before => ({PICTURE})() !== before", arg=before)
    visit.stands_still()
    visit.page.get_by_role("button", name="Go on").click()
    expect(visit.page.get_by_role("button", name="Pause")).to_be_visible()
    for _ in range(3):
        visit.sees_something_move()
    visit.end()


@contextmanager
def looking(port: str) -> Iterator[HTTPResponse]:
    """Look at the live view as a program does."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/live.mjpeg", timeout=60) as view:
        assert view.read(100)
        yield view


def test_pages_keep_their_picture_while_others_come_and_go_and_get_it_back(watched: str, chromium: Browser) -> None:
    visit = visit_page(chromium, watched)
    picture = visit.page.locator(".rb-view img")
    asked = picture.get_attribute("src")
    crowded = visit.page.get_by_text("others look at once")
    for _ in range(2 * MAX_VIEWERS):
        with looking(watched):
            """One more looks, and goes."""
    with ExitStack() as all_of_them:
        for _ in range(MAX_VIEWERS - 1):
            all_of_them.enter_context(looking(watched))
        visit.sees_something_move()
        assert picture.get_attribute("src") == asked
        with looking(watched):
            expect(crowded).to_be_visible()
        expect(crowded).to_be_hidden()
    visit.sees_something_move()
    visit.end()


def test_of_more_viewers_than_may_look_the_first_gives_way(watched: str) -> None:
    with ExitStack() as open_views:
        views = [
            open_views.enter_context(urllib.request.urlopen(f"http://127.0.0.1:{watched}/live.mjpeg", timeout=60))
            for _ in range(MAX_VIEWERS + 1)
        ]
        first, *others = views
        while first.read(65_536):
            """What was on its way comes; then it ends, or the test does at the time-out."""
        for view in others:
            assert b"image/jpeg" in view.read(2000)


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))
