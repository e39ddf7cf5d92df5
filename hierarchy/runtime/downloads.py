"""Pretrained weights that are fetched while all else goes on: each file by a process of its own, with a deadline."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlparse

import torch
from torchvision import models

from broker.errors import ConfigError
from hierarchy.timm_networks import has_weights, is_timm

# VGG's 550 MB at 1 MB/s. Whoever has less had better bring the file.
DEADLINE_SECONDS = 600.0
# After a failure the server is left alone for so long.
RETRY_SECONDS = 300.0
# At a time. Names of networks come from robots, and there are a hundred.
MAX_DOWNLOADS = 2
# What torch.hub makes of a file's name, to check what came: resnet18-f37072fd.pth.
HASH = re.compile(r"-([a-f0-9]*)\.")

# A process can be ended, which a thread that waits for a server cannot.
FETCH = (
    "import os, sys, torch; os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True); "
    "torch.hub.download_url_to_file(*sys.argv[1:3], hash_prefix=sys.argv[3] or None, progress=False)"
)

# timm knows best where its hub has a network's weights, and what they are called.
FETCH_TIMM = (
    "import sys; from hierarchy.timm_networks import build_timm, timm_input as spec; from broker.errors import "
    "ReflexarcError\n"
    "try: build_timm(sys.argv[1], image_size=spec(sys.argv[1]).size, weights='default')\n"
    "except ReflexarcError as error: sys.exit(str(error))"
)


class _Remote(NamedTuple):
    """is_here: whether the weights are on this machine. fetch: a program that brings them, and its arguments."""

    is_here: bool
    fetch: list[str]
    advice: str


class _Download(NamedTuple):
    process: subprocess.Popen[str]
    begun: float


def weights_url(name: str) -> str:
    """Return where a classifier's pretrained weights come from."""
    return str(models.get_model_weights(name).DEFAULT.url)


def weights_path(url: str) -> Path:
    """Return where torchvision looks for a file of pretrained weights before it downloads it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name


def _of_torchvision(name: str, url: str) -> _Remote:
    path = weights_path(url)
    found = HASH.search(path.name)
    return _Remote(
        is_here=path.exists(),
        fetch=[FETCH, url, str(path), found.group(1) if found else ""],
        advice=f"download {url} on a machine with network and put it here as {path}",
    )


def _of_timm(name: str) -> _Remote:
    advice = "start this trainer with a state dict of it, --weights FILE, and the robots as well"
    return _Remote(is_here=has_weights(name), fetch=[FETCH_TIMM, name], advice=advice)


class Downloads:
    """Fetches files of pretrained weights. One thread calls; nothing here waits."""

    def __init__(self, url_of: Callable[[str], str] = weights_url, clock: Callable[[], float] = time.monotonic) -> None:
        """url_of: given a classifier's name, returns where its weights are."""
        self._url_of = url_of
        self._clock = clock
        self._running: dict[str, _Download] = {}
        self._fetched: set[str] = set()
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when

    def waits_for(self, name: str) -> str:
        """Return what a classifier's weights wait for, for people; empty where they are here.

        Begins to fetch them where that is necessary. Raises ConfigError where they cannot be had.
        """
        if name in self._running:
            self._look_after(name)
        if name not in self._running and (name in self._fetched or self._remote(name).is_here):
            return ""
        why, at = self._failed.get(name, ("", 0.0))
        if why and self._clock() < at + RETRY_SECONDS:
            raise ConfigError(why)
        if name not in self._running:
            if len(self._running) >= MAX_DOWNLOADS:
                for other in [*self._running]:
                    self._look_after(other)
            if len(self._running) >= MAX_DOWNLOADS:
                return f"the pretrained weights of {name} wait for other downloads"
            self._begin(name)
        return f"the pretrained weights of {name} are being downloaded"

    def close(self) -> None:
        """End what is under way."""
        for name in [*self._running]:
            self._end(name)

    def _remote(self, name: str) -> _Remote:
        return _of_timm(name) if is_timm(name) else _of_torchvision(name, self._url_of(name))

    def _begin(self, name: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", *self._remote(name).fetch],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running[name] = _Download(process, self._clock())

    def _look_after(self, name: str) -> None:
        """Take note of a download that has ended, and end one that takes too long."""
        download = self._running[name]
        status = download.process.poll()
        if status is None and self._clock() <= download.begun + DEADLINE_SECONDS:
            return
        problem = f"not here after {DEADLINE_SECONDS:.0f} s" if status is None else self._last_words(download)
        self._end(name)
        if (remote := self._remote(name)).is_here:
            return
        if status == 0:  # under a name that only its library knows
            self._fetched.add(name)
        else:
            self._failed[name] = (
                f'no pretrained weights for {name} ({problem}): {remote.advice}, or choose weights "none"',
                self._clock(),
            )

    @staticmethod
    def _last_words(download: _Download) -> str:
        assert download.process.stderr is not None
        return (download.process.stderr.read().strip().splitlines() or ["the download failed"])[-1][:200]

    def _end(self, name: str) -> None:
        process = self._running.pop(name).process
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
