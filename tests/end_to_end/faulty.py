"""A program with faults planted in it: `python -m tests.end_to_end.faulty FAULT,... PACKAGE ARGUMENTS`.

A fault is MODULE:CLASS.METHOD:N. The N-th call of that method raises RuntimeError("planted in METHOD"); all others do
what they always do.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import runpy
import sys
from typing import Any


def plant(fault: str) -> None:
    module, path, number = fault.split(":")
    class_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), class_name)
    original = getattr(owner, method)
    calls = itertools.count(1)

    @functools.wraps(original)
    def faulty(*arguments: Any, **options: Any) -> Any:
        if next(calls) == int(number):
            raise RuntimeError(f"planted in {method}")
        return original(*arguments, **options)

    setattr(owner, method, faulty)


if __name__ == "__main__":
    _, faults, *sys.argv = sys.argv
    for one in faults.split(","):
        plant(one)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
