"""The main job on one machine: broker, cloud trainer and robot with the simulated camera, in three processes.

    make demo

Six toys are shown first, two more join half way. Ends by itself, within three minutes, and says where the run is. On a
slow machine it shows fewer frames, and says so.
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
from broker.local.server import start_local_broker

LAUNCH = Path(__file__).parent
# What `make demo` promises on the eight toys; the last line says whether it was kept.
EXIT_TARGET, CLOUD_TARGET = 0.80, 0.85
# Frames shown and frames in a step: as launch/demo.toml has them, and for a slow machine. Both are 170 steps: the same
# steps with fewer frames in each teach the toys, and fewer steps do not (docs/results/demo.md).
FULL, SLOW = (9000, 64), (6800, 48)
# Of the three minutes, for showing frames: the rest is for starting, for practice and for tests.
SHOWING_SECONDS = 105.0
# Robot and trainer, on a core each, train so many times as fast as one core trains the whole network.
FASTER_TOGETHER = 2.0
# A batch, and how many times it is timed; the first one also lays out memory. The fastest counts.
BATCH, TIMED = 32, 4


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
            frames, batch = shown(whole_network_rate())
            if (frames, batch) == SLOW:
                print(f"this machine is slow: {frames:,} images in place of {FULL[0]:,}, to end in time", flush=True)
            fewer = ["--images", str(frames), "--batch", str(batch)]
            robot = start("robot_edge", "demo.toml", broker.url, folder / "robot", *fewer)
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


def whole_network_rate() -> float:
    """Return how many images a second one core trains the demo's whole network with."""
    import torch  # takes seconds, in which the trainer starts

    from hierarchy.backbone import build_backbone

    torch.set_num_threads(1)
    network = build_backbone("resnet18", image_size=32, weights="none").module
    images, seconds = torch.zeros(BATCH, 3, 32, 32), []
    for _ in range(TIMED):
        start = time.perf_counter()
        network(images).sum().backward()
        seconds.append(time.perf_counter() - start)
    return BATCH / min(seconds)


def shown(rate: float) -> tuple[int, int]:
    """Return how many frames to show, and how many in a step.

    rate: images a second that one core trains the whole network with.
    """
    return FULL if rate * FASTER_TOGETHER * SHOWING_SECONDS >= FULL[0] else SLOW


def start(
    package: str, config: str, broker: str, run_dir: Path, *more: str, **streams: object
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", package, "run", "--config", str(LAUNCH / config), *more]
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
    if (picture := summary.parent / "curves.png").exists():
        print(f"The picture of it: {picture}")
    if exit_accuracy >= EXIT_TARGET and cloud_accuracy >= CLOUD_TARGET:
        return 0
    print(
        f"demo: below what it should reach, {EXIT_TARGET:.0%} at the exit and {CLOUD_TARGET:.0%} in the cloud",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
