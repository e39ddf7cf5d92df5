"""Command lines of both ends: flags derived from a config class, a TOML file that flags win over, clean ends."""

from __future__ import annotations

import codecs
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from broker.errors import EXIT_INTERRUPTED, EXIT_SETTING, ConfigError
from broker.program import startup
from broker.program.ending import report
from broker.program.machine import refused
from broker.program.paths import did_you_mean, typed_path
from broker.program.plain_text import PlainFormatter, let_output_take_all_characters
from hierarchy.runtime.handles import raise_handle_limit

# What --device takes. Here and not in device.py, which imports torch for seconds: --help should not wait for it.
DeviceName = Literal["auto", "cpu", "cuda", "mps"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_program(program: str, cli: Callable[[Sequence[str]], Any]) -> None:
    """Run a program on sys.argv: its errors become one line and an exit code, SIGTERM is Ctrl-C."""
    start_log()
    raise_handle_limit()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        startup.let_ctrl_c_interrupt()
        cli(with_config_file(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sys.exit(report(program, error))
    except SystemExit as end:  # tyro has said what is wrong with the flags
        if end.code == EXIT_SETTING and any(one.split("=")[0] == "--config" for one in sys.argv):
            print("What stands in --config FILE counts as flags, too.", file=sys.stderr)
        raise


def end_at_once(status: int) -> NoReturn:
    """End the process with a thread in the middle of PyTorch's code, where Python's own end would abort it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def start_log(speaker: str = "") -> None:
    """Log to the terminal. speaker: named in every line, where several processes share the terminal."""
    let_output_take_all_characters()
    who = f"%(name)s {speaker}" if speaker else "%(name)s"
    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(PlainFormatter(f"%(asctime)s {who}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[to_terminal])


# What former versions had, with what to do instead. "auto" asks for what is so without it, and is passed over.
GONE = {
    "catch_up": "it went into --when-full: balanced sends the rarest classes first when the cloud is back, the others "
    "the oldest",
    "workers": "`cloud-trainer cluster run` spreads robots over processes and machines (docs/scale.md); "
    "`cloud-trainer run --weights` of such a run begins with its networks",
}


def with_config_file(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config FILE`` behind a command by the flags that the TOML file stands for, before all others.

    The last of two equal flags wins, so those on the command line do. Raises ConfigError for a file that is no TOML.
    """
    _refuse_gone(arguments)
    rest = [argument.replace("--config=", "--config\0", 1) for argument in arguments]
    rest = [part for argument in rest for part in argument.split("\0", 1)]
    if "--config" not in rest:
        return list(arguments)
    place = rest.index("--config")
    if place == 0 or place + 1 == len(rest):
        raise ConfigError("--config FILE belongs behind the command, as in: run --config launch/robot.toml")
    path = typed_path(rest[place + 1])
    del rest[place : place + 2]
    try:
        settings = tomllib.loads(_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path} does not exist{did_you_mean(path)}") from error
    except OSError as error:
        raise refused(f"--config {path}", error, error.strerror) from error
    except ValueError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    flags = _flags(settings, path)
    _refuse_gone(flags)
    return [rest[0], *flags, *rest[1:]]


def _refuse_gone(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a flag that former versions had."""
    for name, instead in GONE.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in {one.partition("=")[0].replace("_", "-") for one in arguments}:
            raise ConfigError(f"{flag} is gone: {instead}")


def _text(path: Path) -> str:
    """Return a file as people save it on any system, where a byte order mark is no part of it. Raises ConfigError."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"--config {path} is saved as UTF-16: save it as UTF-8, as TOML has to be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is no UTF-8 ({error.reason} at byte {error.start}): save it as such"
        ) from None


def _flags(settings: dict[str, Any], path: Path) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        if name in GONE and value == "auto":
            continue
        if isinstance(value, dict):
            raise ConfigError(f"--config {path}: a table [{name}] is not read; put its lines above")
        if isinstance(value, list):
            raise ConfigError(f"--config {path}: {name} is a {type(value).__name__}; use text, a number, true or false")
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless the setting of that name lies within the range."""
    if not isinstance(value, int | float):
        raise ConfigError(f"--{name} {value!r}: use a number")
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"--{name} {value:g}: use {low:g} to {high:,g}")


class StopRequest:
    """Within this context the first Ctrl-C or SIGTERM only asks to stop; the second one interrupts at once."""

    def __init__(self, signals: Sequence[signal.Signals] = STOP_SIGNALS) -> None:
        """signals: none for a request that only a program makes, as a thread of its own has to."""
        self.made = False
        self._signals = signals

    def __enter__(self) -> StopRequest:
        for number in self._signals:
            signal.signal(number, self._make)
        return self

    def __exit__(self, *_error: object) -> None:
        for number in self._signals:
            signal.signal(number, signal.default_int_handler)

    def _make(self, number: int, frame: object) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True


class SparseLog:
    """Logs the first LOGGED warnings and then one in as many, and ever fewer: less than 100 while they become ten times
    as many. Who sends garbage all day should not fill the disk.
    """

    LOGGED = 50

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._count = 0

    def warn(self, text: str) -> None:
        """Log a warning, or only count it."""
        self._count += 1
        every = self.LOGGED * 10 ** max(0, len(str(self._count // self.LOGGED)) - 2)
        if self._count <= self.LOGGED or self._count % every == 0:
            self._log.warning("%s (the %d. such message)", text, self._count)


class Notice:
    """Logs what a program waits for, once for each new text."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last = ""

    def say(self, text: str) -> None:
        """Log the text unless it is the last one again; an empty text is not logged."""
        if text and text != self._last:
            self._log.info(text)
        self._last = text
