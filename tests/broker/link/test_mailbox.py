"""The queue between threads: order, bound, count of what it drops, and waking who waits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.link.mailbox import Mailbox

TIMEOUT_S = 20


def test_first_in_first_out() -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    for item in (1, 2, 3):
        mailbox.put(item)
    assert [mailbox.take(0) for _ in range(4)] == [1, 2, 3, None]
    assert mailbox.dropped == 0


def test_a_full_one_drops_what_comes_and_counts_it() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    for item in (1, 2, 3, 4):
        mailbox.put(item)
    assert mailbox.dropped == 2
    assert mailbox.take(0) == 1
    mailbox.put(5)
    assert [mailbox.take(0) for _ in range(3)] == [2, 5, None]
    assert mailbox.dropped == 2


def test_a_full_one_may_drop_its_oldest_instead() -> None:
    mailbox: Mailbox[int] = Mailbox(2, newest_wins=True)
    for item in (1, 2, 3, 4):
        mailbox.put(item)
    assert mailbox.dropped == 2
    assert [mailbox.take(0) for _ in range(3)] == [3, 4, None]


@pytest.mark.parametrize(("newest_wins", "kept"), [(False, ["aaaa", "bbbb", "e"]), (True, ["cccc", "dddd", "e"])])
def test_one_is_full_by_bytes_too(newest_wins: bool, kept: list[str]) -> None:
    mailbox: Mailbox[str] = Mailbox(100, newest_wins=newest_wins, limit_bytes=9, size=len)
    for item in ("aaaa", "bbbb", "cccc", "dddd", "e"):
        mailbox.put(item)
    assert [mailbox.take(0) for _ in kept] == kept
    assert (mailbox.take(0), mailbox.dropped) == (None, 5 - len(kept))
    for item in ("large as life", "f"):
        mailbox.put(item)
    assert mailbox.take(0) == ("f" if newest_wins else "large as life"), "one alone always fits"


def test_nothing_came() -> None:
    mailbox: Mailbox[int] = Mailbox(1)
    assert mailbox.take(0.01) is None


def test_who_waits_is_woken() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    taken: list[str | None] = []
    # Never woken, it would wait for an hour, which the join below does not.
    waiting = threading.Thread(target=lambda: taken.append(mailbox.take(3600)), daemon=True)
    waiting.start()
    mailbox.put("news")
    waiting.join(TIMEOUT_S)
    assert taken == ["news"]


def test_threads_lose_nothing_uncounted() -> None:
    mailbox: Mailbox[tuple[int, int]] = Mailbox(50)
    producers, each = 4, 500

    def produce(producer: int) -> None:
        for number in range(each):
            mailbox.put((producer, number))

    taken = []
    with ThreadPoolExecutor(producers) as pool:
        running = [pool.submit(produce, producer) for producer in range(producers)]
        while (item := mailbox.take(0.01)) is not None or not all(one.done() for one in running):
            if item is not None:
                taken.append(item)
    while (item := mailbox.take(0)) is not None:
        taken.append(item)
    assert len(taken) + mailbox.dropped == producers * each
    assert len(taken) >= mailbox.limit
    for producer in range(producers):
        numbers = [number for who, number in taken if who == producer]
        assert numbers == sorted(set(numbers)), "in the order they were put, none twice"
