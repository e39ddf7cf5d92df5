from __future__ import annotations

import re

from cloud_trainer.page.model import CheckpointFile, FleetState, RobotRow
from cloud_trainer.page.prometheus import exposition

ROW = RobotRow(
    name="r1",
    online=True,
    heard=1.0,
    classes=("cat", "dog"),
    images=640,
    cloud_loss=0.25,
    messages_rejected=3,
    checkpoint=CheckpointFile(time=1700000000.5, size=45_000_000),
)
LINE = re.compile(r'reflexarc_[a-z_]+(\{robot="[A-Za-z0-9_-]+"\})? -?[0-9.e+-]+')


def test_every_line_is_one_that_prometheus_reads() -> None:
    lines = exposition(FleetState(robots=(ROW,), store_bytes=1000, store_limit=1e10)).splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert list(kinds) == helped
    for line in lines:
        if not line.startswith("#"):
            assert LINE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] in kinds


def test_what_is_not_known_is_left_out() -> None:
    text = exposition(FleetState(robots=(ROW, RobotRow(name="r2", online=False, heard=100.0))))
    assert 'reflexarc_robot_cloud_loss{robot="r1"} 0.25' in text
    assert 'reflexarc_robot_cloud_loss{robot="r2"}' not in text
    assert 'reflexarc_robot_online{robot="r1"} 1\nreflexarc_robot_online{robot="r2"} 0' in text
    assert 'reflexarc_robot_messages_rejected_total{robot="r1"} 3' in text
    assert 'reflexarc_robot_checkpoint_timestamp_seconds{robot="r1"} 1700000000.5' in text
