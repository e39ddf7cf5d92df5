"""Links of the repository's pages, as a git host understands them, led to pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath, relpath
from urllib.parse import urlsplit

# Files at the top that are pages of the site.
TOP = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "CHANGELOG.md": "changelog.md"}

# What stands in fences is code.
FENCED = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
# A link or a picture, or code, in which none is looked for, and which may go on in the next line.
LINK = re.compile(r"`(?:[^`\n]|\n(?!\n))+`|(?P<picture>!?)\[(?P<text>(?:`[^`]*`|[^\]`])*)\]\((?P<target>[^)\s]+)\)")


class BrokenLink(Exception):
    """A page of the repository links to what is not there."""


def page_of(path: str) -> str | None:
    """Return the page that a file of the repository is on; None for one that is on none."""
    if path.startswith("docs/examples/"):
        return "examples.md"
    return TOP.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)


def led_to_pages(text: str, source: str, root: Path) -> str:
    """Return the text of a page for the site. source: its file, relative to the root of the repository.

    A link to a file that is on no page becomes plain text. Raises BrokenLink.
    """

    def mended(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        target = _target(match["target"], source, root)
        return match["text"] if target is None else f"{match['picture']}[{match['text']}]({target})"

    parts = FENCED.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(mended, part) for part in parts)


def _target(target: str, source: str, root: Path) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BrokenLink(f"{source}: {target} is no address of the web")
        return target
    if not parts.path:
        return target
    path = normpath(f"{Path(source).parent.as_posix()}/{parts.path}")
    if not (root / path).exists():
        raise BrokenLink(f"{source}: {target} is not in the repository")
    page, here = page_of(path), page_of(source)
    if page is None or here is None:
        return None
    return relpath(page, Path(here).parent.as_posix()) + (f"#{parts.fragment}" if parts.fragment else "")
