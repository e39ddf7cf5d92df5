from __future__ import annotations

import shutil
from contextlib import closing

import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.sources import gstreamer
from robot_edge.sources.gstreamer import LAUNCH, launch_command
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.sources.streams import frame_of, wait_for

needs_gstreamer = pytest.mark.skipif(shutil.which(LAUNCH) is None, reason="GStreamer is not installed")
RED = "videotestsrc is-live=true pattern=solid-color foreground-color=0xffc83214"


@needs_gstreamer
@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 17)])
def test_a_pipeline_shows_rgb_of_the_chosen_size(width: int, height: int) -> None:
    options = SourceOptions(width=width, height=height, fps=12.5)
    with closing(open_source(f"gst:{RED}", options, image_size=32)) as source:
        frame = frame_of(source)
        assert frame.image.shape == (height, width, 3)
        assert np.abs(frame.image.astype(int) - (0xC8, 0x32, 0x14)).max() < 4
        assert frame_of(source).time > frame.time


@needs_gstreamer
def test_a_pipeline_that_ends_is_started_again() -> None:
    options = SourceOptions(width=64, height=48)
    with closing(open_source(f"gst:{RED} num-buffers=3", options, image_size=32)) as source:
        frame_of(source)
        wait_for(lambda: source.reconnects >= 1)


@needs_gstreamer
def test_a_pipeline_that_cannot_start_says_why() -> None:
    options = SourceOptions(width=64, height=48)
    with closing(open_source("gst:nosuchsrc", options, image_size=32)) as source:
        wait_for(lambda: "nosuchsrc" in source.status.removeprefix("waiting for gst:nosuchsrc"))


@needs_gstreamer
def test_a_pipeline_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "OPEN_SECONDS", 0.5)
    options = SourceOptions(width=64, height=48)
    with closing(open_source("gst:fakesrc is-live=true ! identity sleep-time=9000000", options, image_size=32)) as one:
        wait_for(lambda: "no picture came within 0.5 s" in one.status or "ended" in one.status)


def test_the_size_has_to_be_chosen() -> None:
    with pytest.raises(SourceError, match="needs --width and --height"):
        open_source(f"gst:{RED}", image_size=32)


def test_without_gstreamer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"apt-get install gstreamer1\.0-tools"):
        open_source(f"gst:{RED}", SourceOptions(width=8, height=8), image_size=32)


def test_a_pipeline_goes_through_no_shell() -> None:
    options = SourceOptions(width=8, height=8)
    assert launch_command("a ! b; touch /tmp/x 'c d'", options)[2:8] == ["a", "!", "b;", "touch", "/tmp/x", "c d"]
    with pytest.raises(ValueError, match="quotation"):
        launch_command("a 'b", options)
