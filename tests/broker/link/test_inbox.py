"""What a flood leaves of others' messages: budgets, queues and turns, by sender."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.link import inbox as inbox_module
from broker.link.inbox import LANE_LIMIT, MESSAGES_PER_SECOND, STRANGERS, Delivery, Inbox, everything, lane_of
from broker.link.mailbox import FairMailbox, Lane
from broker.wire import topics
from broker.wire.topics import cloud_metrics_topic, sender, topic


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fair(
    limit: int = 100, lane_limit: int = 10, newest_wins: bool = False, limit_bytes: int = 1000
) -> FairMailbox[str]:
    return FairMailbox(
        limit,
        per_second=5,
        lane_limit=lane_limit,
        newest_wins=newest_wins,
        limit_bytes=limit_bytes,
        size=len,
        clock=Clock(),
    )


def put(mailbox: FairMailbox[str], *items: str) -> None:
    for item in items:
        mailbox.put(item, Lane(item[0], item[0]))


def taken(mailbox: FairMailbox[str]) -> list[str]:
    return list(iter(lambda: mailbox.take(0) or "", ""))


def test_senders_take_turns_and_each_is_read_in_order() -> None:
    mailbox = fair()
    put(mailbox, "a1", "a2", "a3", "b1", "b2", "c1")
    assert taken(mailbox) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_flood_displaces_itself_alone() -> None:
    mailbox = fair(limit=12)
    put(mailbox, "b1", *(f"a{number}" for number in range(50)), "b2", "c1")
    assert {"b1", "b2", "c1"} < set(taken(mailbox))
    assert mailbox.take_dropped() == Counter(a=41)
    assert mailbox.take_dropped() == Counter()
    assert mailbox.dropped == 41


def test_a_flood_displaces_itself_alone_by_bytes_too() -> None:
    mailbox = fair(limit_bytes=30)
    put(mailbox, "a" * 20, "b" * 5, "b" * 20, "c" * 9, "d" * 20)
    assert [len(one) for one in taken(mailbox)] == [5, 9], "who has most gives way, and so does d, who would have most"
    assert mailbox.take_dropped() == Counter(a=1, b=1, d=1)


def test_a_sender_is_read_at_a_bounded_rate_and_others_do_not_wait() -> None:
    mailbox = fair(lane_limit=20)
    clock = mailbox._clock
    assert isinstance(clock, Clock)
    put(mailbox, *(f"a{number}" for number in range(20)))
    assert len(taken(mailbox)) == 20, "a queue's length at once"
    put(mailbox, *(f"a{number}" for number in range(20)), "b1")
    assert taken(mailbox) == ["b1"]
    clock.now += 1.0
    assert taken(mailbox) == ["a0", "a1", "a2", "a3", "a4"]
    assert len(mailbox) == 15


def test_who_waits_is_woken_when_the_budget_is_there() -> None:
    mailbox: FairMailbox[str] = FairMailbox(10, per_second=100, lane_limit=1)
    budget = Lane("a", "a")
    for _ in range(101):
        mailbox.put("x", budget)
        assert mailbox.take(20) == "x"


def test_strangers_share_a_budget_and_do_not_displace_each_other_all() -> None:
    inbox = Inbox(everything)
    inbox.add_filter(topic("robot", topics.ANYONE, "state"))
    inbox.know(frozenset([sender("robot", "r1")]))
    for number in range(3000):
        inbox.put(Delivery(topic("robot", f"n{number}", "state"), b"", False))
    inbox.put(Delivery(topic("robot", "r1", "state"), b"known", False))
    read = [inbox.common.take(0) for _ in range(2000)]
    came = [one for one in read if one]
    assert [one.payload for one in came].count(b"known") == 1
    assert len(came) <= max(LANE_LIMIT, MESSAGES_PER_SECOND) + 100, "all strangers together, and what some ms add"
    assert inbox.take_dropped()[STRANGERS] > 1000


@pytest.mark.parametrize(
    ("its", "lane"),
    [
        (topic("robot", "r1", "state"), sender("robot", "r1")),
        (topic("robot", "r1", "activations"), sender("robot", "r1")),
        (topic("robot", "r1", "receipt"), topic("robot", "r1", "receipt")),
        (topic("robot", "r1", "command"), topic("robot", "r1", "command")),
        (cloud_metrics_topic("r1", "t1"), f"{sender('robot', 'r1')}/cloud-metrics"),
        (topic("trainer", "t1", "state"), topic("trainer", "t1", "state")),
        (topic("trainer", "t1", "metrics"), topic("trainer", "t1", "metrics")),
    ],
)
def test_whose_a_message_is(its: str, lane: str) -> None:
    known = frozenset([sender("robot", "r1"), sender("trainer", "t1")])
    assert lane_of(its, known) == Lane(lane, lane)
    assert lane_of(its, frozenset()).budget == STRANGERS
    assert lane_of(its.replace("1/state", "2/state").replace("r1", "r2"), known - {sender("trainer", "t1")}).budget == (
        STRANGERS
    )


def test_routes_are_bounded_and_forgotten_when_senders_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_ROUTES", 10)
    inbox = Inbox(everything)
    for number in range(50):
        inbox.put(Delivery(f"unasked/{number}", b"", False))
        assert len(inbox._routes) <= 10
    inbox.add_filter("+/+/robot/+/state")
    inbox.put(Delivery(topic("robot", "r1", "state"), b"", False))
    inbox.know(frozenset([sender("robot", "r1")]))
    inbox.put(Delivery(topic("robot", "r1", "state"), b"", False))
    assert set(inbox.common._queues) == {
        sender("robot", "r1"),
        lane_of(topic("robot", "r1", "state"), frozenset()).name,
    }
