"""Installs the wheel with all that it asks for under other Pythons, and lets broker, trainer and robot run there.

    make wheels

PyTorch is downloaded for each, so this takes minutes, and gigabytes of disk while it lasts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from tests.interpreters import find_interpreter
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
# What differs most from what the tests run on: the oldest, and the first without distutils and much else.
VERSIONS = ("3.10", "3.12")
IMAGES = 600
ROBOT = f"run --source sim: --images {IMAGES} --image-size 32 --batch 16 --bottleneck 12 --robot r1 --run-dir r1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help="Pythons to try.")
    versions = parser.parse_args().versions
    with tempfile.TemporaryDirectory() as folder:
        (wheel,) = WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
        results = {version: _tried(version, Path(wheel), Path(folder) / version) for version in versions}
    for version, result in results.items():
        print(f"Python {version}: {result}")
    sys.exit(any(result.startswith("failed") for result in results.values()))


def _tried(version: str, wheel: Path, folder: Path) -> str:
    """Return what came of it, in a line."""
    python = find_interpreter(version)
    if python is None:
        return "left out, it is not on this machine"
    subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
    begin = time.monotonic()
    subprocess.run(
        [str(folder / "bin" / "pip"), "install", "--quiet", f"reflexarc[broker] @ {wheel.as_uri()}"], check=True
    )
    installed = time.monotonic() - begin
    try:
        trained = _job(folder)
    except (subprocess.SubprocessError, OSError, LookupError) as error:
        return f"failed: {error}"
    return f"installed in {installed:.0f} s; {trained:,} of {IMAGES:,} images arrived at the trainer"


def _job(folder: Path) -> int:
    """Let a robot learn beside broker and trainer, and return how many images the trainer took in."""
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(*command: str) -> subprocess.Popen[bytes]:
        program, *arguments = command
        return subprocess.Popen([str(folder / "bin" / program), *arguments], cwd=folder, env=environment)

    broker = start("local-broker", "run", "--port", str(port))
    trainer = start("cloud-trainer", "run", "--broker", url, "--run-dir", "cloud")
    try:
        robot = start("robot-edge", *ROBOT.split(), "--broker", url)
        if status := robot.wait(timeout=600):
            raise ChildProcessError(f"the robot ended with status {status}")
        trainer.send_signal(signal.SIGTERM)
        if (status := trainer.wait(timeout=120)) != 0:
            raise ChildProcessError(f"the trainer ended with status {status}")
    finally:
        for one in (trainer, broker):
            one.terminate()
            one.wait(timeout=60)
    summary = json.loads((folder / "cloud" / "summary.json").read_text())
    return int(summary["images"])


if __name__ == "__main__":
    main()
