"""What is said of packages, by the metadata of a wheel."""

from __future__ import annotations

import sys

import pytest

from hierarchy.runtime.doctor import packages as packages_module
from hierarchy.runtime.doctor.packages import asked_for, extra_names, package_finding, packages, version_of

REQUIRES = [
    "numpy>=1.26",
    f"tomli>=2.0; python_version < '{sys.version_info[0]}.{sys.version_info[1]}'",
    "reflexarc[timm]; extra == 'camera'",
    "opencv-python-headless>=4.11; extra == 'camera'",
    "timm>=1.0.12; extra == 'timm'",
]


def names(extra: str) -> list[str]:
    return [one.name for one in asked_for(REQUIRES, extra)]


def test_an_extra_asks_for_what_those_it_names_do_and_for_nothing_of_other_pythons() -> None:
    assert names("") == ["numpy"]
    assert names("camera") == ["timm", "opencv-python-headless"]
    assert names("timm") == ["timm"]


def test_what_is_missing_too_old_or_there_is_told_apart() -> None:
    there = {"timm": "1.0.31"}
    missing = package_finding("camera", REQUIRES, "camera", there.get)
    assert str(missing) == "missing  camera      opencv-python-headless>=4.11: pip install 'reflexarc[camera]'"
    old = package_finding("timm", REQUIRES, "timm", {"timm": "0.9"}.get)
    assert old.state == "problem"
    assert old.text == "an older version of timm>=1.0.12"
    assert old.remedy == "pip install --upgrade 'reflexarc[timm]'"
    assert package_finding("timm", REQUIRES, "timm", {"timm": "1.1.0rc1"}.get).state == "ok", "a later one is tried out"
    assert str(package_finding("timm", REQUIRES, "timm", there.get)) == "ok       timm        timm 1.0.31"
    assert package_finding("packages", REQUIRES, "", there.get).remedy == "pip install reflexarc"


def test_opencv_counts_by_whatever_name_it_came() -> None:
    there = {"timm": "1.0.31", "opencv-python-headless": ""}
    found = package_finding("camera", REQUIRES, "camera", there.get)
    assert (found.state, found.text) == ("ok", "timm 1.0.31, opencv-python-headless")
    assert version_of("no-package-of-this-name") is None


def test_the_installed_program_has_its_extras() -> None:
    first, *extras = packages()
    assert (first.name, first.state) == ("packages", "ok"), first
    assert [one.name for one in extras] == extra_names()
    assert {"camera", "page", "export"} <= set(extra_names())
    assert not {"test", "docs"} & set(extra_names())


def test_a_program_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages_module, "PROJECT", "reflexarc-nowhere")
    assert extra_names() == []
    (found,) = packages()
    assert (found.state, found.remedy) == ("problem", "pip install .")
