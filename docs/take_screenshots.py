"""Takes the screenshots of both pages from a real run: a simulated camera whose toys are taught on the page.

    pip install '.[page,broker]' playwright, and Chromium
    python docs/take_screenshots.py

Takes four minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from broker.local.server import start_local_broker

IMAGES = Path(__file__).parent / "images"
TOYS = ("mug", "star", "car")
# The cloud's half learns later than the robot's, so each toy is shown and taught so often.
LESSONS = 2
# Of the simulated camera: how long it shows each toy.
SHOWN_SECONDS = 16.0
DESK, PHONE = (1280, 800), (390, 844)
DEADLINE_SECONDS = 180.0
# How sure the robot must be of what it sees, in a picture. Nothing else is chosen: the figures are what they are.
SURE = 0.8


def main() -> None:
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        broker = running.enter_context(start_local_broker())
        robot, cloud = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        common = ["--broker", broker.url, "--batch", "32", "--threads", "1"]
        trainer = [*common, "--run-dir", str(folder / "cloud"), "--checkpoint-every", "10"]
        trainer += ["--page", cloud.rsplit(":", 1)[1]]
        running.enter_context(program("cloud_trainer", *trainer))
        camera = ["--source", f"sim:{','.join(TOYS)}", "--live"]
        robot_flags = [*common, *camera, "--bottleneck", "16", "--robot", "robot-1", "--run-dir", str(folder / "robot")]
        running.enter_context(program("robot_edge", *robot_flags, "--page", robot.rsplit(":", 1)[1]))
        browser = running.enter_context(chromium())
        began = first_frame(robot)
        page = opened(browser, robot, DESK, "light")
        take_questions(page, IMAGES / "robot-questions.png")
        for place, toy in list(enumerate(TOYS)) * LESSONS:
            teach(page, toy, began + place * SHOWN_SECONDS)
        page.locator(".rb-lesson").wait_for(state="hidden")
        until(lambda: page.get_by_text("% right").count() == len(TOYS))
        until(lambda: "reflexarc_robot_cloud_accuracy{" in metrics(cloud))
        IMAGES.mkdir(exist_ok=True)
        take(browser, robot, DESK, "light", IMAGES / "robot-light.png")
        take(browser, robot, DESK, "dark", IMAGES / "robot-dark.png")
        take(browser, robot, PHONE, "dark", IMAGES / "robot-phone.png")
        take(browser, cloud, DESK, "light", IMAGES / "cloud-light.png")


def take_questions(page: Page, path: Path) -> None:
    """Show frames that a robot asks about which knows nothing yet, and choose two; nobody names them."""
    card = page.locator(".rx-card", has_text="What is this?")
    frames = card.get_by_role("group", name="Frames to name").get_by_role("button")
    page.wait_for_timeout(1000 * SHOWN_SECONDS * len(TOYS))  # all of them were seen
    for place in (0, 2):
        frames.nth(place).click()
    card.get_by_label("Name of the chosen frames").fill(TOYS[0])
    until(lambda: card.get_by_text("2 frames chosen").count())
    page.wait_for_timeout(1000)
    card.screenshot(path=path)
    print(path)


def teach(page: Page, toy: str, shown_from: float) -> None:
    """Teach a toy on the page while the camera shows it, which it does in every round."""
    round_seconds = SHOWN_SECONDS * len(TOYS)
    while time.monotonic() > shown_from + 2:
        shown_from += round_seconds
    time.sleep(max(0.0, shown_from + 1 - time.monotonic()))
    page.get_by_label("Class name").fill(toy)
    page.get_by_role("button", name="Teach", exact=True).click()
    page.locator(".rb-lesson", has_text=toy).wait_for()


def take(browser: Browser, url: str, size: tuple[int, int], mode: str, path: Path) -> None:
    page = opened(browser, url, size, mode)
    page.wait_for_timeout(4000)
    if page.locator(".rb-class").count():
        until(lambda: sees(url)["name"] in TOYS and sees(url)["confidence"] > SURE)
    page.screenshot(path=path, full_page=size == DESK)
    page.context.close()
    print(path)


def opened(browser: Browser, url: str, size: tuple[int, int], mode: str) -> Page:
    width, height = size
    scheme: Any = mode
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector(".rx-head")
    return page


def sees(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/sees.json") as answer:  # noqa: S310
        seen: dict[str, Any] = json.load(answer)
    return seen


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # noqa: S310
        text: str = answer.read().decode()
    return text


def first_frame(url: str) -> float:
    """Return when the camera showed its first frame, on time.monotonic."""
    until(lambda: sees(url)["seen"])
    return time.monotonic()


def until(holds: Any) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except OSError:  # not there yet
            time.sleep(0.2)
        time.sleep(0.1)
    raise SystemExit("take_screenshots: that took too long")


@contextmanager
def program(package: str, *flags: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", package, "run", *flags], start_new_session=True)
    try:
        until(lambda: answers(flags[-1]))
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def answers(port: str) -> bool:
    with socket.create_connection(("127.0.0.1", int(port)), 1):
        return True


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
