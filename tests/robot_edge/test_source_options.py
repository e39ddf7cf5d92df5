from __future__ import annotations

import pytest

from broker.errors import ConfigError
from robot_edge.source_options import Rate, SourceOptions, masked, parse_rate, unmasked


@pytest.mark.parametrize(("text", "rate"), [("realtime", "realtime"), ("max", "max"), ("2.5", 2.5)])
def test_a_rate_is_a_word_or_a_number(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "", "0", "-1", "nan", "inf"])
def test_another_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:s3cret@cam:554/live?x=1", "rtsp://me:***@cam:554/live?x=1"),
        ("rtsp://:s3cret@cam", "rtsp://:***@cam"),
        ("rtsp://me:s3c:r@et@cam/a", "rtsp://me:***@cam/a"),
        ("http://cam/video.cgi?user=a&pwd=s3cret&fps=3", "http://cam/video.cgi?user=a&pwd=***&fps=3"),
        ("http://cam/v?token=s3cret", "http://cam/v?token=***"),
        (
            "gst:rtspsrc location=rtsp://me:s3cret@cam/a ! decodebin",
            "gst:rtspsrc location=rtsp://me:***@cam/a ! decodebin",
        ),
        ("gst:rtspsrc user-id=me user-pw=s3cret ! decodebin", "gst:rtspsrc user-id=me user-pw=*** ! decodebin"),
        ("rtsp://me@cam/a", "rtsp://me@cam/a"),
        ("folder:/data/a:b@c", "folder:/data/a:b@c"),
        ("sim:", "sim:"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


def test_the_mask_stands_for_the_password_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLEXARC_CAMERA_PASSWORD", "p@ss w:rd")
    assert unmasked("rtsp://me:***@cam/a") == "rtsp://me:p%40ss%20w%3Ard@cam/a"
    assert unmasked("rtsp://me@cam/a") == "rtsp://me@cam/a"
    monkeypatch.delenv("REFLEXARC_CAMERA_PASSWORD")
    with pytest.raises(ConfigError, match="set REFLEXARC_CAMERA_PASSWORD"):
        unmasked("rtsp://me:***@cam/a")


def test_width_and_height_come_together() -> None:
    with pytest.raises(ConfigError, match="--width and --height"):
        SourceOptions(width=640)
