from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from broker.errors import EXIT_BUG, ConfigError, NameTaken
from hierarchy.runtime.command_line import Notice, SparseLog, StopRequest, check_range, run_program, with_config_file


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in handlers:
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "robot.toml"
    path.write_text('source = "folder:pictures of mine"\nimage_size = 32\nlearning_rate = 0.05\n')
    return path


@pytest.mark.parametrize("form", ["two", "one"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_file_stands_for_flags_before_all_others(file: Path, form: str, place: int) -> None:
    arguments = ["run", "--bits", "8"]
    arguments[place:place] = ["--config", str(file)] if form == "two" else [f"--config={file}"]
    assert with_config_file(arguments) == [
        *("run", "--source", "folder:pictures of mine", "--image-size", "32", "--learning-rate", "0.05"),
        *("--bits", "8"),
    ]


def test_true_and_false_are_flags_without_a_value(file: Path) -> None:
    file.write_text("durable = true\nother_one = false\n")
    assert with_config_file(["run", "--config", str(file)]) == ["run", "--durable", "--no-other-one"]


@pytest.mark.parametrize(
    "arguments", [["run", "--catch-up", "newest"], ["run", "--catch_up=newest"], ["run", "--config", "old.toml"]]
)
def test_a_setting_of_a_former_version_gets_the_one_of_now(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.toml").write_text('catch_up = "newest"\n')
    with pytest.raises(ConfigError, match=r"--catch-up is gone: it went into --when-full"):
        with_config_file(arguments)
    Path("old.toml").write_text('catch_up = "auto"\nbits = 4\n')  # as former runs wrote it by themselves
    assert with_config_file(["run", "--config", "old.toml"]) == ["run", "--bits", "4"]


def test_without_a_file_nothing_changes() -> None:
    arguments = ["run", "--source", "sim:", "--robot=r1"]
    assert with_config_file(arguments) == arguments


@pytest.mark.parametrize("content", ['\ufeffname = "Tür"\r\n', 'name = "Tür"\n'])
def test_a_file_of_a_windows_editor_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "robot.toml").write_bytes(content.encode())
    assert with_config_file(["run", "--config", str(tmp_path / "robot.toml")]) == ["run", "--name", "Tür"]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "robot.toml").write_bytes('name = "Tür"'.encode(encoding))
    with pytest.raises(ConfigError, match="UTF-8"):
        with_config_file(["run", "--config", str(tmp_path / "robot.toml")])


@pytest.mark.parametrize("arguments", [["--config", "robot.toml", "run"], ["run", "--config"], ["--config=robot.toml"]])
def test_a_file_in_the_wrong_place_gets_an_example(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"behind the command, as in: run --config launch/robot.toml"):
        with_config_file(arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"bits = ", "Invalid value"),
        (b"\xff\xfe", "UTF-16: save it as UTF-8"),
        (b"[robot]\nbits = 4", "a table \\[robot\\] is not read; put its lines above"),
        (b"bits = [4]", "bits is a list; use text, a number, true or false"),
        (b"phases = ['cat']", "phases is a list"),
    ],
)
def test_a_file_that_says_nothing_usable_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"--config .*bad.toml.*{message}"):
        with_config_file(["run", "--config", str(tmp_path / "bad.toml")])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml does not exist"):
        with_config_file(["run", "--config", str(tmp_path / "nowhere.toml")])


@dataclass
class Flags:
    """Settings of a program."""

    bits: int = 4


def exit_code(monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: BaseException | None) -> object:
    """Run a program with these arguments that raises the error."""

    def cli(given: Sequence[str]) -> None:
        assert list(given) == arguments
        if error:
            raise error

    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    try:
        run_program("program", cli)
    except SystemExit as end:
        return end.code
    return 0


def test_an_error_of_ours_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, ["run"], NameTaken("choose another name")) == 2
    assert capsys.readouterr().err == "program: choose another name\n"
    assert exit_code(monkeypatch, ["run"], KeyboardInterrupt()) == 130
    assert exit_code(monkeypatch, ["run"], None) == 0


def test_flags_that_are_wrong_may_stand_in_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("bitz = 3\n")

    def cli(arguments: Sequence[str]) -> None:
        tyro.cli(Flags, args=arguments[1:])

    monkeypatch.setattr(sys, "argv", ["program", "run", "--config", str(file)])
    with pytest.raises(SystemExit):
        run_program("program", cli)
    said = capsys.readouterr().err
    assert "--bitz" in said
    assert said.endswith("What stands in --config FILE counts as flags, too.\n")
    monkeypatch.setattr(sys, "argv", ["program", "run", "--bitz", "3"])
    with pytest.raises(SystemExit):
        run_program("program", cli)
    assert "--config" not in capsys.readouterr().err
    assert capsys.readouterr().err == ""
    assert exit_code(monkeypatch, ["run"], ZeroDivisionError()) == EXIT_BUG
    said = capsys.readouterr().err
    assert "Traceback" in said  # a bug is not dressed up
    assert "ZeroDivisionError" in said


@pytest.mark.parametrize("value", [1, 8, 2.5])
def test_a_range_includes_its_ends(value: float) -> None:
    check_range("bits", value, 1, 8)


@pytest.mark.parametrize("value", [0.99, 9, -1, math.nan, math.inf, -math.inf])
def test_outside_a_range_the_flag_and_the_range_are_named(value: float) -> None:
    with pytest.raises(ConfigError, match=f"^--bits {value:g}: use 1 to 8$"):
        check_range("bits", value, 1, 8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    with StopRequest() as stop:
        made = [stop.made]
        signal.raise_signal(number)
        made.append(stop.made)
        assert made == [False, True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_notice_is_logged_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notice = Notice(logging.getLogger("test"))
    for text in ("waiting", "waiting", "", "waiting", "outbox full", "outbox full"):
        notice.say(text)
    assert caplog.messages == ["waiting", "waiting", "outbox full"]


def test_a_sparse_log_stays_small_however_much_garbage_comes(caplog: pytest.LogCaptureFixture) -> None:
    garbage = SparseLog(logging.getLogger("test"))
    for number in range(20 * SparseLog.LOGGED):
        garbage.warn(f"garbage {number}")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == SparseLog.LOGGED + 19
    assert lines[0].startswith("garbage 0 ")
    assert str(20 * SparseLog.LOGGED) in lines[-1]


def test_a_flood_of_warnings_does_not_fill_the_disk(caplog: pytest.LogCaptureFixture) -> None:
    sparse = SparseLog(logging.getLogger("sparse"))
    for _ in range(100_000):
        sparse.warn("garbage")
    assert len(caplog.records) < SparseLog.LOGGED + 300
    assert "100000" in caplog.text
