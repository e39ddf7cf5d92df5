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


@given(role=st.sampled_from(get_args(Role)), name=NAMES, channel=st.sampled_from(get_args(Channel)))
def test_what_is_built_is_parsed(role: Role, name: str, channel: Channel) -> None:
    topics.check_name(name, "--robot")
    assert topics.parse(topics.topic(role, name, channel)) == (role, name, channel)


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
    assert topics.topic(*found) == text


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
