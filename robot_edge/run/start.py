"""How a robot starts: everything is opened, a former process's checkpoint is found, and the node runs."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from broker.errors import EXIT_INTERRUPTED, ConfigError, NothingDone
from broker.link.base import Link
from broker.link.connect import connect
from broker.link.memory import MemoryBroker, MemoryLink
from broker.link.named import named
from broker.program.startup import give_memory_back
from broker.security.credentials import Credentials, payload_keys_for
from broker.security.names_key import load_names
from broker.security.tls import credentials_for
from broker.wire.activations import samples_per_message
from broker.wire.messages import RobotState, SplitSpec, Weights
from broker.wire.names import ClassNames
from hierarchy.device import Compute, choose_device, set_threads
from hierarchy.edge import EdgeSegment, EdgeTrainer, fastest_compute, front_digest
from hierarchy.hiding import Hiding
from hierarchy.random_state import seed_torch
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.page import page_server
from hierarchy.runtime.run_folder import RunFolder, former_settings
from hierarchy.runtime.tracking.trackers import Trackers
from robot_edge.learning.held_out import OpenSource, open_held_out
from robot_edge.learning.hidden_frames import hiding_of
from robot_edge.learning.segment import build_edge
from robot_edge.page.page_model import PageModel
from robot_edge.run.checkpoint import LAYOUT, RobotCheckpoint, inherit
from robot_edge.run.config import RobotConfig
from robot_edge.run.ending import go_through
from robot_edge.run.identity import UNKNOWN, Beginning, check_names_key, go_on_as_another, run_identity
from robot_edge.run.live import live
from robot_edge.run.outcome import verdict
from robot_edge.run.replay import replay
from robot_edge.run.robot_run import RobotRun, assemble
from robot_edge.run.same_run import (
    check_same_run,
    check_still_sealed,
    sealed_so_far,
    taken_over,
    unpack_compute,
    with_key,
    without_checkpoint,
)
from robot_edge.run.secret_seed import keep_seed, seed_of
from robot_edge.run.source_files import SourceFiles, begin_behind, files_of, go_on_with, read_files
from robot_edge.sources.frames import Numbering, PacedSource
from robot_edge.sources.opening import open_source
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.presence import will
from robot_edge.uplink.uplink import Uplink

if TYPE_CHECKING:
    from broker.security.payload_keys import PayloadKeys
    from hierarchy.runtime.page.server import PageServer

# How long a broker and a trainer are looked for before this machine is measured.
GREETING_SECONDS = 1.0

log = logging.getLogger("robot-edge")


def run(config: RobotConfig) -> None:
    """Learn, test on the held-out frames, and write everything down; go on where a former process ended.

    Raises ConfigError for settings that cannot work, NameTaken, StorageError where not all could be saved, NothingDone
    where nothing was learned or tested, and SystemExit where Ctrl-C ended it.
    """
    if not config.uplink.broker:
        raise ConfigError("--broker is empty: only robot_edge.Robot, in Python, learns without one")
    ready, stop = prepare(config), StopRequest()
    with opened(ready, stop) as robot:
        summary = go_through(robot, live if config.is_live else replay)
    nothing = verdict(config, summary)
    if stop.made:
        if nothing:
            log.warning("%s", nothing)
        raise SystemExit(EXIT_INTERRUPTED)
    if nothing:
        raise NothingDone(nothing)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What a run begins with. Nothing of it is written or sent yet.

    names: how class names leave the robot.
    keys: what payloads are sealed with; None for not at all.
    held_out: opens the source of frames to test on; None where they are set apart. start: where the weights are from.
    goes_on: whether there is a checkpoint. hiding: what the front is not to tell.
    """

    config: RobotConfig
    credentials: Credentials | None
    names: ClassNames
    keys: PayloadKeys | None
    device: torch.device
    files: SourceFiles
    source: PacedSource
    held_out: OpenSource | None
    segment: EdgeSegment
    split: SplitSpec
    start: Weights
    has_checkpoint: bool
    hiding: Hiding | None


