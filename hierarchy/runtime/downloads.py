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
from hierarchy.timm_networks import is_timm

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
    "import sys, torch; torch.hub.download_url_to_file(*sys.argv[1:3], hash_prefix=sys.argv[3] or None, progress=False)"
)


class _Download(NamedTuple):
    process: subprocess.Popen[str]
    begun: float


def weights_url(name: str) -> str:
    """Return where a classifier's pretrained weights come from."""
    return str(models.get_model_weights(name).DEFAULT.url)


def weights_path(url: str) -> Path:
    """Return where torchvision looks for a file of pretrained weights before it downloads it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name


class Downloads:
    """Fetches files of pretrained weights. One thread calls; nothing here waits."""

    def __init__(self, url_of: Callable[[str], str] = weights_url, clock: Callable[[], float] = time.monotonic) -> None:
        """url_of: given a classifier's name, returns where its weights are."""
        self._url_of = url_of
        self._clock = clock
        self._running: dict[str, _Download] = {}
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when

    def waits_for(self, name: str) -> str:
        """Return what a classifier's weights wait for, for people; empty where they are here.

        Begins to fetch them where that is necessary. Raises ConfigError where they cannot be had.
        """
        if is_timm(name):
            return ""  # the hub's library keeps its own cache, and has time limits of its own
        url = self._url_of(name)
        path = weights_path(url)
        if name in self._running:
            self._look_after(name, url, path)
        if name not in self._running and path.exists():
            return ""
        why, at = self._failed.get(name, ("", 0.0))
        if why and self._clock() < at + RETRY_SECONDS:
            raise ConfigError(why)
        if name not in self._running:
            if len(self._running) >= MAX_DOWNLOADS:
                for other in [*self._running]:
                    self._look_after(other, self._url_of(other), weights_path(self._url_of(other)))
            if len(self._running) >= MAX_DOWNLOADS:
                return f"the pretrained weights of {name} wait for other downloads"
            self._begin(name, url, path)
        return f"the pretrained weights of {name} are being downloaded"

    def close(self) -> None:
        """End what is under way."""
        for name in [*self._running]:
            self._end(name)

    def _begin(self, name: str, url: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = HASH.search(path.name)
        command = [sys.executable, "-c", FETCH, url, str(path), found.group(1) if found else ""]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._running[name] = _Download(process, self._clock())

    def _look_after(self, name: str, url: str, path: Path) -> None:
        """Take note of a download that has ended, and end one that takes too long."""
        download = self._running[name]
        status = download.process.poll()
        if status is None and self._clock() <= download.begun + DEADLINE_SECONDS:
            return
        problem = f"not here after {DEADLINE_SECONDS:.0f} s" if status is None else self._last_words(download)
        self._end(name)
        if not path.exists():
            self._failed[name] = (
                f"no pretrained weights for {name} ({problem}): download {url} on a machine with network and put it "
                f'here as {path}, or choose weights "none"',
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
