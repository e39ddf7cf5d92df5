from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import SourceError
from robot_edge.sources.label_file import Interval, read_labels


def read(path: Path, content: str | bytes) -> list[Interval]:
    (path / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return read_labels(path / "labels.csv")


CUP, PEN = Interval(start=0, end=4.5, name="cup"), Interval(start=5, end=9.5, name="pen")


@pytest.mark.parametrize(
    "content",
    [
        "start,end,class\n0,4.5,cup\n5,9.5,pen",
        "\ufeffstart,end,class\r\n0,4.5,cup\r\n5,9.5,pen\r\n\r\n,,\r\n",
        "start;end;class\n0;4.5;cup\n5;9.5;pen",
        "0;4,5;cup\n5;9,5;pen",
        "sep=;\nstart;end;class\n0;4,5;cup\n5;9,5;pen",
        "start\tend\tclass\n0\t4.5\tcup\n5\t9.5\tpen",
        "0.000000\t4.500000\tcup\n5.000000\t9.500000\tpen",  # Audacity
        "0|4.5|cup\n5|9.5|pen",
        "start\tend\tclass\n0\t4.5\tcup\n5\t9.5\tpen".encode("utf-16"),
        "0;4,5;cup\n5;9,5;pen".encode("utf-16-be").join([b"\xfe\xff", b""]),
        "start,end,class\r0,4.5,cup\r5,9.5,pen",
        "00:00:00,00:00:04.500,cup\n0:05,00:09.5,pen",
        "00:00:00;00:00:04,500;cup\n0:05;00:09,5;pen",
        '"start","end","class"\n"0","4.5","cup"\n"5","9.5","pen"',
        '"0", "4.5", "cup"\n"5", "9.5", "pen"',
        "# made with x\nstart,end,class\n0,4.5,cup\n# and\n5,9.5,pen",
        "Label,Begin (s),End (s)\ncup,0,4.5\npen,5,9.5",
        "id,start_time,end_time,label,remark\n7,0,4.5,cup,blurred\n8,5,9.5,pen",
        "Begin Time - msec,End Time - msec,annotation\n0,4500,cup\n5000,9500,pen",  # ELAN
        "5,9.5,pen\n0,4.5,cup",
    ],
)
def test_files_of_spreadsheets_and_annotation_tools_are_read(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == [CUP, PEN]


def test_names_may_have_separators_and_line_ends_in_quotes(tmp_path: Path) -> None:
    assert [one.name for one in read(tmp_path, '0,1,"cable, drum"\n1,2,"say ""so"""\n')] == ["cable, drum", 'say "so"']
    with pytest.raises(SourceError, match="line 3"):
        read(tmp_path, '"start","end",class\n0,1,"two\nlines"\n')


def test_ends_that_were_rounded_do_not_overlap(tmp_path: Path) -> None:
    assert [one.name for one in read(tmp_path, "0,3.3334,cup\n3.333,5,pen")] == ["cup", "pen"]


def test_windows_1252_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, "start,end,class\r\n0,1,Tür\r\n".encode("cp1252"))[0].name == "Tür"
    assert "read as Windows-1252, as in '0,1,Tür'" in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 lines"),
        ("start,end,class\n", "0 lines"),
        ("0,1,\n", "line 1"),
        ("0,1," + "x" * 10_000, "line 1"),
        ("0,1,a\n1,2,b\x07", "line 2"),
        ("1,1,a", "is no time"),
        ("2,1,a", "is no time"),
        ("-1,1,a", "is no time"),
        ("0,inf,a", "is no time"),
        ("nan,1,a", "is no time"),
        ("0,1", "expected start,end,class"),
        ("0,1,a,b", "expected start,end,class"),
        ("begin,1,a", "line 1"),
        ("0,1,a\n\nzero,1,b", "line 3: 'zero,1,b': 'zero' is no time in seconds; expected start,end,class"),
        ("begin,1,a", "'begin' is no time"),
        ("cup,0,1", "'cup' is no time in seconds"),
        ("start,end\n0,1", "needs one for class"),
        ("start,end,label,class\n0,1,a,b", "needs one for class"),
        ("start,length,class\n0,1,a", "line 1: columns 'start, length, class': needs one for end"),
        (
            "start_frame,end_frame,class\n0,10,a",
            "in 'frame': divide numbers of frames by the video's frames per second",
        ),
        ("start,end frame,class\n0,10,a", "line 1: start and end are in"),
        ("0;1,5,cup", "expected start,end,class"),
        ("0,4,5,cup", "it has 4 columns"),
        ("1\n00:00:00,000 --> 00:00:04,500\ncup\n", "line 1"),  # SubRip
        ("0,5,a\n4,6,b", "lines 1 and 2 say what is shown at 4 s"),
        ("4,6,b\n0,5,a", "lines 2 and 1"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as error:
        read(tmp_path, text)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"0,1,\x81", b"PK\x03\x04", "0,1,a".encode("utf-16-le")])
def test_labels_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match="save"):
        read(tmp_path, content)
    with pytest.raises(SourceError, match="No such file"):
        read_labels(tmp_path / "none.csv")


def test_the_same_class_may_be_shown_several_times(tmp_path: Path) -> None:
    assert read(tmp_path, "5,6,cup\n0,1,cup\n1,2,cup")[2] == Interval(start=5, end=6, name="cup")
