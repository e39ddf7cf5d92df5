"""Exits of a fleet that tests publish: rows whose classes are axes of a few features, so that a frame says which."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from broker.link.base import Link
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire.codec import pack
from broker.wire.messages import ExitPiece, FleetExit, SplitSpec
from hierarchy.edge import EdgeSegment, front_digest
from hierarchy.exit_rows import ExitRows, in_pieces, pack_rows
from robot_edge.fleet.fetching import Place
from robot_edge.run.robot_run import RobotRun

FEATURES = 8
PLACE = Place(fleet="dogs", front="f" * 16, split="5" * 16, on="cut", features=FEATURES)


def rows_of(classes: Sequence[str], axes: Sequence[int] = (), features: int = FEATURES) -> ExitRows:
    """Return rows that name a frame by its largest feature. axes: of the classes; the first ones for none."""
    weight = torch.zeros(len(classes), features)
    for row, axis in enumerate(axes or range(len(classes))):
        weight[row, axis] = 5.0
    return ExitRows(classes=tuple(classes), weight=weight, bias=torch.zeros(len(classes)))


def exit_of(rows: ExitRows, version: int = 7, **fields: Any) -> tuple[FleetExit, list[ExitPiece]]:
    """Return the manifest and the pieces of rows, for PLACE."""
    data = pack_rows(rows)
    pieces = in_pieces(data)
    usual: dict[str, Any] = {"boot": "b" * 16, "version": version, "made": 1.0, "front": PLACE.front, "on": PLACE.on}
    usual |= {"split": PLACE.split, "features": rows.weight.shape[1], "classes": rows.classes, "held_out": 0}
    usual |= {"temperature": 1.0, "least_confidence": 0.5, "first": 64 * (version % 2), "size": len(data)}
    usual |= {"digest": hashlib.sha256(data).digest()}
    usual |= {"pieces": tuple(hashlib.sha256(one.data).digest() for one in pieces)}
    return FleetExit(**{**usual, **fields}), pieces


def publish(link: Link, manifest: FleetExit, pieces: Sequence[ExitPiece], place: Place = PLACE) -> None:
    """Publish an exit as a trainer does: pieces first."""
    for number, piece in enumerate(pieces, manifest.first):
        assert link.publish(place.topic_of(number), pack(piece), qos=1, retain=True)
    assert link.publish(place.topic, pack(manifest), qos=1, retain=True)


def frames(*axes: int) -> NDArray[np.float32]:
    """Return what crosses of frames whose largest feature is that one."""
    return np.eye(FEATURES, dtype=np.float32)[list(axes)]


def encode(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return what rows take of frames."""
    return values.astype(np.float16)


def member_of(fleet: str, segment: EdgeSegment, split: SplitSpec) -> dict[str, Any]:
    """Return what the state of a robot that stands still says of its fleet; nothing for none."""
    return {"fleet": fleet, "still": True, "front": front_digest(segment.state_dict(), split)} if fleet else {}


def publish_to(robot: RobotRun, broker: MemoryBroker, rows: ExitRows, version: int) -> None:
    """Publish an exit as the trainer of a robot whose own exit is at the cut does."""
    state, features = robot.uplink.state, rows.weight.shape[1]
    split = state.split.fingerprint
    place = Place(fleet=state.fleet, front=state.front, split=split, on="cut", features=features)
    manifest, pieces = exit_of(rows, version, front=state.front, split=split, least_confidence=0.0)
    publish(MemoryLink(broker), manifest, pieces, place)
