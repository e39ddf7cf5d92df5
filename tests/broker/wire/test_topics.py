"""Topic names: what is built is parsed again, and nothing else is."""

from __future__ import annotations

import string
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from broker.errors import ConfigError, MalformedMessage
from broker.wire import topics
from broker.wire.topics import Channel, Role

NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=64)
BAD_NAMES = ["", "a/b", "+", "#", "a b", "ä", "r1\n", "x" * 65, "../r1", "\0"]


def test_as_written_in_the_protocol() -> None:
    assert topics.topic("robot", "r1", "activations") == "reflexarc/1/robot/r1/activations"
    assert topics.topic("trainer", topics.ANYONE, "state") == "reflexarc/1/trainer/+/state"
    assert topics.cloud_metrics_topic("r1", topics.ANYONE) == "reflexarc/1/robot/r1/cloud-metrics/+"
    assert topics.exit_topic("dogs", "0123456789abcdef") == "reflexarc/1/fleet/dogs/0123456789abcdef/exit"
    assert topics.piece_topic("dogs", "0123456789abcdef", 3) == "reflexarc/1/fleet/dogs/0123456789abcdef/piece/3"
    assert topics.piece_topic("dogs", topics.ANYONE, topics.ANYONE) == "reflexarc/1/fleet/dogs/+/piece/+"


@given(role=st.sampled_from(get_args(Role)), name=NAMES, channel=st.sampled_from(get_args(Channel)))
def test_what_is_built_is_parsed(role: Role, name: str, channel: Channel) -> None:
    topics.check_name(name, "--robot")
    assert topics.parse(topics.topic(role, name, channel)) == (role, name, channel)


@given(robot=NAMES, trainer=NAMES)
def test_what_a_trainer_says_to_one_robot_is_parsed(robot: str, trainer: str) -> None:
    topic = topics.cloud_metrics_topic(robot, trainer)
    assert topics.parse(topic) == ("robot", robot, "cloud-metrics")
    assert topics.trainer_of(topic) == trainer
    assert topics.split(topic) == (topics.sender("robot", robot), "cloud-metrics")


@given(fleet=NAMES, place=st.text("0123456789abcdef", min_size=16, max_size=16), number=st.integers(0, 127))
def test_what_is_said_to_a_fleet_is_parsed(fleet: str, place: str, number: int) -> None:
    assert topics.parse(topics.exit_topic(fleet, place)) == ("fleet", fleet, "exit")
    assert topics.parse(topics.piece_topic(fleet, place, number)) == ("fleet", fleet, "piece")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reflexarc/1",
        "reflexarc/1/robot/r1",
        "reflexarc/1/robot/r1/frames",
        "reflexarc/1/robot/r1/state/",
        "reflexarc/1/robot/r1/state/more",
        "reflexarc/2/robot/r1/state",
        "reflexarc/1/cloud/r1/state",
        "reflexarc/1/Robot/r1/state",
        "/reflexarc/1/robot/r1/state",
        "robot/r1/state",
        *(f"reflexarc/1/robot/{name}/state" for name in BAD_NAMES),
        *(f"reflexarc/1/robot/{name}/cloud-metrics/t1" for name in BAD_NAMES),
        *(f"reflexarc/1/robot/r1/cloud-metrics/{name}" for name in BAD_NAMES),
        "reflexarc/1/robot/r1/cloud-metrics",
        "reflexarc/1/trainer/r1/cloud-metrics/t1",
        *(f"reflexarc/1/fleet/{name}/0123456789abcdef/exit" for name in BAD_NAMES),
        "reflexarc/1/fleet/dogs/exit",
        "reflexarc/1/fleet/dogs/0123456789ABCDEF/exit",
        "reflexarc/1/fleet/dogs/0123456789abcdef/exit/1",
        "reflexarc/1/fleet/dogs/0123456789abcdef/piece",
        "reflexarc/1/fleet/dogs/0123456789abcdef/piece/",
        "reflexarc/1/fleet/dogs/0123456789abcdef/piece/01",
        "reflexarc/1/fleet/dogs/0123456789abcdef/piece/1000",
        "reflexarc/1/fleet/dogs/0123456789abcdef/piece/\u0661",
    ],
)
def test_none_of_ours(text: str) -> None:
    with pytest.raises(MalformedMessage, match="is not one of ours"):
        topics.parse(text)


@given(text=st.text() | st.text().map(lambda tail: f"{topics.PREFIX}/{tail}"))
@example("reflexarc/1/reflexarc/1/robot/r1/state")
def test_any_text_is_a_topic_or_malformed(text: str) -> None:
    try:
        found = topics.parse(text)
    except MalformedMessage:
        return
    if found.role == "fleet":
        assert text.split("/")[2:4] == ["fleet", found.name]
        assert found.channel in text.split("/")[5:]
    elif found.channel == "cloud-metrics":
        assert topics.cloud_metrics_topic(found.name, topics.trainer_of(text)) == text
    else:
        assert topics.topic(*found) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_told_what_would_do(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--robot .*: use 1 to 64 letters, digits, '-' and '_'"):
        topics.check_name(name, "--robot")


LEVELS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)


@given(
    levels=LEVELS, wanted=st.lists(st.sampled_from(["a", "b", "", "+"]), max_size=4), tail=st.sampled_from(["", "#"])
)
@example(levels=["a"], wanted=["a"], tail="#")
def test_a_filter_takes_what_paho_says(levels: list[str], wanted: list[str], tail: str) -> None:
    topic_filter, topic = "/".join([*wanted, tail] if tail or not wanted else wanted), "/".join(levels)
    if topic_filter and topic:  # neither may be empty
        assert topics.matches(topic_filter, topic) == topic_matches_sub(topic_filter, topic)
