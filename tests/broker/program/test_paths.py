from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.program.paths import did_you_mean, like, shown, typed_path, what_is_wrong


def test_a_tilde_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert typed_path("~/a.mcap") == Path("/home/me/a.mcap")
    assert typed_path("~") == Path("/home/me")
    for text in ("a/~/b", "./~", "~nobody-of-that-name/a", "/a"):
        assert typed_path(text) == Path(text)


def test_what_is_called_nearly_so_is_offered(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "train").mkdir(parents=True)
    (tmp_path / "\udce4\udce4").mkdir()
    for wrong, right in {"cifr10": "cifar10", "CIFAR10": "cifar10", "cifra10/train": "cifar10/train"}.items():
        assert did_you_mean(tmp_path / wrong) == f" (did you mean {tmp_path / right}?)"
    assert did_you_mean(tmp_path / "cifr10" / "test") == f" (did you mean {tmp_path / 'cifar10'}?)"
    for wrong in ("mnist", "x/y/z"):
        assert not did_you_mean(tmp_path / wrong)
    assert not did_you_mean(Path("/nowhere-at-all/x"))


def test_a_word_is_like_another_whatever_its_case() -> None:
    assert like("Foldr", ["video", "folder"]) == "folder"
    assert not like("x", ["video", "folder"])


def test_why_a_path_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    assert not what_is_wrong(tmp_path / "file")
    assert what_is_wrong(tmp_path / "elsewhere") == "does not exist"
    assert what_is_wrong(tmp_path / "file" / "x") == "does not exist"
    assert what_is_wrong(tmp_path / "link") == "is a link to gone, which does not exist"
    assert what_is_wrong(tmp_path / "loop").startswith("cannot be opened: Too many levels")
    assert what_is_wrong(tmp_path / ("x" * 300)).startswith("cannot be opened: File name too long")
    assert what_is_wrong(Path("a\0b")).startswith("is no path")


def test_a_path_that_is_not_utf_8_can_be_shown() -> None:
    path = os.fsdecode(b"caf\xe9")
    assert shown(path) == r"caf\xe9"
    assert shown("café") == "café"