def prepare(config: RobotConfig, camera: PacedSource | None = None) -> Ready:
    """Open the source and build the network, so that what is wrong with the settings is said before anything starts.

    camera: what is looked at in place of the source that the settings name. Raises ConfigError.
    """
    config.track.check_installed()
    former = former_settings(config.run_path)
    begun_with = config.network.former_run
    asked = config.network
    config = config.resolved(former or (former_settings(begun_with) if begun_with else None))
    if former is None and begun_with:
        for line in taken_over(asked, config.network):
            log.info("%s", line)
    config = dataclasses.replace(config, seed=seed_of(config.run_path, config.seed, former))
    if former is not None:
        check_same_run(former, config)
    credentials = credentials_for(config.uplink.broker, config.uplink.credentials) if config.uplink.broker else None
    names = load_names(config.uplink.names_key)
    if former is not None:
        check_names_key(config.run_path, names.fingerprint, "--run-dir")
    elif config.network.former_run:
        check_names_key(config.network.former_run, names.fingerprint, "--weights")
    keys = payload_keys_for(config.uplink.payload_key, credentials, robot=config.robot) if credentials else None
    if former is not None and credentials:
        check_still_sealed(former, config.run_path, is_sealed=keys is not None)
    elif (
        begun_with and credentials and (line := sealed_so_far(former_settings(begun_with), is_sealed=keys is not None))
    ):
        log.warning("%s", line)
    config = with_key(config, credentials.payload_key if credentials else None, former)
    if config.uplink.home_assistant and (keys or names.fingerprint):
        raise ConfigError("--home-assistant reads names in the clear: leave out --payload-key and --names-key, or it")
    set_threads(config.threads)
    device = choose_device(config.device)
    seed_torch(config.seed)
    has_checkpoint = (config.run_path / "checkpoint" / CHECKPOINT).exists()
    files, numbering = _files_of(config, goes_on=former is not None)
    source = camera or _source_of(config, numbering, names)
    with ExitStack() as half_open:  # a camera's thread in a library's code would end the process with an abort
        half_open.callback(source.close)
        held_out = None
        if config.source.held_out:
            held_out = partial(
                open_held_out,
                config.source,
                config.network.image_size,
                config.open_seed,
                check_name=names.check,
            )
            held_out(()).close()
        # A checkpoint replaces whatever weights the run once began with.
        segment, split, start = build_edge(
            dataclasses.replace(config.network, weights="none") if has_checkpoint else config.network
        )
        hiding = hiding_of(config.network, config.open_seed)
        gc.collect()  # frees the cloud's half, 40 MB of a ResNet-18: graphs of a trace refer to themselves
        samples_per_message(split, classes=1)  # raises for a sample that fits no message
        half_open.pop_all()
    return Ready(
        config=config,
        credentials=credentials,
        names=names,
        keys=keys,
        device=device,
        files=files,
        source=source,
        held_out=held_out,
        segment=segment,
        split=split,
        start=start,
        has_checkpoint=has_checkpoint,
        hiding=hiding,
    )


@contextmanager
def opened(ready: Ready, stop: StopRequest, console: Console | None = None) -> Iterator[RobotRun]:
    """Open page, folder, outbox and link of a run, and put it together.

    console: where progress is shown; the terminal's for None. Raises ConfigError, and NameTaken.
    """
    config = ready.config
    boot = secrets.token_hex(8)
    with (
        closing(ready.source),
        page_server(config.page, config.robot) as page,
        closing(RunFolder(config.run_path, config.as_toml())) as folder,
        closing(_trackers(ready, folder)) as trackers,
        closing(open_outbox(config, folder.path, boot)) as outbox,
    ):
        keep_seed(folder.path, config.seed)
        ready.files.write(folder.path)
        advice = without_checkpoint(folder.checkpoint)
        saved = load_checkpoint(folder.checkpoint, LAYOUT, advice) if ready.has_checkpoint else None
        state = _introduction(ready, folder.path, outbox, boot, saved)
        link = _link(ready, state)
        with stop, closing(Uplink(link, config.robot, state, outbox, names=ready.names)) as uplink:
            page_model = PageModel(config.robot, uplink.commands) if page else None
            uplink.greet(GREETING_SECONDS)  # a trainer gets its half ready, too, while this one is measured
            trainer = EdgeTrainer(
                ready.segment,
                bits=config.network.bits,
                compute=_compute(config, ready.segment, ready.device, saved),
                peak_learning_rate=config.learning.learning_rate,
                seed=config.seed,
                hiding=ready.hiding,
            )
            robot = assemble(
                config,
                link=link,
                trainer=trainer,
                uplink=uplink,
                outbox=outbox,
                source=ready.source,
                folder=folder,
                stop=stop,
                held_out=ready.held_out,
                saved=saved,
                page_model=page_model,
                trackers=trackers,
                console=console,
            )
            if config.network.former_run and not saved:
                inherit(robot.state, outbox, config.network.former_run)
            if page and page_model:
                _show(page, page_model)
            yield robot


