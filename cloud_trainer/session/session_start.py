"""How a robot's session begins: what its log must hold for the same network to be built again. No I/O but --weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from broker.errors import ConfigError
from broker.program.paths import typed_path
from broker.wire.messages import RobotState, SplitSpec
from cloud_trainer.config import TrainingSettings
from cloud_trainer.cost import cost_of, timed_samples
from cloud_trainer.logs import is_shared, title
from cloud_trainer.session.batches import Reader
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.session.start import SessionStart
from cloud_trainer.session.still_learning import most_kept
from hierarchy.backbone import SMALL_IMAGE, Weights
from hierarchy.cloud import CloudSegment, CloudTrainer, fastest_compute
from hierarchy.learner import restore_weights
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint
from hierarchy.runtime.settings import is_weights_file
from hierarchy.schedule import NO_WARM_UP, WARM_UP_STEPS
from hierarchy.weights_file import weights_digest

# Kinds of networks that are remembered without weights. To copy one takes a tenth of the time of building it.
MAX_BLANK = 8

logger = logging.getLogger("cloud-trainer")


def new_start(
    log: str,
    state: RobotState,
    settings: TrainingSettings,
    device: torch.device,
    *,
    known: Iterable[bytes],
    room: int,
) -> SessionStart:
    """Return what to enter for a robot that starts a network, which is built on trial. log: that it begins with it.

    The fastest way to compute is measured, unless it is known from a start of the same network, or what measuring takes
    beside the network does not fit into room, in bytes. known: payloads of starts on this machine, of this robot or
    others, for whom the measurement would hold everything up. Raises ConfigError where the network cannot be trained.
    """
    segment, run = _build(log, state, settings, device)
    alike = None if run else _began_alike(log, state, segment)
    # Behind a bottleneck of a small image the rest has to learn the expansion: both begin as random ones.
    whole = not state.split.bottleneck or state.split.image_size > SMALL_IMAGE
    still = state.still and whole and bool(alike or run)
    if run and run not in {state.run, state.former} and not is_shared(log):
        logger.warning(
            "%s: its network in --weights %s was trained behind another front than it has now",
            title(log),
            settings.weights,
        )
    for before in map(SessionStart.unpack, known):
        if replace(before.state.split, bits=state.split.bits) == state.split:  # as fast with however many bits
            return replace(before, state=state, began_alike=alike, still=still)
    cost = cost_of(state.split, settings.batch, device)
    if cost.measuring > room:
        return SessionStart(state=state, began_alike=alike, still=still)
    count = timed_samples(cost, settings.batch, device)
    compute = fastest_compute(segment, state.split.shape, count, device)
    return SessionStart(state=state, **compute.settings, began_alike=alike, still=still)


def _began_alike(log: str, state: RobotState, segment: CloudSegment) -> bool | None:
    """Say whether both ends begin with the same pretrained weights; None where the robot has none."""
    if not state.weights_digest:
        return None
    alike = weights_digest(segment.rest) == state.weights_digest
    if not alike:
        logger.warning(
            "%s began with other pretrained weights than its network here: start this trainer with the file that "
            "the robot has, --weights FILE, and the robot with a new --run-dir",
            title(log),
        )
    return alike


def open_session(
    log: str,
    start: SessionStart,
    settings: TrainingSettings,
    device: torch.device,
    read: Reader,
    *,
    robot: str = "",
    restored: bool = False,
) -> Session:
    """Return a session at the beginning of its training.

    robot: whose start it is, where several share the log.
    restored: a checkpoint's weights are about to replace those that the network began with, which may be gone by now.
    Raises ConfigError where it cannot be trained.
    """
    state = start.state
    if restored:
        segment = _blank_copy(state.split, device)
    else:
        segment, _ = _build(log, state, settings, device)
    segment.stands_still = start.still
    trainer = CloudTrainer(
        segment,
        compute=start.compute(device),
        peak_learning_rate=settings.learning_rate,
        seed=settings.seed,
        warm_up=NO_WARM_UP if start.began_alike else WARM_UP_STEPS,
    )
    most = most_kept(segment.head.weight.shape[1]) if start.still else settings.rehearse_from
    session = Session(
        log,
        state,
        trainer,
        robot=robot,
        batch=settings.batch,
        memory=min(settings.rehearse_from, most),
        seed=settings.seed,
        read=read,
        still=start.still,
    )
    session.began_alike = start.began_alike
    return session


@lru_cache(maxsize=MAX_BLANK)
def _blank(kind: type[CloudSegment], split: SplitSpec) -> CloudSegment:
    """Return a network whose parameters take no memory, to be copied."""
    segment = kind(split, weights="none")
    for parameter in segment.parameters():
        parameter.data = parameter.data.new_zeros(1).expand(parameter.shape)
    return segment


def _blank_copy(split: SplitSpec, device: torch.device) -> CloudSegment:
    """Return a network of zeros, whose weights are about to be replaced."""
    with TorchRandom(0, device):
        blank = _blank(CloudSegment, replace(split, bits=1))
    return copy.deepcopy(blank)  # whose parameters have memory again


def _build(log: str, state: RobotState, settings: TrainingSettings, device: torch.device) -> tuple[CloudSegment, str]:
    """Return a log's network with the weights that it starts from, and the run whose they are, empty for none."""
    run = ""
    with TorchRandom(settings.seed, device):
        segment = CloudSegment(state.split, weights=_initial(log, state, settings))
        if settings.weights != "none" and not is_weights_file(settings.weights):
            saved = load_checkpoint(
                _checkpoint_in(typed_path(settings.weights), log),
                LAYOUT,
                "--weights FOLDER needs one for each robot's name",
            )
            try:
                restore_weights(segment, segment.head, saved.learner)
            except RuntimeError as error:
                raise ConfigError(f"--weights {settings.weights}: not of this split: {error}") from error
            run = saved.members[0].state.run
    return segment, run


def _initial(log: str, state: RobotState, settings: TrainingSettings) -> Weights:
    """Return what the network begins with before a former run's weights replace it, if they do."""
    begins = begins_with(state)
    if begins != "file":
        return "default" if begins == "default" else "none"
    if is_weights_file(settings.weights):
        return typed_path(settings.weights)
    logger.warning(
        "%s begins with weights of a file, and this trainer was not given one: its half begins with random "
        "ones. Start the trainer with the same --weights FILE",
        title(log),
    )
    return "none"


def begins_with(state: RobotState) -> str:
    """Return where a new cloud's half of a robot's network has its weights from."""
    return state.rest_weights if state.weights == "checkpoint" else state.weights


def _checkpoint_in(run: Path, log: str) -> Path:
    """Return the folder of a log's checkpoint in a trainer's run.

    A run of before clusters may have been one of several processes, with a folder for each.
    """
    places = [folder / "checkpoint" / log for folder in (run, *sorted(run.glob("worker-*")))]
    # Beside a store in a database it has a name of its own.
    found = [file for place in places for file in (place / CHECKPOINT, *place.glob(f"*/{CHECKPOINT}")) if file.exists()]
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else places[0]
