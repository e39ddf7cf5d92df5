"""The machine itself: Python, PyTorch, where it computes, codecs, disk and clock."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import LIKE_BUILDS
from broker.program.plain_text import counted
from hierarchy.runtime.command_line import DeviceName
from hierarchy.runtime.doctor.finding import Finding

# A run keeps checkpoints and what it has not sent yet, and should not end for want of room within the first hour.
LEAST_FREE = 1_000_000_000
# Written to see how quick the disk is, for so long at most.
CHUNK, MOST_WRITTEN, WRITE_SECONDS = 1 << 20, 16, 0.5
# A checkpoint of 50 MB should not hold up a step for ten seconds.
SLOW_DISK = 5e6
# Two clocks that are set by the network differ by less.
CLOCK_SECONDS = 5.0
NVIDIA = Path("/dev/nvidiactl")
# Video that cameras and recordings have.
VIDEO = ("h264", "hevc", "av1", "mjpeg")


def python() -> Iterator[Finding]:
    """Say which Python this is."""
    yield Finding(name="python", text=f"{platform.python_version()}, {platform.machine()}, {sys.prefix}")


def computing(device: DeviceName) -> Iterator[Finding]:
    """Look at PyTorch, and at the device that a run would take."""
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(name="torch", state="problem", text=str(error).splitlines()[0], remedy=LIKE_BUILDS)
        return
    threads, processor = counted(torch.get_num_threads(), "thread"), torch.backends.cpu.get_cpu_capability()
    yield Finding(
        name="torch", text=f"{torch.__version__}, torchvision {torchvision.__version__}, {threads}, {processor}"
    )
    yield device_finding(device)


def device_finding(name: DeviceName) -> Finding:
    """Return where a run would compute, and in which dtype that is quick."""
    import torch

    from hierarchy.device import choose_device, has_bfloat16

    try:
        device = choose_device(name)
    except ConfigError as error:
        return Finding(name="device", state="missing", text=str(error))
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        about = f"{torch.cuda.get_device_name(device)}, {memory / 1e9:.0f} GB"
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        about, quick = "", device.type == "cpu" and has_bfloat16()
    text = f"{device.type}{f' ({about})' if about else ''}: {'bfloat16 and float32' if quick else 'float32'}"
    if device.type == "cpu" and name == "auto" and NVIDIA.exists():
        build = f"the build for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        return Finding(
            name="device",
            state="problem",
            text=f"a GPU is here, and {build} of torch does not use it",
            remedy="install torch and torchvision for its driver (nvidia-smi says which CUDA), https://pytorch.org",
        )
    return Finding(name="device", text=text)


def codecs() -> Iterator[Finding]:
    """Look at what pictures, messages and videos are packed with."""
    try:
        import lz4.frame  # noqa: F401, its own build may not load
        from PIL import features
    except ImportError as error:
        again = "pip install --force-reinstall lz4 pillow"
        yield Finding(name="codecs", state="problem", text=str(error), remedy=again)
        return
    pictures = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "avif": "AVIF"}
    supported = set(features.get_supported())
    text = ", ".join(["lz4", *(name for one, name in pictures.items() if one in supported)])
    if not {"jpg", "zlib"} <= supported:
        again = "pip install --force-reinstall pillow"
        yield Finding(name="codecs", state="problem", text=f"Pillow has only {text}", remedy=again)
        return
    yield Finding(name="codecs", text=f"{text}; {_video()}")


def _video() -> str:
    if find_spec("av") is None:
        return "no video"
    from av.codec import codecs_available

    return "video: " + ", ".join(one for one in VIDEO if one in codecs_available)


def disk(path: Path) -> Iterator[Finding]:
    """Look at the disk that a run's folder would be on."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free, speed = shutil.disk_usage(place).free, write_speed(place)
    except OSError as error:
        why, other = f"{place}: {error.strerror}", "choose another --run-dir"
        yield Finding(name="disk", state="problem", text=why, remedy=other)
        return
    text = f"{free / 1e9:,.1f} GB free at {place}, written at {speed / 1e6:,.0f} MB/s"
    if free < LEAST_FREE:
        yield Finding(name="disk", state="problem", text=text, remedy="make room, or choose another --run-dir")
    else:
        slow = " (slow: checkpoints and outbox hold up training)" if speed < SLOW_DISK else ""
        yield Finding(name="disk", text=text + slow)


def write_speed(folder: Path) -> float:
    """Return how many bytes a second reach the disk of a folder. Raises OSError where it may not be written."""
    block = os.urandom(CHUNK)  # some file systems compress
    with tempfile.TemporaryFile(dir=folder) as file:
        begin, written = time.perf_counter(), 0
        while written < MOST_WRITTEN and time.perf_counter() < begin + WRITE_SECONDS:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written += 1
        return written * CHUNK / (time.perf_counter() - begin)


def clock_finding(now: float, installed_at: float, started: Mapping[str, float]) -> Finding:
    """Return whether the clock can be right: a robot without a battery for it wakes up in another year.

    All times in seconds since 1970. installed_at: when the program was. started: when each trainer was, by its clock.
    """
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    remedy = "timedatectl set-ntp true, here or there"
    if now < installed_at - CLOCK_SECONDS:
        text = f"{shown} is before the program was installed"
        return Finding(name="clock", state="problem", text=text, remedy="timedatectl set-ntp true")
    for trainer, at in started.items():
        if at > now + CLOCK_SECONDS:
            text = f"{shown}, and trainer {trainer} began {at - now:,.0f} s later"
            return Finding(name="clock", state="problem", text=text, remedy=remedy)
    return Finding(name="clock", text=shown)
