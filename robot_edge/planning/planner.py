"""`robot-edge plan`: measures robot, link and trainer, and finds the fastest way to divide the network."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from broker.errors import ConfigError, MachineError
from broker.link.connect import connect
from broker.program.machine import refused
from broker.program.plain_text import say
from broker.security.credentials import payload_keys_for
from broker.security.tls import credentials_for
from hierarchy.device import Compute, set_threads
from hierarchy.hiding import Hiding
from hierarchy.runtime.progress import RunProgress
from robot_edge.learning.framed import framing_for
from robot_edge.learning.hidden_frames import hiding_of
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.costs import costs
from robot_edge.planning.edge_timing import EdgeTiming, SplitCandidate, candidates
from robot_edge.planning.exit_places import better_exit, exit_cost, labelled_frames
from robot_edge.planning.probing import Prober
from robot_edge.planning.question import Question
from robot_edge.planning.quick_attack import Crossing, QuickAttack, frames_to_attack
from robot_edge.planning.runtime_model import Cost, Option, best_of_each, choose, leaks_too_much, options, tells_little
from robot_edge.planning.table import print_exits, print_table
from robot_edge.planning.verification import check_name_to_verify, verify
from robot_edge.run.config import RobotConfig
from robot_edge.sources.opening import open_source

# Frames for the measurement are waited for so long, from a camera.
FRAME_SECONDS = 15.0
# A trainer builds a network first, may be in a step of another robot's, and time others' networks before.
TIMING_SECONDS = 120.0

# The exit status of a plan that did not keep what it promised.
EXIT_MISSED = 1

log = logging.getLogger("robot-edge")


def plan(config: PlanConfig) -> None:
    """Measure, print the table, and write the settings of the fastest way.

    Raises ConfigError and CutError, and SystemExit where --verify shows another rate than was predicted.
    """
    _check_writable(Path(config.out).absolute())
    credentials = credentials_for(config.run.uplink.broker, config.run.uplink.credentials)
    keys = payload_keys_for(config.run.uplink.payload_key, credentials, robot=config.run.robot)
    if config.verify:
        check_name_to_verify(config, credentials, keys)
    set_threads(config.run.threads)
    config = replace(config, run=config.run.resolved())
    hiding = hiding_of(config.run.network, config.run.open_seed)
    log.info("looking for the cuts of %s", config.run.network.backbone)
    chosen = candidates(config.run, config.chosen_cuts)
    images, names = _frames(config)
    attack = QuickAttack(config, frames_to_attack(config.run)) if config.most_leak else None
    link = connect(config.run.uplink.broker, f"{config.run.robot}-plan", credentials=credentials, keys=keys)
    with closing(link):
        prober = Prober(link, config.run.robot)
        prober.reach()
        if prober.robot_runs:
            log.warning(
                "robot %s is running: what it and its training take is missing in what is measured", config.run.robot
            )
        log.info("measuring the link")
        rate = prober.link_rate(config.mbit * 1e6 / 8)
        measured: list[Cost] = []
        computes: dict[str, Compute] = {}  # by cut; a bottleneck changes nothing that could be measured
        with RunProgress(len(chosen), "ways to divide measured") as progress:
            for done, candidate in enumerate(chosen):
                progress.show(done, [f"{candidate.cut}, {'a' if candidate.bottleneck else 'no'} bottleneck"])
                measured += _measure(config, candidate, computes, images, names, prober, hiding)
            progress.show(len(chosen))
    if not measured:
        raise ConfigError("none of these networks could be measured: the lines above say why")
    found = options(measured, rate.goodput)
    choose(found, **config.bounds)  # refuses what breaks other bounds before it is attacked
    if attack:
        found = _attacked(config, attack, best_of_each(found, **config.bounds), computes)
    little = [one for one in found if tells_little(one, config.most_leak)]
    best = choose(little, **config.bounds) if little else None
    print_table(config, rate, found, best, attack.blind if attack else None)
    if best is None:
        raise ConfigError(leaks_too_much(found, config.most_leak, privacy=config.run.network.privacy))
    planned = config.run_with(best.cut, best.bits, best.bottleneck, best.pool)
    if config.run.network.stands_still:
        planned = _with_best_exit(config, planned, chosen, computes, images[0])
    _write(config, planned.as_toml())
    if config.verify and not verify(config, credentials, keys, Path(config.out), best.pipelined):
        raise SystemExit(EXIT_MISSED)


def _attacked(
    config: PlanConfig, attack: QuickAttack, found: list[Option], computes: dict[str, Compute]
) -> list[Option]:
    """Return the options, and what each of them leaks."""
    by_cut = groupby(sorted(found, key=lambda one: one.cut), lambda one: one.cut)
    attacked: dict[Option, Option] = {}
    with RunProgress(len(found), "ways to divide attacked") as progress:
        for cut, its in by_cut:
            ways = list(its)
            progress.show(len(attacked), [cut])
            crossings = [Crossing(one.bottleneck, one.pool, one.bits) for one in ways]
            for one, leak in zip(ways, attack.leaks(cut, crossings, computes[cut]), strict=True):
                attacked[one] = replace(one, leak=leak.ssim, found=leak.found) if leak else one
                progress.show(len(attacked), [cut])
    return [attacked[one] for one in found]


def _with_best_exit(
    config: PlanConfig,
    planned: RobotConfig,
    chosen: list[SplitCandidate],
    computes: dict[str, Compute],
    image: NDArray[np.uint8],
) -> RobotConfig:
    """Measure the exit behind the whole network and one at each cut, and return the plan with the better one."""
    known = labelled_frames(config.run)
    measured = [one for one in chosen if one.cut in computes]
    exits = {}
    with RunProgress(1 + len(measured), "exits measured") as progress:
        for done, (cut, place) in enumerate([(planned.network.cut, "end"), *((one.cut, "cut") for one in measured)]):
            progress.show(done, [cut if place == "cut" else "behind the whole network"])
            run = config.run_with(cut, planned.network.bits, 0, exit_at="end" if place == "end" else "cut")
            exits[cut if place == "cut" else ""] = exit_cost(run, computes[cut], image, known)
        progress.show(len(exits))
    place = better_exit(exits[planned.network.cut], exits[""], config.bounds["most_memory"])
    print_exits(list(exits.values()), best=planned.network.cut if place == "cut" else "", tested=known)
    return replace(planned, network=replace(planned.network, exit=place))


def _frames(config: PlanConfig) -> tuple[NDArray[np.uint8], list[str]]:
    """Return a batch of frames to measure with; of a source that shows fewer, the same ones again."""
    images: list[NDArray[np.uint8]] = []
    see = framing_for(config.run.network).input
    give_up = time.monotonic() + FRAME_SECONDS
    source = open_source(
        config.run.source.source,
        config.run.source.options,
        image_size=config.run.network.image_size,
        epochs=config.run.source.epochs,
        seed=config.run.open_seed,
        live=config.run.is_live,
    )
    with closing(source):
        if config.verify and source.length is not None and source.length < config.verify_images:
            raise ConfigError(
                f"--verify trains on {config.verify_images:,} images, and --source {config.run.source.source} has "
                f"{source.length:,}: give more --epochs, or fewer --verify-images"
            )
        while len(images) < config.run.learning.batch and (wait := give_up - time.monotonic()) > 0:
            if (frame := source.next(wait)) is None:
                break
            images.append(see(frame.image))
    if not images:
        raise ConfigError(f"--source {config.run.source.source} showed no frame within {FRAME_SECONDS:.0f} s")
    rows = np.resize(np.arange(len(images)), config.run.learning.batch)
    return np.stack(images)[rows], [str(row % 10) for row in range(config.run.learning.batch)]


def _measure(
    config: PlanConfig,
    candidate: SplitCandidate,
    computes: dict[str, Compute],
    images: NDArray[np.uint8],
    names: list[str],
    prober: Prober,
    hiding: Hiding | None,
) -> list[Cost]:
    """Measure one way to divide at both ends at the same time; nothing comes of it where one of them cannot.

    computes: the fastest way to compute, by cut, as far as it is known.
    """
    name = f"{candidate.cut} with {candidate.bottleneck or 'all'} channels"
    bits = candidate.bits or config.run.network.bits
    try:
        timing = EdgeTiming(
            config.run_with(candidate.cut, bits, candidate.bottleneck, candidate.pool),
            computes.get(candidate.cut),
            hiding,
        )
    except ConfigError as error:  # a layer to freeze that is behind the cut, say
        log.warning("%s: %s", name, error)
        return []
    bound = config.most_memory_mb
    if bound and (least := timing.least_memory(images) / 1e6) > bound:
        log.info("%s: left out, as training takes %.1f MB at least (--most-memory-mb %g)", name, least, bound)
        return []
    questions: list[Question] = []

    def begin() -> Callable[[], bool]:
        questions.append(Question(prober, timing.split, TIMING_SECONDS))
        return questions[0].over

    edge = timing.measure(images, names, begin)
    computes[candidate.cut] = edge.compute
    result = questions[0].result
    if result is None or not result.samples:
        trouble = (result and result.trouble) or f"the trainer did not time it within {TIMING_SECONDS:.0f} s"
        log.warning("%s: %s", name, trouble)
        return []
    return costs(config.run, candidate, timing.split, edge, result)


def _check_writable(out: Path) -> None:
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no such folder")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise MachineError(f"--out {out} may not be written by this user, or on this disk")


def _write(config: PlanConfig, settings: dict[str, object]) -> None:
    try:
        Path(config.out).write_text(tomli_w.dumps(settings))
    except OSError as error:
        raise refused(f"--out {config.out}", error, path=Path(config.out)) from error
    say(f"The plan is in {config.out}: robot-edge run --config {shlex.quote(config.out)}")
