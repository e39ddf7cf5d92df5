"""Opens each page of the built site in Chromium, at a phone's width; with pictures at a desktop's as well.

    python docs/site/browse.py [FOLDER]

Ends with status 1 if a page asks for anything that is not a file of the site, has an error in its console, or is wider
than the window. FOLDER gets a picture of each page at both widths.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, Request, sync_playwright

SITE = Path(__file__).parents[2] / "build" / "site"
PHONE, DESKTOP = 390, 1280
NOT_PAGES = ("_static", "genindex.html", "search.html")


def main(pictures: Path | None) -> int:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        print("no Chromium here: the site was not looked at")
        return 0
    pages = [one for one in sorted(SITE.rglob("*.html")) if not str(one.relative_to(SITE)).startswith(NOT_PAGES)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        problems = look(browser, pages, PHONE, pictures)
        if pictures:
            problems += look(browser, pages, DESKTOP, pictures)
        browser.close()
    for one in problems:
        print(one, file=sys.stderr)
    print(f"{len(pages)} pages opened in Chromium")
    return int(bool(problems))


def look(browser: Browser, pages: list[Path], width: int, pictures: Path | None) -> list[str]:
    """Return what is wrong with the pages at that width."""
    problems: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("request", partial(_heed, problems))
    page.on("console", lambda said: problems.append(f"{page.url}: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    for one in pages:
        page.goto(one.as_uri())
        if (wide := _width(page)) > width:
            problems.append(f"{page.url}: {wide} pixels wide in a window of {width}")
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            name = one.relative_to(SITE).with_suffix("").as_posix().replace("/", "-")
            page.screenshot(path=pictures / f"{name}-{width}.png", full_page=False)
    page.close()
    return problems


def _heed(problems: list[str], request: Request) -> None:
    if not request.url.startswith((SITE.as_uri(), "data:")):
        problems.append(f"a page asks for {request.url}")


def _width(page: Page) -> int:
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
