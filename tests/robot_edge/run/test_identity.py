from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import ConfigError
from robot_edge.run.identity import RUN, UNKNOWN, Beginning, check_names_key, go_on_as_another, run_identity


def test_a_folder_keeps_its_identity_and_each_has_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = run_identity(tmp_path / "one", "none")
    assert run_identity(tmp_path / "one", "none") == one
    assert one.former == ""
    assert run_identity(tmp_path / "two", "none").run != one.run


def test_a_run_knows_whose_weights_it_began_with_even_when_those_are_gone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = run_identity(tmp_path / "one", "none")
    two = run_identity(tmp_path / "two", str(tmp_path / "one"))
    assert two.former == one.run
    assert two.run != one.run
    (tmp_path / "one" / RUN).unlink()
    assert run_identity(tmp_path / "two", str(tmp_path / "one")) == two


def test_what_a_network_that_stands_still_began_with_is_known_however_many_runs_ago(tmp_path: Path) -> None:
    began = Beginning("default", "0123456789abcdef")
    for name in ("one", "two", "three", "old"):
        (tmp_path / name).mkdir()
    assert run_identity(tmp_path / "one", "default", began=began).began == began
    assert run_identity(tmp_path / "two", str(tmp_path / "one")).began == began
    assert go_on_as_another(tmp_path / "two").began == began
    assert run_identity(tmp_path / "three", str(tmp_path / "two")).began == began
    (tmp_path / "old" / RUN).write_text('{"schema": 1, "run": "0123456789abcdef", "former": ""}')
    assert run_identity(tmp_path / "old", "none").began == UNKNOWN, "as older versions wrote it"


@pytest.mark.parametrize(
    "damaged",
    ["", "{", "[]", '{"run": 5}', '{"run": "x"}', '{"run": "0123456789abcdef", "former": "x"}', '{"other": "1"}'],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damaged: str) -> None:
    (tmp_path / RUN).write_text(damaged)
    with pytest.raises(ConfigError, match=r"run.json is damaged .* put a copy of it back"):
        run_identity(tmp_path, "none")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.json"):
        run_identity(tmp_path / "missing", "none")


def test_a_run_that_lost_its_outbox_goes_on_as_another_behind_it(tmp_path: Path) -> None:
    before = run_identity(tmp_path, "none")
    after = go_on_as_another(tmp_path)
    assert after.run != before.run
    assert after.former == before.run
    assert run_identity(tmp_path, "none") == after


ONE, OTHER = "1" * 16, "2" * 16


def test_a_run_keeps_the_key_of_its_names(tmp_path: Path) -> None:
    before = run_identity(tmp_path, "none", ONE)
    assert run_identity(tmp_path, "none", ONE) == run_identity(tmp_path, "none") == before
    assert go_on_as_another(tmp_path).names_key == ONE
    check_names_key(tmp_path, ONE, "--run-dir")
    for given, said in ((OTHER, "another one"), ("", "none")):
        with pytest.raises(ConfigError, match=rf"--run-dir .* fingerprint {ONE}, and {said} is given: give the key"):
            check_names_key(tmp_path, given, "--run-dir")
    other = run_identity(tmp_path, "none", OTHER)  # where nothing was learned
    assert other.run != before.run
    check_names_key(tmp_path, OTHER, "--run-dir")


def test_a_run_that_began_without_a_key_goes_on_without(tmp_path: Path) -> None:
    for _ in range(2):
        check_names_key(tmp_path, "", "--weights")
        with pytest.raises(ConfigError, match=r"--weights .* went up as they are: leave out --names-key, or begin"):
            check_names_key(tmp_path, ONE, "--weights")
        run_identity(tmp_path, "none")
