from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigError, SourceError
from robot_edge.run.config import RobotConfig
from robot_edge.run.source_files import files_of, go_on_with
from robot_edge.sources.about import look_at, sources_at, told
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions

GOLDEN = Path(__file__).parents[2] / "golden" / "tub"


@pytest.fixture(name="tub")
def _tub(tmp_path: Path) -> Path:
    """What donkeycar itself wrote: see tests/golden/README.md."""
    return shutil.copytree(GOLDEN, tmp_path / "tub")


def frames(tub: Path, *, epochs: int = 1, seek: int = 0, **options: Any) -> list[Frame]:
    with closing(open_source(f"tub:{tub}", SourceOptions(**options), epochs=epochs)) as source:
        source.seek(seek)
        return list(iter(source.next, None))


def numbers(shown: list[Frame]) -> list[int]:
    """The numbers of records, which the greys of their pictures say."""
    return [round(int(frame.image[0, 0, 0]) / 20) for frame in shown]


def left_out(tub: Path) -> dict[str, int]:
    with closing(open_source(f"tub:{tub}")) as source:
        return {one.kind: one.count for one in source.left_out}


def test_records_are_shown_as_they_were_driven_with_donkeycars_labels(tub: Path) -> None:
    shown = frames(tub)
    assert numbers(shown) == [0, 1, 2, 3, 5, 6, 7]
    assert [frame.label for frame in shown] == [("Left_Lane", "Right_Lane")[number % 2] for number in numbers(shown)]
    assert {frame.image.shape for frame in shown} == {(6, 8, 3)}
    assert all(int(frame.time) == frame.scene for frame in shown)
    assert [frame.time for frame in shown] == sorted(frame.time for frame in shown)
    assert left_out(tub) == {"deleted records": 1}


def test_a_replay_goes_on_at_the_very_record_in_any_epoch(tub: Path) -> None:
    assert numbers(frames(tub, epochs=2, seek=9)) == numbers(frames(tub, epochs=2))[9:] == [2, 3, 5, 6, 7]


def test_another_field_may_have_the_class(tub: Path) -> None:
    assert {frame.label for frame in frames(tub, label_field="user/mode")} == {"user"}
    with pytest.raises(SourceError, match=r"no field 'user/angle': --label-field is one of user/mode, behavior/label"):
        frames(tub, label_field="user/angle")
    with pytest.raises(SourceError, match=r"no camera 'left': choose one with --camera: cam/image_array"):
        frames(tub, camera="left")


def test_what_is_in_it_is_told(tub: Path) -> None:
    (source,) = sources_at(str(tub))
    assert source == f"tub:{tub}"
    text = "\n".join(told(look_at(source, SourceOptions())))
    for line in (
        "7 frames",
        "8 x 6",
        "cameras   cam/image_array",
        "Right_Lane: 4, Left_Lane: 3",
        "user/mode, behavior",
    ):
        assert line in text


def test_a_half_written_tub_loses_its_last_record_alone(tub: Path) -> None:
    last = tub / "catalog_2.catalog"
    last.write_bytes(last.read_bytes()[:-30])
    manifest = (tub / "manifest.json").read_text().splitlines(keepends=True)
    (tub / "manifest.json").write_text("".join(manifest[:4]) + manifest[4][:20])  # it is written anew at each record
    assert numbers(frames(tub)) == [0, 1, 2, 3, 4, 5, 6]  # which one was deleted is lost
    assert left_out(tub) == {"records that cannot be read": 1}


def test_damaged_and_missing_pictures_and_bad_records_are_counted(tub: Path) -> None:
    (tub / "images" / "0_cam_image_array_.jpg").unlink()
    (tub / "images" / "1_cam_image_array_.jpg").write_bytes(b"no picture")
    catalog = tub / "catalog_1.catalog"
    text = catalog.read_text()
    catalog.write_text(text.replace("3_cam_image_array_.jpg", "../../3.jpg").replace('"Right_Lane"', "0.5"))
    with closing(open_source(f"tub:{tub}")) as source:
        shown = list(iter(source.next, None))
        assert source.skipped == 2
    assert numbers(shown) == [2, 5, 6, 7]
    assert [frame.label for frame in shown] == ["Left_Lane", None, "Left_Lane", "Right_Lane"]
    counts = left_out(tub)
    assert counts["records without a picture of cam/image_array"] == 1
    assert counts["labels that no class can have"] == 1


@pytest.mark.parametrize(
    "manifest", ["", "[]\n{}\n", '["a"]\n["image_array", "str"]\n', '["a"]\n["float"]\n', "\udcff"]
)
def test_what_is_no_tub_is_said(tub: Path, manifest: str) -> None:
    (tub / "manifest.json").write_text(manifest, errors="surrogateescape")
    with pytest.raises(SourceError, match=r"expected a tub of donkeycar|has no cameras"):
        frames(tub)


def test_a_run_does_not_go_on_with_another_tub(tub: Path) -> None:
    config = RobotConfig.from_flags(source=f"tub:{tub}", run_dir=str(tub.parent / "run"))
    before = files_of(config)
    assert len(before.marks) == 4
    assert go_on_with(before, files_of(config), config) is None
    with (tub / "catalog_2.catalog").open("a") as catalog:
        catalog.write("{}\n")
    with pytest.raises(ConfigError, match=r"is not what it was"):
        go_on_with(before, files_of(config), config)
