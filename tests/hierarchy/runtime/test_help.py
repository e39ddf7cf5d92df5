from __future__ import annotations

import re
from itertools import chain

import pytest

import cloud_trainer.cluster.commands
import cloud_trainer.commands
import robot_edge.commands
from hierarchy.runtime.help import CommandHelp, run_command
from hierarchy.runtime.settings import flat_fields

PROGRAMS = {"robot-edge": robot_edge.commands, "cloud-trainer": cloud_trainer.commands}
COMMANDS = [(program, name) for program, module in PROGRAMS.items() for name in module.HELPS]


def help_of(program: str) -> dict[str, CommandHelp]:
    return vars(PROGRAMS[program])["HELPS"]  # type: ignore[no-any-return]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Return what a program prints of itself on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(program: str, *arguments: str) -> str:
        module = PROGRAMS[program]
        with pytest.raises(SystemExit) as end:
            run_command(module.app, program, module.__doc__, help_of(program), arguments)
        assert end.value.code == 0
        return capsys.readouterr().out

    return run


def flags_in(text: str) -> set[str]:
    boxed = re.findall(r"^[│ ] (-.*?)(?:  |$)", text, flags=re.MULTILINE)  # tyro draws as the output's encoding can
    return set(chain.from_iterable(re.findall(r"--[a-z][a-z0-9-]*", line) for line in boxed))


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_what_matters_first_is_shown_first_and_all_on_demand(printed: object, program: str, name: str) -> None:
    assert callable(printed)
    one = help_of(program)[name]
    wanted = {f"--{field.replace('_', '-')}" for field in one.first.split()}
    assert len(wanted) == 10
    brief, whole = printed(program, name, "--help"), printed(program, name, "--help-all")
    assert {flag for flag in flags_in(brief) if not flag.startswith("--no-")} == wanted | {"--help"}
    every = {f"--{field.replace('_', '-')}" for field in flat_fields(one.settings)}
    assert {flag for flag in flags_in(whole) if not flag.startswith("--no-")} == every | {"--help"}
    assert f"{program} {name} --help-all" in " ".join(brief.split())
    assert f"{program} {name} -" in " ".join(brief.split()).partition("Examples:")[2]
    assert [line for line in (brief + whole).splitlines() if len(line) > 80] == []
    assert "default: ''" not in whole


def test_a_command_with_few_flags_shows_them_on_either(printed: object) -> None:
    assert callable(printed)
    assert printed("robot-edge", "undo", "--help-all") == printed("robot-edge", "undo", "--help")


def test_settings_that_go_on_from_others_have_the_texts_of_both(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cloud_trainer.cluster.commands.cli(["run", "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "The MQTT broker" in shown, "which any trainer has"
    assert "Processes that train" in shown, "which a cluster alone has"


def test_a_help_in_a_config_file_s_company_is_a_help(printed: object) -> None:
    assert callable(printed)
    assert "--bits" in printed("robot-edge", "run", "--source", "sim:", "-h")
