"""What trackers are told, under names that are the same at both ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from broker.wire.messages import RobotMetrics, TrainerMetrics

# Of a test. A tracker draws a curve for each class, and a cell for each pair.
MAX_CLASSES, MAX_PAIRS = 200, 10_000
# A table that is wider is hard to read: then the pairs that are confused most are listed.
MAX_WIDE, MAX_LISTED = 20, 200

RATE = "robot/images_per_second"
NOTHING = "(nothing)"

# True name, name that the frame was given, frames.
Pair = tuple[str, str, int]


def figures(own: RobotMetrics | None, cloud: TrainerMetrics | None) -> dict[str, float]:
    """Return the figures of a robot's run that are known by now. Accuracies are shares of 1."""
    values: dict[str, float | None] = {}
    if own:
        values |= {
            "exit/loss": own.exit_loss,
            "exit/prequential": own.exit_prequential,
            "exit/accuracy": own.exit_accuracy,
            "robot/classes": own.classes,
            RATE: own.images_per_second,
            "uplink/bytes_per_image": own.bytes_per_image,
            "uplink/queued": own.queued,
            "uplink/dropped": own.dropped,
        }
    if cloud:
        values |= {
            "cloud/loss": cloud.cloud_loss,
            "cloud/prequential": cloud.cloud_prequential,
            "cloud/recent": cloud.cloud_recent,
            "cloud/accuracy": cloud.cloud_accuracy,
            "cloud/images": cloud.images,
            "cloud/messages_waiting": cloud.messages_waiting,
        }
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def news(values: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that are another only where something has happened. A mean over time is never the same."""
    return {name: value for name, value in values.items() if name != RATE}


def of_classes(end: str, by_class: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracy of each class under the name of a figure, in which a slash begins another level."""
    return {f"{end}/accuracy_of/{name.replace('/', '_')}": share for name, share in by_class.items()}


def pairs(confusion: Mapping[str, Mapping[str, int]]) -> list[Pair]:
    """Return how often each class was taken for which, the most frequent first. An empty name is none at all."""
    found = [(true, guess, count) for true, row in confusion.items() for guess, count in row.items()]
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))[:MAX_PAIRS]


def as_markdown(counted: list[Pair]) -> str:
    """Return a confusion as a table for people: rows are true classes; of many classes those most confused."""
    rows = sorted({true for true, _, _ in counted})
    columns = sorted({*rows, *(guess for _, guess, _ in counted)}, key=lambda name: (not name, name))
    if len(columns) > MAX_WIDE:
        wrong = [pair for pair in counted if pair[0] != pair[1]][:MAX_LISTED]
        lines = [
            ["true", "taken for", "frames"],
            *([true, guess or NOTHING, str(count)] for true, guess, count in wrong),
        ]
    else:
        count_of = {(true, guess): count for true, guess, count in counted}
        lines = [["true \\ taken for", *(name or NOTHING for name in columns)]]
        lines += [[true, *(str(count_of.get((true, guess), 0)) for guess in columns)] for true in rows]
    table = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    return "\n".join([table[0], "|" + " --- |" * len(lines[0]), *table[1:]])
