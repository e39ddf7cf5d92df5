"""Messages that tests send, with the fields that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from broker.wire.messages import ActivationBatch, ClassEdit, Receipt, RobotState, SplitSpec, TrainerMetrics


def robot_state(split: SplitSpec, **fields: Any) -> RobotState:
    """Return the state of a robot that is online, with random weights, and rehearses nothing in the cloud."""
    usual = {"boot": "b" * 16, "run": "c" * 16, "former": "", "edits": 0, "started": 1.0, "online": True}
    return RobotState(**{**usual, "split": split, "weights": "none", "rehearse": 0.0, **fields})


def trainer_metrics(boot: str, **fields: Any) -> TrainerMetrics:
    """Return the metrics of robot r1 in its first evaluation, with three classes."""
    usual = {"robot": "r1", "images": 16, "classes": 3, "evaluation": 1, "evaluated": 0, "messages_trained": 1}
    usual |= {"cloud_loss": 0.5, "cloud_prequential": 0.6, "cloud_recent": 0.7, "cloud_accuracy": 0.8}
    usual |= {"messages_waiting": 0, "messages_rejected": 0, "quarantine": ""}
    return TrainerMetrics(**{**usual, "boot": boot, **fields})


def accepted(message: ActivationBatch | ClassEdit) -> Receipt:
    """Return the receipt of a message that was taken."""
    return Receipt(boot=message.boot, sequence=message.sequence, outcome="accepted", reason="", held=0.0)
