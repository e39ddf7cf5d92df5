"""Your own folders of photos, taught on one machine: broker, cloud trainer and robot, in three processes.

    make demo-photos PHOTOS=path

PHOTOS has one sub-folder of photos for each class. Some photos are kept back, and named by exit and cloud at the end.
Further flags are those of `robot-edge teach-photos`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from broker.errors import EXIT_INTERRUPTED, EXIT_SETTING, ReflexarcError
from broker.local.server import start_local_broker

# How long a trainer may take to write its summary.
END_SECONDS = 20.0


def main(photos: str = "", *flags: str) -> int:
    if not Path(photos).is_dir() or not photos:
        print("usage: make demo-photos PHOTOS=FOLDER, with one sub-folder of photos for each class", file=sys.stderr)
        return EXIT_SETTING
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(time.strftime("runs/photos-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True)
    try:
        with ExitStack() as running:
            broker = running.enter_context(start_local_broker(log=folder / "broker.log"))
            print(f"broker: {broker.backend} on port {broker.port}. Trainer's log: {folder}/cloud.log", flush=True)
            log = running.enter_context((folder / "cloud.log").open("w"))
            here = ("--broker", broker.url, "--threads", "1", "--run-dir")
            cloud = start("cloud_trainer", "run", *here, str(folder / "cloud"), log=log)
            running.callback(end, cloud)
            robot = start("robot_edge", "teach-photos", "--photos", photos, *here, str(folder / "robot"), *flags)
            running.callback(end, robot)
            return robot.wait()
    except KeyboardInterrupt:
        print(f"\nstopped; what there is of the run is in {folder}")
        return EXIT_INTERRUPTED
    except ReflexarcError as error:
        print(f"demo-photos: {error}", file=sys.stderr)
        return EXIT_SETTING


def start(package: str, command: str, *flags: str, log: object = None) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: Ctrl-C reaches only this one, which ends the others in order."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", package, command, *flags], start_new_session=True, stderr=log
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to save and end; insist after a while."""
    process.terminate()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
