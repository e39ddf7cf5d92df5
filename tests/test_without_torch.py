"""What `make test-fast` runs without torch: the import of torch takes seconds, and the wire must work without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
# Rooms that know no network, with the tests that need torch all the same.
ROOMS = ["broker", "robot_edge/sources", "robot_edge/teaching", "robot_edge/uplink"]
NEED_TORCH = [
    *(f"robot_edge/sources/test_{kind}.py" for kind in ("ros2_dds", "torchvision_set", "tub", "webdataset", "yolo")),
    "robot_edge/teaching/test_remote.py",
]
# Of these the tests run, too: topics, rights, and what people type.
RUN = "topics or access or commands or terminal or lessons"
# What takes robots' messages in, checks and stores them: a process of its own in a cluster.
INGEST = ["cloud_trainer.messages.incoming", "cloud_trainer.messages.outgoing", "cloud_trainer.store.postgres"]
BLOCKED = "import sys, pytest; sys.modules['torch'] = None; sys.exit(pytest.main(sys.argv[1:]))"


def test_rooms_without_networks_need_no_torch() -> None:
    command = [sys.executable, "-c", BLOCKED, "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", RUN]
    command += [f"--ignore={TESTS / one}" for one in NEED_TORCH] + [str(TESTS / one) for one in ROOMS]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_what_takes_messages_in_needs_no_torch() -> None:
    imported = (
        f"import sys, {', '.join(INGEST)}; print([one for one in ('torch', 'torchvision') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", imported], cwd=TESTS.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
