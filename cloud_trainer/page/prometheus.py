"""A trainer's figures for Prometheus, in its text format 0.0.4. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from cloud_trainer.page.model import FleetState, RobotRow, SharedHalf

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STORE_BYTES = "What the store takes of the disk."
STORE_LIMIT = "What the store may take."
TAKING = "Whether activations are taken."

# Of each robot: name, type, what it is, and where it comes from. None is left out: not known is not 0.
ROBOT_METRICS: list[tuple[str, str, str, Callable[[RobotRow], float | None]]] = [
    ("robot_online", "gauge", "Whether the robot is there.", lambda row: row.online),
    ("robot_classes", "gauge", "Classes that the cloud's network knows.", lambda row: len(row.classes)),
    ("robot_images", "gauge", "Images that the cloud has learned from.", lambda row: row.images),
    ("robot_exit_loss", "gauge", "Loss of the robot's early exit.", lambda row: row.exit_loss),
    ("robot_cloud_loss", "gauge", "Loss of the cloud's network.", lambda row: row.cloud_loss),
    ("robot_exit_accuracy", "gauge", "Share of held-out frames that the exit names.", lambda row: row.exit_accuracy),
    ("robot_cloud_accuracy", "gauge", "Share of held-out frames that the cloud names.", lambda row: row.cloud_accuracy),
    ("robot_bytes_per_image", "gauge", "Bytes sent for an image.", lambda row: row.bytes_per_image),
    ("robot_messages_trained", "gauge", "Messages that were learned from.", lambda row: row.messages_trained),
    ("robot_messages_waiting", "gauge", "Messages stored and not learned from yet.", lambda row: row.messages_waiting),
    ("robot_messages_queued", "gauge", "Messages on the robot without a receipt.", lambda row: row.queued),
    ("robot_messages_rejected_total", "counter", "Messages that were rejected.", lambda row: row.messages_rejected),
    ("robot_messages_dropped_total", "counter", "Dropped unread: it sent too many.", lambda row: row.messages_dropped),
    ("robot_quarantined", "gauge", "Whether the robot's messages are not taken.", lambda row: bool(row.problem)),
    (
        "robot_teaches_nothing",
        "gauge",
        "Whether its images are named no better than by guessing.",
        lambda row: bool(row.doubt),
    ),
    ("robot_apart", "gauge", "Whether it shares a half with fewer than it asks for.", lambda row: bool(row.apart)),
    (
        "robot_checkpoint_timestamp_seconds",
        "gauge",
        "When the last checkpoint was written.",
        lambda row: row.checkpoint.time if row.checkpoint else None,
    ),
    (
        "robot_checkpoint_bytes",
        "gauge",
        "What the last checkpoint takes of the disk.",
        lambda row: row.checkpoint.size if row.checkpoint else None,
    ),
]


# The same of each half that robots of a fleet share.
SHARED_METRICS: list[tuple[str, str, Callable[[SharedHalf], float | None]]] = [
    ("fleet_robots", "Robots whose samples the shared half has learned from.", lambda half: half.robots),
    ("fleet_images", "Images that the shared half has learned from.", lambda half: half.images),
    ("fleet_classes", "Classes that the shared half knows.", lambda half: half.classes),
    ("fleet_accuracy", "Share of all robots' held-out frames that the half names.", lambda half: half.accuracy),
    ("fleet_exit_version", "The newest exit that its robots are sent.", lambda half: half.exit_version or None),
    ("fleet_exit_accuracy", "Share of held-out frames that this exit names.", lambda half: half.exit_accuracy),
]


# With labels; None is not known.
Values = Iterable[tuple[Mapping[str, str], float | None]]


def exposition(state: FleetState) -> str:
    """Return all figures of a trainer as text."""
    lines: list[str] = []
    for name, kind, about, value in (
        ("store_bytes", "gauge", STORE_BYTES, state.store_bytes),
        ("store_limit_bytes", "gauge", STORE_LIMIT, state.store_limit),
        ("taking", "gauge", TAKING, not state.problem),
        ("strangers_rejected_total", "counter", "Rejected messages of unknown robots.", state.strangers_rejected),
        ("strangers_dropped_total", "counter", "Messages of unknown robots dropped unread.", state.strangers_dropped),
    ):
        lines += family(name, kind, about, [({}, value)])
    return as_text([*lines, *of_robots(state)])


def of_robots(state: FleetState) -> list[str]:
    """Return the lines about robots, and about halves that they share."""
    lines: list[str] = []
    for name, kind, about, of in ROBOT_METRICS:
        lines += family(
            name, kind, about, [({"robot": row.name, **_fleet(row.shared)}, of(row)) for row in state.robots]
        )
    for name, about, of_half in SHARED_METRICS if state.shared else []:
        lines += family(name, "gauge", about, [(_fleet(half), of_half(half)) for half in state.shared])
    return lines


def family(name: str, kind: str, about: str, values: Values) -> list[str]:
    """Return the lines of one metric: what it is, and what is known of it."""
    lines = [f"# HELP reflexarc_{name} {about}", f"# TYPE reflexarc_{name} {kind}"]
    for labels, value in values:
        if value is not None:
            listed = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            whose = f"{{{listed}}}" if listed else ""
            lines.append(f"reflexarc_{name}{whose} {_number(value)}")
    return lines


def as_text(lines: Sequence[str]) -> str:
    """Return lines as a scrape is answered."""
    return "\n".join(lines) + "\n"


def _fleet(half: SharedHalf | None) -> dict[str, str]:
    return {"fleet": half.fleet, "front": half.front} if half else {}


def _number(value: float) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
