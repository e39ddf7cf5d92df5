"""Every benchmark that needs nothing but this project, one after the other: `make bench`.

With BENCH_DATA=PATH/cifar10 (train/ and test/ with a sub-folder of pictures for each class) also those on pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    data = os.environ.get("BENCH_DATA")
    train = ["--data", f"{data}/train"] if data else []
    runs = [
        ["edge_overhead.py", *train],
        ["memory.py", *train],
        ["normalization.py"],
        ["skewed.py"],
        ["durability.py"],
        ["live.py"],
        ["outage.py"],
        ["stored_samples.py"],
        ["codec.py"],
        ["compute.py"],
        ["sealing.py"],
        ["waiting_threads.py"],
        ["kept_memory.py"],
        ["fleet.py"],
    ]
    if data:
        runs.append(["accuracy.py", "--data", data])
        runs.append(["incremental.py", "--data", data])
        runs.append(["edge_choices.py", "--data", data])
        runs.append(["selection.py", "--data", data])
        runs.append(["pipeline.py", "--data", data])
        runs.append(["narrow_link.py", "--data", data])
        runs.append(["paper.py", "--data", data])
    else:
        print("BENCH_DATA=PATH/cifar10 is not set: no accuracy.py, no paper.py and the like, simulated pictures")
    for script, *flags in runs:
        print(f"\n== {script} ==", flush=True)
        status = subprocess.run([sys.executable, str(HERE / script), *flags], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
