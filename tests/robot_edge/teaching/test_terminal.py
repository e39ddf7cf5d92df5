from __future__ import annotations

import os
import pty
import time
from typing import Any

import pytest

from broker.errors import ConfigError, MalformedMessage
from broker.link.mailbox import Mailbox
from broker.program import threads
from broker.wire.messages import Command
from hierarchy.runtime.command_line import StopRequest
from robot_edge.teaching import terminal as terminal_module
from robot_edge.teaching.terminal import listening, parse_line


@pytest.mark.parametrize(
    ("line", "action", "name", "to", "seconds"),
    [
        ("mug\n", "teach", "mug", "", 10.0),
        ("  my mug  \n", "teach", "my mug", "", 10.0),
        ("teach mug 20", "teach", "mug", "", 20.0),
        ("teach my mug", "teach", "my mug", "", 10.0),
        ("teach mug 3 5", "teach", "mug 3", "", 5.0),
        ("teach 20", "teach", "20", "", 10.0),
        ("undo", "undo", "", "", 0.0),
        ("stop", "stop", "", "", 0.0),
        ("forget my mug", "forget", "my mug", "", 0.0),
        ("forget-everywhere my mug", "forget-everywhere", "my mug", "", 0.0),
        ("rename mug = tea cup", "rename", "mug", "tea cup", 0.0),
        ("merge mug=cup", "merge", "mug", "cup", 0.0),
        ("teach quit", "teach", "quit", "", 10.0),
        ("teach teach", "teach", "teach", "", 10.0),
        ("teach help 5", "teach", "help", "", 5.0),
        ("Undo", "undo", "", "", 0.0),
        ("Forget My Mug", "forget", "My Mug", "", 0.0),
        ("peach", "teach", "peach", "", 10.0),
        ("green mug", "teach", "green mug", "", 10.0),
        ("ship", "teach", "ship", "", 10.0),
    ],
)
def test_what_a_line_asks_for(line: str, action: str, name: str, to: str, seconds: float) -> None:
    command = parse_line(line)
    assert isinstance(command, Command)
    assert (command.action, command.name, command.to, command.seconds) == (action, name, to, seconds)


@pytest.mark.parametrize(
    ("line", "region"),
    [
        ("look whole", "whole"),
        ("look 25%, 10%, 50%, 80%", "25%,10%,50%,80%"),
        ("Look 160,48,320,384", "160,48,320,384"),
    ],
)
def test_a_line_says_where_to_look(line: str, region: str) -> None:
    command = parse_line(line)
    assert isinstance(command, Command)
    assert (command.action, command.region) == ("look", region)


@pytest.mark.parametrize("line", ["look", "look left", "look 1,2,3"])
def test_where_to_look_is_no_name_of_a_class(line: str) -> None:
    with pytest.raises(ConfigError, match=r"look LEFT,TOP,WIDTH,HEIGHT|give left, top, width and height"):
        parse_line(line)


@pytest.mark.parametrize("line", ["", "\n", "   "])
def test_some_lines_ask_for_nothing(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("line", "asked"), [("quit", "quit"), ("exit\n", "quit"), ("q", "quit"), ("help", "help"), (" ? ", "help")]
)
def test_what_people_type_to_end_a_program_teaches_nothing(line: str, asked: str) -> None:
    assert parse_line(line) == asked


@pytest.mark.parametrize(
    "line",
    [
        "teach",
        "forget",
        "rename",
        "merge",
        "undoo",
        "resum",
        "stop sign",
        "undo mug",
        "quit now",
        "teech star",
        "Forgett cup",
    ],
)
def test_what_may_be_a_command_teaches_nothing_and_says_how_it_would(line: str) -> None:
    with pytest.raises(ConfigError, match=f"To teach a class of that name: teach {line}$"):
        parse_line(line)


@pytest.mark.parametrize(
    "line", ["teach mug 0", "teach mug 3601", "teach mug -5", "rename mug", "rename mug =", "x" * 65]
)
def test_what_cannot_be_done_is_said(line: str) -> None:
    with pytest.raises((ConfigError, MalformedMessage)):
        parse_line(line)


def asked_to_stop(stop: StopRequest) -> bool:
    return stop.made


def test_without_a_terminal_nobody_listens() -> None:
    commands: Mailbox[Command] = Mailbox(10)
    read, write = os.pipe()
    with (
        os.fdopen(read) as piped,
        os.fdopen(write, "w", buffering=1) as writer,
        listening(commands, StopRequest(), piped),
    ):
        writer.write("mug\n")
        time.sleep(0.05)
        assert commands.take(0.0) is None


def test_a_fault_while_a_line_is_read_is_said_and_the_next_one_obeyed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE_SECONDS", 0.001)
    lines = iter([RuntimeError("planted"), parse_line("star")])

    def faulty(_line: str) -> Any:
        if isinstance(one := next(lines), Exception):
            raise one
        return one

    monkeypatch.setattr(terminal_module, "parse_line", faulty)
    commands: Mailbox[Command] = Mailbox(10)
    person, terminal = pty.openpty()
    with os.fdopen(terminal, "r") as file, listening(commands, StopRequest(), file):
        os.write(person, b"mug\nstar\n")
        command = commands.take(10.0)
    os.close(person)
    assert command is not None
    assert command.name == "star"
    assert "the thread 'terminal' has failed: it is started again" in caplog.text
    assert "RuntimeError: planted" in caplog.text


def test_what_is_typed_is_obeyed_while_it_listens() -> None:
    commands: Mailbox[Command] = Mailbox(10)
    stop = StopRequest()
    person, terminal = pty.openpty()
    with os.fdopen(terminal, "r") as file, listening(commands, stop, file):
        os.write(person, b"mug\n")
        command = commands.take(10.0)
        assert command is not None
        assert command.name == "mug"
        os.write(person, b"cu\x04")  # half a name, handed over with Ctrl-D
        os.write(person, b"\x04")
        os.write(person, b"star\n")
        command = commands.take(10.0)
        assert command is not None
        assert command.name == "star", "Ctrl-D has taught nothing, and ended nothing"
        assert not asked_to_stop(stop)
        os.write(person, b"quit\n")
        deadline = time.monotonic() + 10
        while not asked_to_stop(stop) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert commands.take(0.0) is None
    assert asked_to_stop(stop)
    os.close(person)


@pytest.mark.parametrize(("line", "action"), [("use own", "use-own"), ("USE Fleet", "use-fleet")])
def test_a_line_says_which_exit_answers(line: str, action: str) -> None:
    command = parse_line(line)
    assert isinstance(command, Command)
    assert command.action == action


@pytest.mark.parametrize("line", ["use", "use both"])
def test_what_begins_like_use_is_no_name(line: str) -> None:
    with pytest.raises(ConfigError, match="use own, or use fleet"):
        parse_line(line)
