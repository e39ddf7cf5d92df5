"""Builds the site into build/site, without network; any broken link ends it: `make docs`.

Its pages are those of docs/ and of the top of the repository, and those that are made from the code.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import api
import flags
from links import TOP, BrokenLink, led_to_pages
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[2]
SITE, SOURCE = ROOT / "build" / "site", ROOT / "build" / "site-source"

CONTENTS = {
    "Learn": ["tutorial", "how-to/index", "examples"],
    "Reference": [
        *("reference/robot-edge", "reference/cloud-trainer", "reference/local-broker"),
        *("reference/python", "reference/hierarchy", "reference/messages"),
        *("protocol", "sources", "pages", "changelog"),
    ],
    "Explanation": ["architecture", "decisions/index", "scale", "costs", "security", "privacy", "upstream"],
    "Results": ["results"],
}
# Pages that have others below them: all of a folder.
ABOVE = {"how-to/index": "how-to", "decisions/index": "decisions", "results": "results"}


def main() -> int:
    try:
        assemble()
    except BrokenLink as error:
        print(error, file=sys.stderr)
        return 1
    strict = ["-W", "--keep-going", "-q", "-j", "2"]
    status = build_main([*strict, "-c", str(Path(__file__).parent), str(SOURCE), str(SITE)])
    print(f"the site: {SITE}/index.html" if status == 0 else "the site has broken links or pages, as said above")
    return status


def assemble() -> None:
    """Write the site's source: all pages, with links as the site needs them."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE, ignore=shutil.ignore_patterns("site", "*.py", "__pycache__"))
    for path in SOURCE.rglob("*.md"):
        path.write_text(led_to_pages(path.read_text("utf-8"), f"docs/{path.relative_to(SOURCE)}", ROOT), "utf-8")
    for source, page in TOP.items():
        (SOURCE / page).write_text(led_to_pages((ROOT / source).read_text("utf-8"), source, ROOT), "utf-8")
    for page, text in (flags.pages() | api.pages(ROOT) | {"examples.md": flags.examples(ROOT)}).items():
        (SOURCE / page).parent.mkdir(exist_ok=True)
        (SOURCE / page).write_text(text, "utf-8")
    for page, folder in ABOVE.items():
        names = (path.stem for path in sorted((SOURCE / folder).glob("*.md")) if path.stem != "index")
        add_contents(page, "", [f"/{folder}/{name}" for name in names])
    for caption, pages in CONTENTS.items():
        add_contents("index", caption, pages)


def add_contents(page: str, caption: str, below: list[str]) -> None:
    """Put pages below one of the site's contents."""
    lines = ["", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *below, "```", ""]
    with (SOURCE / f"{page}.md").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
