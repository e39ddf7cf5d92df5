"""Topic names: built and parsed here and nowhere else.

    reflexarc/1/robot/<robot>/state | activations | receipt | metrics | ask | answer | probe | probe-result
    reflexarc/1/robot/<robot>/prediction | command | result
    reflexarc/1/robot/<robot>/cloud-metrics/<trainer>
    reflexarc/1/trainer/<trainer>/state | metrics
    reflexarc/1/fleet/<fleet>/<place>/exit | piece/<number>

The 1 is the protocol's version. AWS IoT Core allows seven slashes; these have six at most.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias, get_args

from broker.errors import ConfigError, MalformedMessage

Role = Literal["robot", "trainer"]
Channel = Literal[
    "state",
    "activations",
    "receipt",
    "metrics",
    "ask",
    "answer",
    "probe",
    "probe-result",
    "prediction",
    "command",
    "result",
]

# What trainers say to one robot, each on a topic that names it.
TrainerChannel = Literal["cloud-metrics"]
# What a trainer says to all robots of a fleet: no identity of the broker's is one.
FleetChannel = Literal["exit", "piece"]
AnyChannel: TypeAlias = Channel | TrainerChannel | FleetChannel

PREFIX = "reflexarc/1"
ANYONE = "+"

# A name becomes a topic level, a folder and a client id, so it is kept to what all three allow.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
CLOUD_METRICS = re.compile(rf"{PREFIX}/robot/({NAME.pattern})/cloud-metrics/{NAME.pattern}")
FLEET = re.compile(rf"{PREFIX}/fleet/({NAME.pattern})/[0-9a-f]{{16}}/(?:(exit)|(piece)/(?:0|[1-9][0-9]{{0,2}}))")


class Topic(NamedTuple):
    """A topic's parts."""

    role: Role | Literal["fleet"]
    name: str
    channel: AnyChannel


def topic(role: Role, name: str, channel: Channel) -> str:
    """Build a topic; the name ``ANYONE`` builds a filter for all names."""
    return f"{PREFIX}/{role}/{name}/{channel}"


def cloud_metrics_topic(robot: str, trainer: str) -> str:
    """Return where a trainer tells a robot alone how its training goes; ``ANYONE`` builds a filter."""
    return f"{PREFIX}/robot/{robot}/cloud-metrics/{trainer}"


def exit_topic(fleet: str, place: str) -> str:
    """Return where the manifest of a fleet's exit lies. place: `messages.exit_place`, or ``ANYONE`` for a filter."""
    return f"{PREFIX}/fleet/{fleet}/{place}/exit"


def piece_topic(fleet: str, place: str, number: int | str) -> str:
    """Return where a piece of a fleet's exit lies. place, number: of it, or ``ANYONE`` for a filter."""
    return f"{PREFIX}/fleet/{fleet}/{place}/piece/{number}"


def sender(role: Role, name: str) -> str:
    """Return what all topics of one name begin with; behind it come a slash and the channel."""
    return f"{PREFIX}/{role}/{name}"


def split(text: str) -> tuple[str, str]:
    """Return what `sender` says of a topic, and its channel, without looking at either."""
    levels = text.split("/", 5)
    return "/".join(levels[:4]), "".join(levels[4:5])


def parse(text: str) -> Topic:
    """Take a topic apart. Raises MalformedMessage where it is none of ours."""
    if found := FLEET.fullmatch(text):
        return Topic("fleet", found[1], found[2] or found[3])  # type: ignore[arg-type]
    if found := CLOUD_METRICS.fullmatch(text):
        return Topic("robot", found[1], "cloud-metrics")
    role, name, channel = [*text.removeprefix(PREFIX + "/").split("/"), "", "", ""][:3]
    known = role in get_args(Role) and channel in get_args(Channel) and NAME.fullmatch(name)
    if not known or topic(role, name, channel) != text:  # type: ignore[arg-type]
        raise MalformedMessage(f"topic {text[:200]!r} is not one of ours")
    return Topic(role, name, channel)  # type: ignore[arg-type]


def trainer_of(text: str) -> str:
    """Return which trainer speaks on a topic that `parse` has taken, where that says so."""
    return text.rpartition("/")[2]


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter takes a topic: + stands for one level, a last # for all that follow (MQTT 3.1.1, section 4.7).

    The exception for topics that begin with $ is left out: no filter of ours begins with a wildcard.
    """
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(one in (level, ANYONE) for one, level in zip(wanted, levels, strict=True))


def check_name(name: str, what: str) -> None:
    """Raise ConfigError unless the name can be part of a topic."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{what} {name!r}: use 1 to 64 letters, digits, '-' and '_'")
