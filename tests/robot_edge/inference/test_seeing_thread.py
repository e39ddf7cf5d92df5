"""A camera that goes away while a robot looks: what it showed last is no news."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import robot_edge.inference.seeing_thread
from robot_edge.inference.cascade import Decision
from robot_edge.inference.seeing_thread import SeeingThread, View
from robot_edge.learning.framed import Viewfinder
from robot_edge.learning.framing import Framing, parse_region
from robot_edge.run.live import said_of
from robot_edge.sources.frames import Frame

VIEWFINDER = Viewfinder(Framing(size=8), keep=lambda _: None)


def ignore(*_: Any) -> None: ...


def sure(taken_at: float) -> Decision:
    return Decision(name="mug", confidence=1.0, by="exit", taken_at=taken_at, latency=0.0)


class Camera:
    """Shows frames while it is there."""

    ended = paused = False

    def __init__(self) -> None:
        self.there = True

    def latest(self, timeout: float | None = None) -> Frame | None:
        time.sleep(0.005)
        image = np.zeros((8, 8, 3), np.uint8)
        return Frame(image=image, label=None, scene=0, time=time.time()) if self.there else None


class FramePath:
    """Is sure of every frame."""

    encoding = None

    def look(self, _image: Any, *, taken_at: float) -> list[Decision]:
        return [sure(taken_at)]

    def wait(self, _timeout: float) -> list[Decision]:
        return []


def wait_for(what: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 20
    while not what():
        assert time.monotonic() < give_up
        threading.Event().wait(0.01)


def test_while_no_frame_comes_nothing_is_seen_and_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.inference.seeing_thread, "STALE_SECONDS", 0.1)
    camera, told = Camera(), list[Decision]()
    seeing = SeeingThread(camera, FramePath(), viewfinder=VIEWFINDER, saw=ignore, tell=lambda one, _: told.append(one))  # type: ignore[arg-type]
    try:
        wait_for(lambda: seeing.view and seeing.view.decision.name == "mug")
        camera.there = False
        wait_for(lambda: seeing.view and seeing.view.stale)
        view = seeing.view
        assert view is not None
        assert (view.decision.name, view.decision.confidence) == ("", 0.0)
        count = len(told)
        wait_for(lambda: len(told) > count + 2)  # for whoever comes just now
        assert {(one.name, one.confidence) for one in told[count:]} == {("", 0.0)}
        assert said_of(seeing.view, ("mug", "star"), view.seen_at + 12).startswith("SEES NOTHING: no frame for 12 s")
        assert seeing.wait(view.number, 10.0), "who looks at the page hears of it, too"
        camera.there = True
        wait_for(lambda: seeing.view and not seeing.view.stale)
        assert told[-1].name == "mug"
    finally:
        seeing.close()


def test_what_is_named_and_taught_is_what_the_viewfinder_shows() -> None:
    shown, named = list[Any](), list[Any]()
    sight = FramePath()
    look = sight.look

    def note(image: Any, *, taken_at: float) -> list[Decision]:
        named.append(image)
        return look(image, taken_at=taken_at)

    sight.look = note  # type: ignore[method-assign,assignment]
    finder = Viewfinder(Framing(size=4, region=parse_region("0%,0%,50%,100%")), keep=ignore)
    camera: Any = Camera()
    seeing = SeeingThread(camera, sight, viewfinder=finder, saw=lambda *one: shown.append(one), tell=ignore)  # type: ignore[arg-type]
    try:
        wait_for(lambda: len(shown) > 1)
    finally:
        seeing.close()
    assert named[0].shape == (4, 4, 3)
    assert [image is other for (_, image), other in zip(shown, named, strict=False)] == [True] * len(shown), "once each"
    assert shown[0][0].image.shape == (8, 8, 3), "a page shows all of it"


def test_a_paused_recording_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.inference.seeing_thread, "STALE_SECONDS", 0.0)
    camera, looks = Camera(), list[float]()
    camera.paused = True
    sight = FramePath()

    def note(timeout: float) -> list[Decision]:
        looks.append(timeout)
        return []

    monkeypatch.setattr(sight, "wait", note)
    seeing = SeeingThread(camera, sight, viewfinder=VIEWFINDER, saw=ignore, tell=ignore)  # type: ignore[arg-type]
    try:
        wait_for(lambda: seeing.view)
        camera.there = False
        looks.clear()
        wait_for(lambda: len(looks) > 5)
        assert seeing.view is not None
        assert not seeing.view.stale
    finally:
        seeing.close()


def test_one_class_is_no_certainty() -> None:
    frame = Frame(image=np.zeros((8, 8, 3), np.uint8), label=None, scene=0, time=0.0)
    view = View(frame, sure(0.0), 1, 0.0)
    unsure = View(frame, replace(sure(0.0), name="", confidence=0.0), 1, 0.0)
    assert said_of(unsure, ("mug",), 0.0) == "cannot compare: mug is its only class"
    assert said_of(view, ("mug",), 0.0) == "sees mug (100 %, exit)", "remembered frames are something to compare with"
    stranger = View(frame, replace(sure(0.0), name="", confidence=0.01), 1, 0.0)
    assert said_of(stranger, ("mug",), 0.0) == "sees nothing it knows (1 %, exit)"
    assert said_of(view, ("mug", "star"), 0.0) == "sees mug (100 %, exit)"
    assert said_of(view, (), 0.0) == "knows no class yet"
    assert said_of(None, ("mug",), 0.0) == "sees nothing yet"
