"""Tables and lines on a terminal: what is printed is text, not rich's markup, emoji codes or escape sequences."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from broker.program.plain_text import visible


class PlainConsole(Console):
    """A rich Console that takes every str for text, in tables too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a str as rich's Text, control characters shown."""
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False})
