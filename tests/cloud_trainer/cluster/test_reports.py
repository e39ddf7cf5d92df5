from __future__ import annotations

from cloud_trainer.cluster.ingest_side import RemoteLog
from cloud_trainer.cluster.reports import Report
from cloud_trainer.robots.standing import Standing
from cloud_trainer.robots.told import no_metrics
from tests.cloud_trainer.world import SPLIT

STANDING = Standing(
    metrics=no_metrics("r1", "b" * 16, ""),
    split=SPLIT,
    classes=("cat", "dog"),
    by_class={"cat": 0.5},
    confusion={"cat": {"dog": 1, "cat": 1}},
)
REPORT = Report(waiting=3, up_to=7, saved_at=5, steps=2, stuck="", standing=STANDING)


def test_reports_are_packed_and_unpacked() -> None:
    assert Report.unpack(REPORT.pack()) == REPORT
    before = Report(waiting=0, up_to=0, saved_at=0, steps=0, stuck="no room", standing=None)
    assert Report.unpack(before.pack()) == before


def test_what_was_stored_behind_a_report_waits_too() -> None:
    log = RemoteLog("r1")
    for event in (6, 7, 8, 11):
        log.stored["r1"] += 1
        log.note_stored("r1", event)
    log.take("r1", REPORT)
    assert log.stored["r1"] - log.trained["r1"] == 3 + 2
    assert log.standings["r1"] == STANDING
