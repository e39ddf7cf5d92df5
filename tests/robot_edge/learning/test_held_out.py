from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import SourceError
from robot_edge.evaluation.evaluate import source_to_test
from robot_edge.learning.held_out import open_held_out
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.sources.frames import FrameSource
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.sources.test_bag import Bag
from tests.robot_edge.sources.test_video import RATE, write_video


def labels_of(source: FrameSource) -> list[str | None]:
    with closing(source):
        return [frame.label for frame in iter(source.next, None)]


@pytest.fixture(name="clips")
def _clips(tmp_path: Path) -> Path:
    """Two videos: train.mp4 shows a cup and then a pen, test.mp4 a pen alone."""
    write_video(tmp_path / "train.mp4", frames=2 * RATE)
    write_video(tmp_path / "test.mp4", frames=2 * RATE)
    (tmp_path / "train.csv").write_text("0,1,cup\n1,2,pen\n")
    (tmp_path / "test.csv").write_text("0,2,pen\n")
    return tmp_path


def test_a_held_out_video_is_judged_by_its_own_labels(clips: Path) -> None:
    config = RobotConfig.from_flags(
        source=f"video:{clips}/train.mp4",
        labels=f"{clips}/train.csv",
        held_out=f"video:{clips}/test.mp4",
        held_out_labels=f"{clips}/test.csv",
    )
    assert labels_of(open_held_out(config.source, 32, 0, ())) == ["pen"] * 2 * RATE


def test_what_is_wrong_with_held_out_labels_names_their_flag(clips: Path) -> None:
    (clips / "late.csv").write_text("90,95,pen\n")
    config = RobotConfig.from_flags(
        source=f"video:{clips}/train.mp4",
        labels=f"{clips}/train.csv",
        held_out=f"video:{clips}/test.mp4",
        held_out_labels=f"{clips}/late.csv",
    )
    with pytest.raises(SourceError, match=r"--held-out: --held-out-labels .*late\.csv: none of its 1 labels"):
        open_held_out(config.source, 32, 0, ())


def test_a_held_out_bag_has_topics_of_its_own_or_those_of_the_source(tmp_path: Path) -> None:
    with Bag(tmp_path, "mcap") as bag:
        for name in ("left", "right"):
            bag.string(name, 0, f"/what/{name}")
            bag.image(1, 1, f"/{name}")
    sources = {"source": "bag:a", "held_out": f"bag:{bag.path}"}
    topics = {"image_topic": "/left", "label_topic": "/what/left"}
    config = RobotConfig.from_flags(**sources, **topics)
    assert labels_of(open_held_out(config.source, 32, 0, ())) == ["left"]
    own = {"held_out_image_topic": "/right", "held_out_label_topic": "/what/right"}
    config = RobotConfig.from_flags(**sources, **topics, **own)
    assert labels_of(open_held_out(config.source, 32, 0, ())) == ["right"]
    with pytest.raises(SourceError, match="set --held-out-image-topic; its topics"):
        open_held_out(RobotConfig.from_flags(**sources).source, 32, 0, ())


def test_an_evaluation_has_labels_of_its_own(clips: Path) -> None:
    run = RobotConfig.from_flags(source=f"video:{clips}/train.mp4", labels=f"{clips}/train.csv")
    source = f"video:{clips}/test.mp4"
    config = EvaluateConfig(source=source, checkpoint="r1", options=SourceOptions(labels=f"{clips}/test.csv"))
    assert labels_of(source_to_test(config, run)) == ["pen"] * 2 * RATE
    with pytest.raises(SourceError, match="give --labels"):
        source_to_test(EvaluateConfig(source=source, checkpoint="r1"), run)
