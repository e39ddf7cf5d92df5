"""What `make test-fast` runs without torch: the import of torch takes seconds, and the wire must work without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
# Rooms that know no network, with the tests that need torch all the same.
ROOMS = ["broker", "robot_edge/sources", "robot_edge/teaching", "robot_edge/uplink"]
NEED_TORCH = ["robot_edge/sources/test_torchvision_set.py", "robot_edge/teaching/test_remote.py"]
# Of these the tests run, too: topics, rights, and what people type.
RUN = "topics or access or commands or terminal or lessons"
BLOCKED = "import sys, pytest; sys.modules['torch'] = None; sys.exit(pytest.main(sys.argv[1:]))"


def test_rooms_without_networks_need_no_torch() -> None:
    command = [sys.executable, "-c", BLOCKED, "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", RUN]
    command += [f"--ignore={TESTS / one}" for one in NEED_TORCH] + [str(TESTS / one) for one in ROOMS]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
