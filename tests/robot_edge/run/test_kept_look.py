"""Where a run looks after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import ConfigError
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.learning.automatic import from_scratch
from robot_edge.learning.framed import framing_for
from robot_edge.learning.framing import WHOLE, Region, parse_region
from robot_edge.learning.settings import NetworkSettings
from robot_edge.run.kept_look import LOOK, framing_of, keep_look

DRAWN = Region(25.0, 10.0, 50.0, 80.0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with closing(RunFolder(tmp_path, {})) as folder:
        yield folder


def test_without_a_drawn_region_the_setting_counts(tmp_path: Path) -> None:
    assert framing_of(tmp_path, from_scratch(NetworkSettings())).region == WHOLE
    assert framing_of(tmp_path, from_scratch(NetworkSettings(look="1,2,30,40"))).region == parse_region("1,2,30,40")


@pytest.mark.parametrize("given", ["whole", "1,2,30,40"])
def test_what_was_drawn_is_looked_at_after_a_restart_with_the_same_flags(folder: RunFolder, given: str) -> None:
    keep_look(folder, from_scratch(NetworkSettings(look=given)), DRAWN)
    assert framing_of(folder.path, from_scratch(NetworkSettings(look=given))).region == DRAWN
    keep_look(folder, from_scratch(NetworkSettings(look=given)), WHOLE)
    assert framing_of(folder.path, from_scratch(NetworkSettings(look=given))).region == WHOLE


def test_another_flag_counts_for_more_than_what_was_drawn_before(folder: RunFolder) -> None:
    keep_look(folder, from_scratch(NetworkSettings()), DRAWN)
    network = from_scratch(NetworkSettings(look="1,2,30,40", fit="squash", image_size=64))
    framing = framing_of(folder.path, network)
    assert framing == framing_for(network)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 0, "given": "whole", "now": "no"}', "[" * 100_000])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / LOOK).write_text(text)
    with pytest.raises(ConfigError, match="remove it, and the robot looks as --look says"):
        framing_of(tmp_path, from_scratch(NetworkSettings()))


def test_a_full_disk_is_said_and_ends_nothing(folder: RunFolder) -> None:
    (folder.path / LOOK).mkdir()
    keep_look(folder, from_scratch(NetworkSettings()), DRAWN)
    assert LOOK in folder.disk.missing
