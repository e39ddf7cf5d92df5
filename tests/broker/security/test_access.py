from __future__ import annotations

from typing import get_args

import pytest

from broker.security.access import Grant, acl_with, acl_without, grants, role_in_acl
from broker.wire.topics import (
    ANYONE,
    PREFIX,
    Channel,
    FleetChannel,
    Role,
    Topic,
    cloud_metrics_topic,
    parse,
    trainer_of,
)


def place(filter_: str, name: str) -> Topic:
    """Return what a filter is about, with that name in place of a wildcard."""
    if filter_.startswith(f"{PREFIX}/fleet/+/+/"):
        filter_ = filter_.replace("/+/+/", f"/{name}/0123456789abcdef/").replace("/+", "/0")
    return parse(filter_.replace(ANYONE, name))


@pytest.mark.parametrize("role", get_args(Role))
def test_every_channel_is_somebodys_to_write_and_anothers_to_read(role: Role) -> None:
    """A channel that is new to topics.py must be granted in access.py too, or a production broker drops it."""
    everyone = [*grants("robot", "r1"), *grants("trainer", "t1")]
    for channel in get_args(Channel) if role == "robot" else ("state", "metrics"):
        for right in ("read", "write"):
            assert any(
                grant.right == right
                and grant.topic.startswith(f"{PREFIX}/{role}/")
                and grant.topic.endswith(f"/{channel}")
                for grant in everyone
            ), f"nobody may {right} {role}/{channel}"


def test_a_robot_writes_only_its_own_and_reads_no_other_robot() -> None:
    for right, filter_ in grants("robot", "r1"):
        topic = place(filter_, "any")
        assert (topic.role, topic.name) == ("robot", "r1") or (
            right == "read" and topic.role in {"trainer", "fleet"} and topic.name == "any"
        )


def test_a_trainer_writes_what_is_for_robots_and_its_own() -> None:
    written = {grant.topic for grant in grants("trainer", "t1") if grant.right == "write"}
    its_own = {f"{PREFIX}/trainer/t1/{channel}" for channel in ("state", "metrics")}
    for_robots = {f"{PREFIX}/robot/+/{channel}" for channel in ("receipt", "answer", "probe-result")}
    for_robots |= {f"{PREFIX}/robot/+/cloud-metrics/t1"}
    assert written == its_own | for_robots | {f"{PREFIX}/fleet/+/+/{channel}" for channel in ("exit", "piece/+")}


def test_what_is_for_a_fleet_is_read_by_robots_and_written_by_trainers() -> None:
    for channel in get_args(FleetChannel):
        rights = {
            (role, right)
            for role in get_args(Role)
            for right, filter_ in grants(role, "r1")
            if place(filter_, "r1")[::2] == ("fleet", channel)
        }
        reads_on = {("trainer", "read")} if channel == "exit" else set()
        assert rights == {("robot", "read"), ("trainer", "write"), *reads_on}


def test_a_robots_metrics_are_for_that_robot_and_name_who_says_them() -> None:
    assert Grant("read", cloud_metrics_topic("r1", ANYONE)) in grants("robot", "r1")
    names = {trainer_of(one.topic) for one in grants("trainer", "t1") if "/cloud-metrics/" in one.topic}
    assert names == {"t1"}


def test_nobody_but_the_robot_says_what_it_sees() -> None:
    writers = {
        role
        for role in get_args(Role)
        for right, filter_ in grants(role, "r1")
        if right == "write" and place(filter_, "r1").channel == "prediction"
    }
    assert writers == {"robot"}


def test_identities_come_and_go_without_touching_others() -> None:
    only = acl_with("", "robot", "r1")
    assert only.startswith(f"# robot r1\nuser r1\ntopic write {PREFIX}/robot/r1/state\n")
    both = acl_with(only, "trainer", "r10")
    assert both.startswith(only)
    assert (role_in_acl(both, "r1"), role_in_acl(both, "r10"), role_in_acl(both, "r")) == ("robot", "trainer", None)
    assert acl_without(both, "r10") == only
    assert acl_without(both, "r") == both
    assert acl_with(acl_without(both, "r1"), "robot", "r1").endswith(only)
    assert acl_without(acl_without(both, "r1"), "r10") == ""


def test_what_somebody_added_by_hand_stays() -> None:
    by_hand = "user dashboard\ntopic read reflexarc/1/#\n\n"
    assert acl_without(acl_with(by_hand, "robot", "r1"), "r1") == by_hand
