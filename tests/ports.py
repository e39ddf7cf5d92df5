"""Ports for servers that are started a moment later."""

from __future__ import annotations

import random
import socket

# Below those that systems give to outgoing connections: one of these could take the port before its server does.
LOWEST, HIGHEST = 15_000, 32_000


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at."""
    while True:
        port = random.randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
