"""A program with faults planted in it: `python -m tests.end_to_end.faulty FAULT,... PACKAGE ARGUMENTS`.

A fault is MODULE:CLASS.METHOD:N. The N-th call of that method raises RuntimeError("planted in METHOD"); all others do
what they always do. With :busy behind it, that call says "planted in METHOD" and computes for ever.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import runpy
import sys
from typing import Any


def plant(fault: str) -> None:
    module, path, number, *busy = fault.split(":")
    class_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), class_name)
    original = getattr(owner, method)
    calls = itertools.count(1)

    @functools.wraps(original)
    def faulty(*arguments: Any, **options: Any) -> Any:
        if next(calls) == int(number):
            if busy:
                compute_for_ever(f"planted in {method}")
            raise RuntimeError(f"planted in {method}")
        return original(*arguments, **options)

    setattr(owner, method, faulty)


def compute_for_ever(text: str) -> None:
    import torch  # behind prepare_pytorch

    print(text, flush=True)
    layers = torch.nn.Sequential(*[torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(8)])
    images = torch.zeros(64, 64, 64, 64)
    while True:
        layers(images).sum().backward()


if __name__ == "__main__":
    _, faults, *sys.argv = sys.argv
    for one in faults.split(","):
        plant(one)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
