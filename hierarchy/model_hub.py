"""The model hub that has timm's weights: asked for what was not downloaded before, where it can be reached."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

# How long its machine may take to answer. Its own library tries for a minute, with two lines for each try.
REACH_SECONDS = 5.0
# What says so; our own error says it once.
TALKATIVE = ("huggingface_hub", "timm.models._builder")


def is_downloaded(repository: str, files: Sequence[str]) -> bool:
    """Whether one of these files of a repository of the hub is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


@contextmanager
def model_hub(*, downloaded: bool) -> Iterator[bool]:
    """Let a library load from the hub within this context, quietly; yields whether the hub can be reached.

    downloaded: what it loads is on this machine. Then nobody is asked, and nothing waits for a network.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    reached = not downloaded and is_reached(constants.ENDPOINT)
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
