"""The main job on one machine: broker, cloud trainer and robot with the simulated camera, in three processes.

    make demo

Six toys are shown first, two more join half way. Ends by itself and says where the run is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from broker.errors import ReflexarcError
from broker.server import start_local_broker

LAUNCH = Path(__file__).parent
# What `make demo` promises on the eight toys; the last line says whether it was kept.
EXIT_TARGET, CLOUD_TARGET = 0.80, 0.85


def main() -> int:
    # A closed terminal or `kill` must end all three, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(time.strftime("runs/demo-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True)
    try:
        with ExitStack() as running:
            broker = running.enter_context(start_local_broker(log=folder / "broker.log"))
            print(f"broker: {broker.backend} on port {broker.port}. Trainer's log: {folder}/cloud.log", flush=True)
            log = running.enter_context((folder / "cloud.log").open("w"))
            cloud = start("cloud_trainer", "cloud.toml", broker.url, folder / "cloud", stderr=log)
            running.callback(end, cloud)
            robot = start("robot_edge", "demo.toml", broker.url, folder / "robot")
            running.callback(end, robot)
            status = wait_for(robot, cloud)
    except KeyboardInterrupt:
        print(f"\nstopped; what there is of the run is in {folder}")
        return 130
    except ReflexarcError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    if status:
        print(f"demo: the {'robot' if robot.returncode else 'trainer'} ended with status {status}; see {folder}")
        return status
    return judge(folder / "robot" / "summary.json")


def start(package: str, config: str, broker: str, run_dir: Path, **streams: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", package, "run", "--config", str(LAUNCH / config)]
    # A session of its own: Ctrl-C at the terminal reaches only this program, which ends the others in order.
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [*command, "--broker", broker, "--run-dir", str(run_dir)], start_new_session=True, **streams
    )


def wait_for(robot: subprocess.Popen[bytes], cloud: subprocess.Popen[bytes]) -> int:
    """Wait until the robot is done, or the trainer has failed; return the status of whichever it was."""
    while (status := robot.poll()) is None:
        if cloud.poll() is not None:
            return cloud.returncode or 1
        time.sleep(0.1)
    return status


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to write its summary and end; insist after a while."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def judge(summary: Path) -> int:
    """Say whether the robot learned what it should."""
    figures = json.loads(summary.read_text())
    exit_accuracy, cloud_accuracy = figures["exit_accuracy"] or 0, figures["cloud_accuracy"] or 0
    print(f"The picture of it: {summary.parent / 'curves.png'}")
    if exit_accuracy >= EXIT_TARGET and cloud_accuracy >= CLOUD_TARGET:
        return 0
    print(
        f"demo: below what it should reach, {EXIT_TARGET:.0%} at the exit and {CLOUD_TARGET:.0%} in the cloud",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
