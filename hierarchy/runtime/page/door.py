"""How many connections a page takes, from whom, and for how long one may be silent. Knows no HTTP.

A connection costs its program a file handle, as the disk and the broker do: a page that took them all would keep
checkpoints from being written. So connections are counted where they are accepted, before a byte is read.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

# A browser opens six, and each open page holds two for good. Behind a proxy or a tunnel all people have one address.
MAX_OF_ONE = 64
MAX_CONNECTIONS = 256
# Of the file handles that a process may have; the others are for the disk, the broker and cameras.
SHARE_OF_HANDLES = 0.25
# A browser sends its request in the second in which it connects; a phone at the network's edge takes some more.
SILENT_SECONDS = 10.0
# Between two looks for silent ones.
LOOK_SECONDS = 1.0
# Connections that wait to be accepted: asyncio accepts as many at once.
BACKLOG = 32


@dataclass
class _Visitor:
    """An open connection. of: whose it is. since: when it was last served, or accepted; monotonic seconds."""

    of: str
    since: float
    connection: socket.socket
    served: int = 0  # requests in progress; a live view or a web socket is one


class Door:
    """Counts connections. A newcomer takes the place of the one that has been silent for longest.

    Where one address has MAX_OF_ONE that is one of its own. Whoever is being served keeps the place. Any thread.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic, most_of_one: int = MAX_OF_ONE) -> None:
        self._most = most
        self._most_of_one = min(most_of_one, most)
        self._clock = clock
        self._visitors: dict[Any, _Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def let_in(self, peer: Any, connection: socket.socket) -> bool:
        """Whether this connection may stay. peer: address and port, as accept() and ASGI name them."""
        of = whose(str(peer[0]))
        with self._lock:
            own = [one for one in self._visitors.values() if one.of == of]
            if len(own) >= self._most_of_one and not self._turn_out(own):
                return False
            if len(self._visitors) >= self._most and not self._turn_out(list(self._visitors.values())):
                return False
            self._visitors[peer[:2]] = _Visitor(of, self._clock(), connection)
        return True

    def leave(self, peer: Any) -> None:
        """Forget a connection that is closed."""
        with self._lock:
            self._visitors.pop(peer[:2], None)

    def serve(self, peer: Any, change: int) -> None:
        """Note that a request of that connection begins (1) or is over (-1)."""
        with self._lock:
            if visitor := self._visitors.get(tuple(peer[:2])):
                visitor.served += change
                visitor.since = self._clock()

    def turn_out_the_silent(self) -> None:
        """End the connections that have asked for nothing for SILENT_SECONDS."""
        with self._lock:
            until = self._clock() - SILENT_SECONDS
            for visitor in list(self._visitors.values()):
                if not visitor.served and visitor.since <= until:
                    _hang_up(visitor.connection)

    def _turn_out(self, visitors: list[_Visitor]) -> bool:
        silent = min((one for one in visitors if not one.served), key=lambda one: one.since, default=None)
        if silent is None:
            return False
        _hang_up(silent.connection)
        self._visitors = {peer: one for peer, one in self._visitors.items() if one is not silent}
        return True


class DoorSocket(socket.socket):
    """A listening socket that accepts whom the door lets in; the others are closed at once.

    asyncio accepts from it; uvloop would accept by its number, past it.
    """

    door: Door

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and its peer. Raises BlockingIOError where none waits."""
        while True:
            accepted, peer = super().accept()
            connection = _Counted(accepted.family, accepted.type, accepted.proto, accepted.detach())
            connection.setblocking(False)
            if self.door.let_in(peer, connection):
                connection.door, connection.peer = self.door, peer
                return connection, peer
            connection.close()


class _Counted(socket.socket):
    """A connection that the door forgets when it is closed, by whatever protocol it carries then."""

    door: Door | None = None
    peer: Any = None

    def close(self) -> None:
        super().close()
        if self.door:
            self.door.leave(self.peer)
            self.door = None


class Served:
    """Tells a door who is being served by an app, and ends the silent as long as it runs."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        if scope["type"] == "lifespan":
            self._looking = asyncio.get_running_loop().create_task(self._look())
        peer = scope.get("client")
        if peer is None:
            await self._app(scope, receive, send)
            return
        self._door.serve(peer, 1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._door.serve(peer, -1)

    async def _look(self) -> None:
        while True:
            self._door.turn_out_the_silent()
            await asyncio.sleep(LOOK_SECONDS)


def whose(address: str) -> str:
    """Return whom an address stands for: itself, and of IPv6 the network of 64 bits, which one host may have whole."""
    if ":" not in address or address.startswith("::ffff:"):
        return address.removeprefix("::ffff:")
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return packed[:8].hex()


def _hang_up(connection: socket.socket) -> None:
    """End a connection from any thread: its reader sees the end, and closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        """It is gone already."""
