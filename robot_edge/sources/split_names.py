"""What the parts of a data set are called."""

from __future__ import annotations

# In the order in which they are offered to train and to test on.
TRAIN_SPLITS = ("train", "training")
TEST_SPLITS = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def are_splits(names: list[str]) -> bool:
    """Whether all names are what parts of a data set are called."""
    return {name.lower() for name in names} <= {*TRAIN_SPLITS, *TEST_SPLITS}


def first_of(names: list[str], order: tuple[str, ...]) -> str:
    """Return the name that comes first in an order; empty where none is in it."""
    there = [name for name in names if name.lower() in order]
    return min(there, key=lambda name: order.index(name.lower()), default="")
