"""Who may write and read which topics, and mosquitto's file for it.

A robot writes only its own topics and reads only its own, and what is for all of a fleet. A trainer reads what robots
say and writes what is for them.
What is not granted here is forbidden.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from broker.wire.topics import (
    ANYONE,
    Channel,
    Role,
    cloud_metrics_topic,
    exit_topic,
    piece_topic,
    topic,
)


class Grant(NamedTuple):
    """A right: to write to a topic, or to read what matches it."""

    right: Literal["read", "write"]
    topic: str


def grants(role: Role, name: str) -> list[Grant]:
    """Return the rights of an identity. Reading includes what is retained."""
    said: tuple[Channel, ...] = ("state", "activations", "metrics", "ask", "probe")
    exits = (exit_topic(ANYONE, ANYONE), piece_topic(ANYONE, ANYONE, ANYONE))
    if role == "robot":
        return [
            *(Grant("write", topic("robot", name, channel)) for channel in (*said, "prediction", "result")),
            # Who has the robot's credentials may command it: `robot-edge teach` on the robot itself does.
            *(Grant(right, topic("robot", name, "command")) for right in ("read", "write")),
            # Its own state: a namesake shows there, and so does whether the broker passes on what the robot writes. Its
            # own predictions and results: what acts on them runs on the robot too.
            *(
                Grant("read", topic("robot", name, channel))
                for channel in ("state", "receipt", "answer", "probe-result", "prediction", "result")
            ),
            Grant("read", cloud_metrics_topic(name, ANYONE)),
            *(Grant("read", topic("trainer", ANYONE, channel)) for channel in ("state", "metrics")),
            # What it says in there belongs to a front, which only robots of its fleet have.
            *(Grant("read", one) for one in exits),
        ]
    return [
        *(Grant("read", topic("robot", ANYONE, channel)) for channel in said),
        *(Grant("write", topic("robot", ANYONE, channel)) for channel in ("receipt", "answer", "probe-result")),
        # Its own, as a robot does, and others: all of them train for every robot.
        Grant("read", topic("trainer", ANYONE, "state")),
        Grant("write", cloud_metrics_topic(ANYONE, name)),
        *(Grant("write", topic("trainer", name, channel)) for channel in ("state", "metrics")),
        # It reads what the trainer before it said, and goes on from there.
        Grant("read", exits[0]),
        *(Grant("write", one) for one in exits),
    ]


def acl_with(text: str, role: Role, name: str) -> str:
    """Return a mosquitto ACL file with the rights of an identity, in place of those that it had there."""
    rules = [f"topic {right} {filter_}" for right, filter_ in grants(role, name)]
    return acl_without(text, name) + "\n".join([f"# {role} {name}", f"user {name}", *rules]) + "\n\n"


def acl_without(text: str, name: str) -> str:
    """Return a mosquitto ACL file without an identity; an empty line ends each one's block."""
    blocks = [block.strip("\n") for block in text.split("\n\n")]
    return "".join(f"{block}\n\n" for block in blocks if block and f"user {name}" not in block.splitlines())


def role_in_acl(text: str, name: str) -> Role | None:
    """Return what an identity is in a mosquitto ACL file; None where it is not there."""
    roles: tuple[Role, ...] = ("robot", "trainer")
    return next((role for role in roles if f"# {role} {name}" in text.splitlines()), None)
