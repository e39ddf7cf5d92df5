"""Counts what a source has and does not show: nothing is left out without a word."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache

from broker.program.paths import shown
from robot_edge.sources.frames import LeftOut

# Kinds that are told apart; a folder full of other things has as many as it has files.
MAX_KINDS = 20
OTHERS = "other files"
# What file managers, cameras and archives leave behind, besides whatever begins with a dot.
LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found", "$recycle.bin"}
ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd"), "convert them to JPEG or PNG"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw"), "convert them to JPEG or PNG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "--source video:FILE shows them"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "unpack them"),
    ".avif": "they need Pillow 11.3 or newer",
}

log = logging.getLogger("robot-edge")


@dataclass
class Tally:
    """Counts what is left out by kind, with the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = OTHERS
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, example)

    def all(self) -> tuple[LeftOut, ...]:
        return tuple(LeftOut(kind=kind, count=n, example=self.first[kind]) for kind, n in self.counts.items())


def describe(left_out: LeftOut) -> str:
    """Return in words what was left out."""
    advice = ADVICE.get(left_out.kind, "")
    first = f"{'' if left_out.count == 1 else 'first '}{shown(left_out.example)}"
    return f"{left_out.count:,} {left_out.kind} ({first}{f': {advice}' if advice else ''})"


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is nobody's."""
    return name.startswith(".") or name.lower() in LITTER


def say_left_out(where: str, left_out: tuple[LeftOut, ...], hints: tuple[str, ...] = ()) -> None:
    """Log what is left out, and hints, each line once: every phase, and every test, opens a source anew."""
    for line in (*(f"left out: {describe(one)}" for one in left_out), *hints):
        _say_once(f"{where}: {line}")


@lru_cache(maxsize=1000)
def _say_once(line: str) -> None:
    log.warning(line)
