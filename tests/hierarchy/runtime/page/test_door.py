from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from hierarchy.runtime.handles import MAX_HANDLES, raise_handle_limit
from hierarchy.runtime.page.door import BACKLOG, MAX_OF_ONE, Door, whose
from tests.page_scene import scene

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def visitors(door: Door, clock: Clock, *peers: tuple[str, int]) -> Iterator[list[socket.socket]]:
    """Let these in, a second apart, and yield the ends that they hold."""
    with ExitStack() as opened:
        ends = []
        for peer in peers:
            clock.now += 1
            here, there = socket.socketpair()
            ends.append(opened.enter_context(closing(there)))
            opened.enter_context(closing(here))
            assert door.let_in(peer, here)
        yield ends


def is_over(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_newcomer_takes_the_place_of_the_one_silent_for_longest() -> None:
    clock = Clock()
    door = Door(3, clock)
    with visitors(door, clock, ("a", 1), ("b", 1), ("c", 1)) as ends:
        door.serve(("a", 1), 1)
        with visitors(door, clock, ("d", 1)):
            assert [is_over(end) for end in ends] == [False, True, False]
            assert len(door) == 3


def test_one_address_takes_places_of_its_own_only() -> None:
    clock = Clock()
    door = Door(10, clock, most_of_one=2)
    with (
        visitors(door, clock, ("other", 1)) as others,
        visitors(door, clock, ("a", 1), ("a", 2)) as ends,
        visitors(door, clock, ("a", 3)),
    ):
        assert [is_over(end) for end in (*others, *ends)] == [False, True, False]


def test_nobody_who_is_served_has_to_go() -> None:
    clock = Clock()
    door = Door(2, clock)
    with visitors(door, clock, ("a", 1), ("b", 1)) as ends:
        door.serve(("a", 1), 1)
        door.serve(("b", 1), 1)
        one, other = socket.socketpair()
        with closing(one), closing(other):
            assert not door.let_in(("c", 1), one)
        clock.now += 1000
        door.turn_out_the_silent()
        assert not any(map(is_over, ends))
        door.serve(("a", 1), -1)
        clock.now += 1000
        door.turn_out_the_silent()
        assert [is_over(end) for end in ends] == [True, False]


def test_an_ipv6_network_is_one_visitor() -> None:
    assert whose("2001:db8::1") == whose("2001:db8::ffff") != whose("2001:db8:0:1::1")
    assert whose("::ffff:10.0.0.1") == whose("10.0.0.1") != whose("10.0.0.2")
    assert whose("fe80::1%eth0") == whose("fe80::2")


def handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answer(port: int) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) as visitor:
        visitor.sendall(b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return visitor.recv(12)


def test_a_page_takes_few_handles_from_thousands_of_connections_and_ends_the_silent() -> None:
    with scene("bare") as page, ExitStack() as opened:
        port = int(page.url.rsplit(":", 1)[1])
        assert answer(port) == b"HTTP/1.1 404"
        before = handles(page.pid)
        for number in range(1300):
            visitor = socket.socket()
            opened.callback(visitor.close)
            visitor.settimeout(DEADLINE_S)
            visitor.connect(("127.0.0.1", port))
            if number % 2:
                with suppress(ConnectionError):  # it had to go already
                    visitor.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            assert handles(page.pid) - before <= MAX_OF_ONE + 4 * BACKLOG
        assert answer(port) == b"HTTP/1.1 404"  # others are served meanwhile
        until(lambda: handles(page.pid) <= before)  # all of them are ended, with nobody's help


def test_the_limit_of_open_files_is_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, 100_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert raise_handle_limit() == MAX_HANDLES
    assert limits[1:] == [(MAX_HANDLES, 100_000)]
    for unchanged, has in (((1024, 1024), 1024), ((100_000, 200_000), 100_000)):
        limits[:] = [unchanged]
        assert raise_handle_limit() == has
        assert limits == [unchanged]
