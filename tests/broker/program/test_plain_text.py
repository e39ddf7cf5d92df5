from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest

from broker.program.plain_text import PlainFormatter, counted, say, visible


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cup", "cup"),
        ("$\\frac$ [/switch] {@[2]} 杯 كوب", "$\\frac$ [/switch] {@[2]} 杯 كوب"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\rb\x85c\x9b31m", "a\\rb\\x85c\\x9b31m"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("caf\udce9", "caf\\udce9"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_control_characters_are_shown_and_all_else_stays(given: str, shown: str) -> None:
    assert visible(given) == shown


def test_a_message_cannot_forge_a_line_of_the_log() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PlainFormatter("%(name)s: %(message)s"))
    logger = logging.Logger("robot-edge")
    logger.addHandler(handler)
    logger.warning("the robot says %s", "ok\nrobot-edge: all samples are trained\x1b[1A")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logger.exception("it failed")
    printed = out.getvalue()
    assert printed.startswith("robot-edge: the robot says ok\n    robot-edge: all samples are trained\\x1b[1A\n")
    assert "ValueError: \\x1b[2J" in printed
    assert "\x1b" not in printed


def test_a_line_is_said_with_control_characters_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say("r1: took back '\x1b[31mcup'")
    assert capsys.readouterr().out == "r1: took back '\\x1b[31mcup'\n"


def test_an_encoding_that_lacks_a_character_ends_no_program() -> None:
    code = "from hierarchy.runtime.command_line import start_log; start_log(); print('caf\\xe9 \\u676f')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert run.stdout == b"caf\xe9 \\u676f\n"


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (1, ("frame",), "1 frame"),
        (0, ("frame",), "0 frames"),
        (2000, ("class",), "2,000 classes"),
        (2, ("batch",), "2 batches"),
        (1, ("sample waits", "samples wait"), "1 sample waits"),
        (3, ("sample waits", "samples wait"), "3 samples wait"),
    ],
)
def test_one_is_no_plural(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
