"""A run's secret seed: drawn once, kept in a file of its own, told to nobody."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.errors import ConfigError
from broker.program.machine import refused

FILE = "secret-seed"
# What asks for one to be drawn, and stands for it wherever settings are shown.
DRAWN = -1
# Seeds from here on are secrets. Fewer bits can all be tried, by whoever sees what a robot sends first.
FIRST_SECRET = 2**32
SEEDS = 2**63


def shown_seed(seed: int) -> int:
    """Return a seed as config.toml has it, which people pass on."""
    return seed if seed < FIRST_SECRET else DRAWN


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed that tells nothing of a secret one; any other seed as it is, and 0 for one that is not drawn yet.

    For random numbers whose results others see, such as the order of frames: the state of a Mersenne twister, and its
    seed, can be computed from enough of what it drew.
    """
    if seed < FIRST_SECRET:
        return max(seed, 0)
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "big")


def seed_of(run: Path, asked: int, former: Mapping[str, Any] | None) -> int:
    """Return the seed of a run: the one asked for, or that it began with, or a new secret one.

    run: its folder. former: settings of the run that it holds, if it does. Raises ConfigError.
    """
    if asked == DRAWN and former is not None and former.get("seed", DRAWN) != DRAWN:
        return int(former["seed"])
    kept = _read(run)
    if former is not None and kept is None and former.get("seed", DRAWN) == DRAWN:
        raise ConfigError(
            f"{run / FILE} is gone, without which nobody knows the order of this run's frames: put a copy of it back, "
            f"or choose another --run-dir, with --weights {run} to go on from what the run learned"
        )
    if kept is not None and asked >= FIRST_SECRET and asked != kept:
        raise ConfigError(f"{run} holds a run with another --seed: leave --seed out, or choose another --run-dir")
    if asked != DRAWN:
        return asked
    return kept if kept is not None else drawn_seed()


def drawn_seed() -> int:
    """Return a secret seed that nobody can guess."""
    return FIRST_SECRET + secrets.randbelow(SEEDS - FIRST_SECRET)


def keep_seed(run: Path, seed: int) -> None:
    """Write a secret seed into a run's folder, for its owner's eyes only. Raises ConfigError, and MachineError."""
    if seed < FIRST_SECRET or _read(run) == seed:
        return
    try:
        file = os.open(run / FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w") as text:
            text.write(f"{seed}\n")
            text.flush()
            os.fsync(text.fileno())
    except OSError as error:
        raise refused(f"--run-dir {run}", error, path=run) from error


def _read(run: Path) -> int | None:
    """Return the seed that a folder has; None for none. Raises ConfigError where it cannot be read."""
    try:
        with (run / FILE).open() as text:
            seed = int(text.read(32))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run / FILE} cannot be read ({error}): put a copy of it back") from error
    if not FIRST_SECRET <= seed < SEEDS:
        raise ConfigError(f"{run / FILE} holds no secret seed: put a copy of it back")
    return seed
