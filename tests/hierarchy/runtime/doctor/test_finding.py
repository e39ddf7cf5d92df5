"""Lines, JSON and exit status of what was found."""

from __future__ import annotations

import json

import pytest

from broker.errors import ConfigError
from hierarchy.runtime.doctor.finding import ALWAYS_NEEDED, Finding, check_names, tell

ALL = [Finding(name=name, text="fine") for name in sorted(ALWAYS_NEEDED)]
PAGE = Finding(name="page", state="missing", text="nicegui>=3.0", remedy="pip install 'reflexarc[page]'")


def test_a_line_says_state_name_and_what_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell([*ALL, PAGE], [], as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[len(ALL) :] == [
        "missing  page        nicegui>=3.0: pip install 'reflexarc[page]'",
        "all that is needed is here",
    ]


def test_the_status_counts_what_is_needed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell([*ALL, PAGE], ["page"], as_json=False) == 1
    assert capsys.readouterr().out.endswith("needed, and not ok: page\n")
    assert tell([*ALL[1:], PAGE], [], as_json=False) == 1, "what was not even looked at is not ok"


def test_json_has_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell([*ALL, PAGE], ["page"], as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["found"][-1] == {
        **{"name": "page", "state": "missing", "text": "nicegui>=3.0"},
        **{"remedy": "pip install 'reflexarc[page]'", "needed": True},
    }
    assert {one["name"] for one in told["found"] if one["needed"]} == {*ALWAYS_NEEDED, "page"}


def test_others_text_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    tell([Finding(name="cameras", text="\x1b[2J")], [], as_json=False)
    assert "\\x1b[2J" in capsys.readouterr().out


def test_a_slip_in_need_is_said() -> None:
    check_names(["trainer"], ["trainer", "camera"])
    with pytest.raises(ConfigError, match=r"--need trainr: .*did you mean trainer\?"):
        check_names(["trainr"], ["trainer", "camera"])