def _trackers(ready: Ready, folder: RunFolder) -> Trackers:
    config, hides_names = ready.config, bool(ready.names.fingerprint)
    return Trackers(config.track, folder.path, name=config.robot, settings=config.as_toml(), hides_names=hides_names)


def _link(ready: Ready, state: RobotState) -> Link:
    """Return the way to the broker; where there is none, one that never comes up."""
    config = ready.config
    if config.uplink.broker:
        line = connect(
            config.uplink.broker,
            config.robot,
            will=will(config.robot, state),
            credentials=ready.credentials,
            keys=ready.keys,
        )
        return named(line, ready.names)
    link = MemoryLink(MemoryBroker())
    link.connected, link.problem = False, "there is none: it learns alone"
    return link


def _introduction(ready: Ready, folder: Path, outbox: Outbox, boot: str, saved: RobotCheckpoint | None) -> RobotState:
    """Return what the robot says of itself. saved: the checkpoint that it goes on from."""
    segment, fleet, goes_on = ready.segment, ready.config.fleet, saved is not None
    weights = saved.trainer.learner.weights if saved else segment.state_dict()
    began = Beginning(ready.start, segment.rest_digest) if segment.stands_still else UNKNOWN
    identity = run_identity(folder, ready.config.network.weights, ready.names.fingerprint, began)
    if goes_on and outbox.is_new:
        identity = go_on_as_another(folder)
    return RobotState(
        boot=boot,
        run=identity.run,
        former=identity.former,
        edits=outbox.edits_taken,
        started=time.time(),
        online=True,
        split=ready.split,
        weights="checkpoint" if goes_on or outbox.position else ready.start,
        rehearse=ready.config.rehearsed_per_fresh,
        weights_digest=segment.rest_digest or (identity.began.digest if segment.stands_still else ""),
        still=segment.stands_still,
        rest_weights=identity.began.weights if segment.stands_still else "none",
        fleet=fleet,
        front=front_digest(weights, ready.split) if fleet and segment.stands_still else "",
        exit=segment.exit_at if fleet else "cut",
        share=ready.config.share if fleet else "yes",
    )


def _files_of(config: RobotConfig, *, goes_on: bool) -> tuple[SourceFiles, Numbering | None]:
    """Return the files of the source, and how its pictures are numbered. Raises ConfigError where they do not fit."""
    now = files_of(config)
    if goes_on and (before := read_files(config.run_path)):
        return before, go_on_with(before, now, config)
    if config.network.former_run and not goes_on and (former := read_files(config.network.former_run)):
        now = begin_behind(former, now)
    return now, Numbering(numbers=now.numbers, is_all=False) if config.source.source.startswith("folder:") else None


def _source_of(config: RobotConfig, numbering: Numbering | None, names: ClassNames) -> PacedSource:
    return open_source(
        config.source.source,
        config.source.options,
        image_size=config.network.image_size,
        phases=config.source.phase_classes,
        epochs=config.source.epochs,
        images=config.source.images,
        seed=config.open_seed,
        live=config.is_live,
        numbering=numbering,
        needs_labels=not config.is_live,
        check_name=names.check,
    )


def open_outbox(config: RobotConfig, folder: Path, boot: str) -> Outbox:
    """Open the outbox of a run. Raises ConfigError."""
    return Outbox(
        folder / "outbox.db",
        boot=boot,
        limit=int(config.uplink.outbox_mb * 1e6),
        when_full=config.when_outbox_full,
        durable=config.uplink.durable,
    )


def _show(server: PageServer, page_model: PageModel) -> None:
    from robot_edge.page.app import build

    server.start(lambda app: build(app, page_model, server))


def _compute(config: RobotConfig, segment: EdgeSegment, device: torch.device, saved: RobotCheckpoint | None) -> Compute:
    """Return how to compute: as before, or else the fastest way."""
    compute = unpack_compute(saved.compute, device) if saved else None
    if compute is None:
        log.info("measuring how this machine trains fastest")
        compute = fastest_compute(
            segment, image_size=config.network.image_size, batch=config.learning.batch, device=device
        )
        give_memory_back()
    log.info(
        "%s up to %s, %s values cross for each image, %s",
        config.network.backbone,
        config.network.cut,
        math.prod(segment.shape),
        compute,
    )
    return compute
