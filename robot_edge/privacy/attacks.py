"""The attackers, weakest first: what each knows, what it saw of the attacked frames, and how much that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hierarchy.attack.decoder import OnStep, train_decoder
from hierarchy.attack.inversion import Front, invert
from hierarchy.attack.leak import Leak, leak_of
from hierarchy.attack.pairs import Pairs, Reconstructions, Scale, mean_picture
from hierarchy.attack.ridge import linear_attackers
from hierarchy.attack.similarity import has_lpips, lpips
from robot_edge.privacy.config import Effort

# Attacked frames of which pictures are kept.
SHOWN = 8

NOTHING, SAME_KIND, FRONT = "no payload", "frames of the same kind", "the front, and frames of the same kind"
MEAN = "the mean picture"

# Is given who attacks, and how many steps it took; true ends it.
OnAttack = Callable[[str, int], bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """What an attacker came to. knows: beside what crossed. frames: attacked ones. lpips: None where not measured.

    shown: its picture of the first attacked frames, float32 (SHOWN at most, h, w, 3).
    """

    attacker: str
    knows: str
    frames: int
    leak: Leak
    lpips: float | None
    seconds: float
    shown: Reconstructions


@dataclass(frozen=True, kw_only=True, eq=False)
class Stranger:
    """An attacker without frames of the robot's kind. own: its pairs. knows: what it has, for people.

    judged: places of the attacked frames that are of another kind than its own; None for all.
    """

    own: Pairs
    knows: str
    judged: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """steps: that painting takes, and tells of. judged: places of the frames that it is judged by.

    paint: is also given the best picture of all attacked frames by then.
    """

    attacker: str
    knows: str
    steps: int
    paint: Callable[[OnStep, Reconstructions], Reconstructions]
    judged: NDArray[np.int64]


def steps_in_all(effort: Effort, *, has_stranger: bool) -> int:
    """Return how many steps all attackers take together."""
    return effort.decoder_steps + effort.inversion_steps + (effort.other_steps if has_stranger else 0)


def attacks(
    own: Pairs,
    attacked: Pairs,
    *,
    front: Front,
    image_size: int,
    effort: Effort,
    stranger: Stranger | None,
    seed: int,
    on_step: OnAttack,
) -> Iterator[Attack]:
    """Yield what each attacker comes to. own: pairs of all but the stranger.

    front: encodes pictures of image_size, as `invert` wants it. on_step: as soon as it says so no further attack comes.
    """
    plans = chain(
        _plans(own, attacked, front=front, image_size=image_size, effort=effort, seed=seed),
        _plans_of(stranger, attacked, steps=effort.other_steps, seed=seed) if stranger else (),
    )
    done, stopped = 0, False
    best = np.repeat(mean_picture(own.pictures)[None], len(attacked), axis=0)
    best_psnr = 0.0

    def taken(plan: _Plan, steps: int) -> bool:
        nonlocal stopped
        stopped = on_step(f"{plan.attacker} ({plan.knows})", done + steps)
        return stopped

    begin = time.monotonic()
    for plan in plans:
        if taken(plan, 0):
            return
        seen = plan.paint(partial(taken, plan), best)
        if stopped:
            return
        done += plan.steps
        frames = attacked.pictures[plan.judged]
        # The others fill the gallery: first those attacked ones that it was not judged by.
        rest = np.setdiff1d(np.arange(len(attacked)), plan.judged)
        others = np.concatenate([attacked.pictures[rest], own.pictures])
        judged = seen[plan.judged]
        leak = leak_of(judged, frames, others)
        if len(seen) == len(best) and leak.psnr > best_psnr:
            best, best_psnr = seen, leak.psnr
        yield Attack(
            attacker=plan.attacker,
            knows=plan.knows,
            frames=len(frames),
            leak=leak,
            lpips=float(lpips(judged, frames).mean()) if has_lpips() else None,
            seconds=time.monotonic() - begin,
            shown=seen[:SHOWN].copy(),
        )
        begin = time.monotonic()


def _plans(own: Pairs, attacked: Pairs, *, front: Front, image_size: int, effort: Effort, seed: int) -> Iterator[_Plan]:
    whole, few = np.arange(len(attacked)), np.arange(min(effort.inverted, len(attacked)))
    yield _Plan(attacker=MEAN, knows=NOTHING, steps=0, paint=lambda _, best: best, judged=whole)
    for name, one in linear_attackers(own).items():
        seen = one.reconstruct(attacked.values)
        yield _Plan(attacker=name, knows=SAME_KIND, steps=0, paint=partial(_painted, seen), judged=whole)

    def decode(on_step: OnStep, _best: Reconstructions) -> Reconstructions:
        decoder = train_decoder(own, steps=effort.decoder_steps, seed=seed, on_step=on_step)
        return decoder.reconstruct(attacked.values)

    yield _Plan(attacker="decoder", knows=SAME_KIND, steps=effort.decoder_steps, paint=decode, judged=whole)

    def search(on_step: OnStep, best: Reconstructions) -> Reconstructions:
        return invert(
            front,
            attacked.values[few],
            best[few],
            scale=Scale.of(own.values),
            image_size=image_size,
            steps=effort.inversion_steps,
            on_step=on_step,
        )

    yield _Plan(attacker="search", knows=FRONT, steps=effort.inversion_steps, paint=search, judged=few)


def _plans_of(stranger: Stranger, attacked: Pairs, *, steps: int, seed: int) -> Iterator[_Plan]:
    judged = np.arange(len(attacked)) if stranger.judged is None else stranger.judged
    for name, one in linear_attackers(stranger.own).items():
        seen = one.reconstruct(attacked.values)
        yield _Plan(attacker=name, knows=stranger.knows, steps=0, paint=partial(_painted, seen), judged=judged)
    if not steps:
        return

    def decode(on_step: OnStep, _best: Reconstructions) -> Reconstructions:
        return train_decoder(stranger.own, steps=steps, seed=seed, on_step=on_step).reconstruct(attacked.values)

    yield _Plan(attacker="decoder", knows=stranger.knows, steps=steps, paint=decode, judged=judged)


def _painted(seen: Reconstructions, _on_step: OnStep, _best: Reconstructions) -> Reconstructions:
    return seen
