from __future__ import annotations

from robot_edge.run.report import left_out_line


def test_what_was_left_out_is_one_line() -> None:
    left_out = {".heic": {"count": 1200, "first": "[red]/\udcff.heic"}}
    line = left_out_line({"unreadable": 3, "left_out": left_out})
    assert line == r"Left out of the source: 3 that could not be read, 1,200 .heic (as [red]/\xff.heic)."


def test_nothing_is_said_where_nothing_was_left_out() -> None:
    assert not left_out_line({"unreadable": 0, "left_out": {}})
