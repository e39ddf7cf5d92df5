from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robot_edge.progress import print_summary

SUMMARY: dict[str, Any] = {
    "images": 12,
    "classes": ["cup"],
    **{f"{end}_{name}": None for end in ("exit", "cloud") for name in ("accuracy", "prequential")},
    "bytes_per_image": 100.0,
    "raw_bytes_per_image": 768,
    "jpeg_bytes_per_image": 600.0,
    "images_per_second": 5.0,
    **dict.fromkeys(("messages_sent", "messages_trained", "messages_rejected", "dropped", "held_out_images"), 0),
    "untested_classes": [],
    "samples_by_class": {},
    "unreadable": 0,
    "left_out": {},
}


def printed(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    print_summary({**SUMMARY, **changes}, Path("run"))
    return " ".join(capsys.readouterr().out.split())


def test_what_was_left_out_stands_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = {".heic": {"count": 1200, "first": "[red]/\udcff.heic"}}
    text = printed(capsys, unreadable=3, left_out=left_out)
    assert r"Left out of the source: 3 that could not be read, 1,200 .heic (as [red]/\xff.heic)." in text


def test_nothing_is_said_where_nothing_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Left out" not in printed(capsys)
