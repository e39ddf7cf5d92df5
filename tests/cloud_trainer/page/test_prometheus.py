from __future__ import annotations

import re
from dataclasses import replace

from cloud_trainer.checkpoints import CheckpointFile
from cloud_trainer.page.model import FleetState, RobotRow, SharedHalf
from cloud_trainer.page.prometheus import exposition

ROW = RobotRow(
    name="r1",
    online=True,
    classes=("cat", "dog"),
    images=640,
    cloud_loss=0.25,
    messages_rejected=3,
    checkpoint=CheckpointFile(time=1700000000.5, size=45_000_000),
)
LABELS = r'\{(robot|fleet)="[A-Za-z0-9_-]+"(,[a-z]+="[A-Za-z0-9_-]+")*\}'
LINE = re.compile(rf"reflexarc_[a-z_]+({LABELS})? -?[0-9.e+-]+")
SHARED = SharedHalf(fleet="lab", front="f" * 16, robots=2, images=900, classes=3, accuracy=0.75, exit_version=4)


def test_every_line_is_one_that_prometheus_reads() -> None:
    lines = exposition(
        FleetState(robots=(ROW, replace(ROW, name="r2", shared=SHARED)), store_bytes=1000, store_limit=1e10)
    ).splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert list(kinds) == helped
    for line in lines:
        if not line.startswith("#"):
            assert LINE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] in kinds


def test_what_is_not_known_is_left_out() -> None:
    text = exposition(FleetState(robots=(ROW, RobotRow(name="r2", online=False))))
    assert 'reflexarc_robot_cloud_loss{robot="r1"} 0.25' in text
    assert 'reflexarc_robot_cloud_loss{robot="r2"}' not in text
    assert 'reflexarc_robot_online{robot="r1"} 1\nreflexarc_robot_online{robot="r2"} 0' in text
    assert 'reflexarc_robot_messages_rejected_total{robot="r1"} 3' in text
    assert 'reflexarc_robot_checkpoint_timestamp_seconds{robot="r1"} 1700000000.5' in text


def test_robots_of_a_fleet_are_found_by_it_and_their_half_is_there_once() -> None:
    rows = (ROW, replace(ROW, name="r2", shared=SHARED), replace(ROW, name="r3", shared=SHARED))
    text = exposition(FleetState(robots=rows))
    half = f'{{fleet="lab",front="{SHARED.front}"}}'
    assert f'reflexarc_robot_images{{robot="r1"}} 640\nreflexarc_robot_images{{robot="r2",{half[1:]} 640' in text
    for name, value in {
        "robots": "2",
        "images": "900",
        "classes": "3",
        "accuracy": "0.75",
        "exit_version": "4",
    }.items():
        assert text.count(f"reflexarc_fleet_{name}{half} {value}\n") == 1
    assert "fleet" not in exposition(FleetState(robots=(ROW,)))
