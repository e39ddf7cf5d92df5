"""The model hub that has timm's weights: asked where it can be reached, else what was downloaded before is taken."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

# How long its machine may take to answer. Its own library tries for a minute, with two lines for each try.
REACH_SECONDS = 5.0
# What says so; our own error says it once.
TALKATIVE = ("huggingface_hub", "timm.models._builder")


@contextmanager
def model_hub() -> Iterator[bool]:
    """Let a library download from the hub within this context, quietly; yields whether the hub can be reached."""
    from huggingface_hub import constants

    reached, offline = is_reached(constants.ENDPOINT), constants.HF_HUB_OFFLINE
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    try:
        constants.HF_HUB_OFFLINE = offline or not reached
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield reached
    finally:
        constants.HF_HUB_OFFLINE = offline
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def is_reached(url: str) -> bool:
    """Whether the machine of a URL takes a connection. Behind a proxy that is not known, and taken for granted."""
    where = urlsplit(url)
    if getproxies().get(where.scheme):
        return True
    try:
        socket.create_connection((where.hostname, where.port or 443), REACH_SECONDS).close()
    except OSError:
        return False
    return True
