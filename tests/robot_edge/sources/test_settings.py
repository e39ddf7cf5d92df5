from __future__ import annotations

import pytest

from broker.errors import ConfigError, SourceError
from robot_edge.sources.passwords import check_url, masked, unmasked
from robot_edge.sources.settings import Rate, SourceOptions, parse_rate


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
        ("rtsp://me:top#s3cret@cam/a", "rtsp://me:***@cam/a"),
        ("rtsp://me:top/s3cret@cam/a", "rtsp://me:***@cam/a"),
        ("rtsp://me:top?s3cret@cam/a", "rtsp://me:***@cam/a"),
        ("rtsp://me:12/s3cret@cam/a", "rtsp://me:***@cam/a"),
        ("rtsp://me:top s3cret@cam/a", "rtsp://me:***@cam/a"),
        ("RTSP://me:top%s3cret@cam/a", "RTSP://me:***@cam/a"),
        ("http://cam/v?user=a&pwd=top s3cret", "http://cam/v?user=a&pwd=***"),
        ("http://cam/v?pwd=top#s3cret&fps=3", "http://cam/v?pwd=***&fps=3"),
        ("http://cam/cgi?loginuse=a&loginpas=s3cret", "http://cam/cgi?loginuse=a&loginpas=***"),
        ("http://cam/cgi?access_token=s3cret", "http://cam/cgi?access_token=***"),
        ("gst:rtspsrc location=rtsp://me:a/s3#cret@cam/a ! x", "gst:rtspsrc location=rtsp://me:***@cam/a ! x"),
        ("gst:souphttpsrc location=http://cam/v?pwd=s3#cret ! x", "gst:souphttpsrc location=http://cam/v?pwd=*** ! x"),
        ("gst:rtspsrc user-pw='top s3cret' ! x", "gst:rtspsrc user-pw=*** ! x"),
        ('gst:rtspsrc user-pw="top s3cret" ! x', "gst:rtspsrc user-pw=*** ! x"),
        (r"gst:rtspsrc user-pw=top\ s3cret ! x", "gst:rtspsrc user-pw=*** ! x"),
        ("gst:rtspsrc user-pw=s3!cret&x ! x", "gst:rtspsrc user-pw=*** ! x"),
        ("http://cam/video?user=a@b.com&fps=3", "http://cam/video?user=a@b.com&fps=3"),
        ("rtsp://cam:554/live?x=1", "rtsp://cam:554/live?x=1"),
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
    assert unmasked("gst:rtspsrc user-pw=*** ! x") == "gst:rtspsrc user-pw='p@ss w:rd' ! x"  # a property is no URL
    monkeypatch.delenv("REFLEXARC_CAMERA_PASSWORD")
    with pytest.raises(ConfigError, match="set REFLEXARC_CAMERA_PASSWORD"):
        unmasked("rtsp://me:***@cam/a")


@pytest.mark.parametrize(
    "url",
    [
        *(f"rtsp://me:top{character}s3cret@cam/a" for character in "#/?% "),
        "rtsp://me:12345/s3cret@cam/a",
        "rtsp://me:s3cret[@cam/a",
        "rtsp://me:s3cret\u2100@cam/a",  # which urlsplit refuses with an error that shows it
        "http://cam/video?user=a&pwd=top s3cret",
        "http://cam/video?user=a&pwd=top#s3cret",
        "http://cam:8080/s3cret@live/a",
        "rtsp://me:s3cret@",
        "rtsp://me:s3cret@cam:99999/",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_unseen_with_what_to_do(url: str) -> None:
    with pytest.raises(SourceError, match=r"write % as %25.*REFLEXARC_CAMERA_PASSWORD") as error:
        check_url(url)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://me:p%40ss%23%2F%3F%25@cam:554/a?x=1",
        "rtsp://me:p@ss@cam/a",
        "rtsp://[fe80::1]:554/a",
        "http://cam/video?user=a@b.com&fps=3",
        "rtsp://cam/100%/a",
    ],
)
def test_a_url_that_is_read_as_it_is_meant_is_taken(url: str) -> None:
    check_url(url)


def test_width_and_height_come_together() -> None:
    with pytest.raises(ConfigError, match="--width and --height"):
        SourceOptions(width=640)
