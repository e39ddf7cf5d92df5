"""The robot's page and the cloud's, left open for hours: do they go on, and does memory stay flat?

    python -m tests.soak.open_page --hours 2

A live robot with the simulated camera is taught a toy on its page. Both pages then stay open in Chromium. Every minute
their pictures and figures have to have changed; at the end the open page teaches a second toy. Resident memory counts
for each program, and for each page the JavaScript heap and the elements on it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro
from playwright.sync_api import Page, expect, sync_playwright

from broker.local.server import start_local_broker
from tests.conftest import find_chromium
from tests.end_to_end.test_pages import PICTURE
from tests.ports import free_port

PATIENCE_MS = 30_000
# The heap counts after a collection: what only waits for one is no leak.
HEAP = "() => { window.gc(); return performance.memory.usedJSHeapSize; }"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Pages left open."""

    hours: float = 2.0
    rate: float = 5.0
    """Frames a second of the simulated camera."""
    out: Path = Path("runs/soak/open-page")


def main(settings: Settings) -> None:
    folder = settings.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    ports = {"robot": free_port(), "cloud": free_port()}
    with ExitStack() as stack:
        broker = stack.enter_context(start_local_broker())
        common = ["--broker", broker.url, "--threads", "1"]
        robot_flags = ["--source", "sim:mug,star", "--live", "--rate", str(settings.rate)]
        programs = {
            "robot": start(stack, folder, "robot_edge", [*common, *robot_flags, "--page", str(ports["robot"])]),
            "cloud": start(stack, folder, "cloud_trainer", [*common, "--page", str(ports["cloud"])]),
        }
        for program in ("robot_edge", "cloud_trainer"):
            wait_until_it_says(folder / f"{program}.log", "page at")
        flags = ["--no-sandbox", "--js-flags=--expose-gc", "--enable-precise-memory-info"]
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        stack.callback(browser.close)
        pages = {name: browser.new_page() for name in ports}
        errors: list[str] = []
        for name, page in pages.items():
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"http://127.0.0.1:{ports[name]}/", wait_until="domcontentloaded")
        teach(pages["robot"], "mug")
        readings = watch(programs, pages, settings)
        teach(pages["robot"], "star")
        report(readings)
        print(
            f"JavaScript errors: {len(errors)} {errors[:3] or ''}; a second toy was taught on the page as it was left"
        )


def start(stack: ExitStack, folder: Path, program: str, flags: list[str]) -> psutil.Process:
    log = stack.enter_context((folder / f"{program}.log").open("w"))
    command = [sys.executable, "-m", program, "run", *flags, "--run-dir", str(folder / program)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return psutil.Process(process.pid)


def wait_until_it_says(log: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in log.read_text():
        if time.monotonic() > deadline:
            raise SystemExit(f"{log} does not say {text!r}")
        time.sleep(0.2)


def teach(page: Page, name: str) -> None:
    page.wait_for_function("document.querySelector('.rb-view img')?.naturalWidth > 0", timeout=PATIENCE_MS)
    page.get_by_label("Class name").fill(name)
    page.get_by_role("button", name="Teach", exact=True).click()
    listed = page.locator(".rb-one .rb-about div:first-child", has_text=name)
    expect(listed).to_be_visible(timeout=4 * PATIENCE_MS)


def watch(
    programs: dict[str, psutil.Process], pages: dict[str, Page], settings: Settings
) -> dict[str, list[dict[str, float]]]:
    """Return a reading a minute of each program and its page. Fails where a page stands still."""
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    for minute in range(max(3, round(60 * settings.hours))):
        before = pages["robot"].evaluate(PICTURE)
        time.sleep(60)
        pages["robot"].wait_for_function(f"before => ({PICTURE})() !== before", arg=before, timeout=PATIENCE_MS)
        for name, page in pages.items():
            readings[name].append(read(programs[name], page))
        print(f"minute {minute + 1}: " + "; ".join(f"{name} {shown(ones[-1])}" for name, ones in readings.items()))
        sys.stdout.flush()
    return readings


def read(program: psutil.Process, page: Page) -> dict[str, float]:
    elements: Any = page.evaluate("document.getElementsByTagName('*').length")
    return {
        "resident MB": program.memory_info().rss / 1e6,
        "heap MB": page.evaluate(HEAP) / 1e6,
        "elements": float(elements),
    }


def shown(reading: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.1f}" for name, value in reading.items())


def report(readings: dict[str, list[dict[str, float]]]) -> None:
    """Print the first and last tenth of the time beside each other; the first minute is start-up."""
    for name, ones in readings.items():
        share = max(1, len(ones) // 10)
        for what in ones[0]:
            early, late = (
                statistics.median(one[what] for one in part) for part in (ones[1 : 1 + share], ones[-share:])
            )
            print(f"{name} {what}: {early:,.1f} -> {late:,.1f} ({late / early - 1:+.1%})")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
