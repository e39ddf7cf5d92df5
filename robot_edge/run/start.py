"""How a robot starts: everything is opened, a former process's checkpoint is found, and the node runs."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import secrets
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from broker.errors import NothingDone
from broker.link.mqtt import MqttLink
from broker.security.tls import credentials_for
from broker.wire.activations import samples_per_message
from broker.wire.messages import RobotState
from hierarchy.device import Compute, choose_device, set_threads
from hierarchy.runtime.checkpoint import CHECKPOINT, Parts, load_checkpoint
from hierarchy.runtime.command_line import EXIT_INTERRUPTED, StopRequest
from hierarchy.runtime.page import page_server
from hierarchy.runtime.run_folder import RunFolder, former_settings
from robot_edge.learning.held_out import open_held_out
from robot_edge.learning.segment import EdgeSegment, build_edge
from robot_edge.learning.trainer import EdgeTrainer, fastest_compute
from robot_edge.page.board import Board
from robot_edge.run.config import RobotConfig
from robot_edge.run.identity import go_on_as_another, run_identity
from robot_edge.run.live import live_node
from robot_edge.run.node import RobotNode
from robot_edge.run.outcome import verdict
from robot_edge.run.resume import check_same_run, unpack_compute, without_checkpoint
from robot_edge.run.source_files import SourceFiles, begin_behind, files_of, go_on_with, read_files
from robot_edge.sources.frames import Numbering, PacedSource
from robot_edge.sources.opening import open_source
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.presence import will
from robot_edge.uplink.uplink import Uplink

if TYPE_CHECKING:
    from hierarchy.runtime.page.server import PageServer

# How long a broker and a trainer are looked for before this machine is measured.
GREETING_SECONDS = 1.0

log = logging.getLogger("robot-edge")


def run(config: RobotConfig) -> None:
    """Train on the source, test on the held-out frames, and write everything down; go on where a former process ended.

    Raises ConfigError for settings that cannot work, NameTaken, StorageError where not all could be saved, NothingDone
    where nothing was learned or tested, and SystemExit where Ctrl-C ended it.
    """
    former = former_settings(config.run_path)
    if former is not None:
        check_same_run(former, config)
    credentials = credentials_for(config.uplink.broker, config.uplink.credentials)
    set_threads(config.threads)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    has_checkpoint = (config.run_path / "checkpoint" / CHECKPOINT).exists()
    files, numbering = _files_of(config, goes_on=former is not None)
    source = _source_of(config, numbering)
    held_out = (
        partial(open_held_out, config.source, config.network.image_size, config.seed)
        if config.source.held_out
        else None
    )
    if held_out:
        held_out(()).close()  # what is wrong with it should be said before anything starts
    # A checkpoint replaces whatever weights the run once began with.
    segment, split, start = build_edge(
        dataclasses.replace(config.network, weights="none") if has_checkpoint else config.network
    )
    gc.collect()  # frees the cloud's half, 40 MB of a ResNet-18: graphs of a trace refer to themselves
    samples_per_message(split, classes=1)  # a sample that fits no message should be said before anything starts
    boot = secrets.token_hex(8)
    with (
        page_server(config.page, config.robot) as page,
        closing(RunFolder(config.run_path, config.as_toml())) as folder,
        closing(open_outbox(config, folder.path, boot)) as outbox,
    ):
        files.write(folder.path)
        saved = load_checkpoint(folder.checkpoint, without_checkpoint(folder.checkpoint)) if has_checkpoint else None
        identity = run_identity(folder.path, config.network.weights)
        if saved and outbox.is_new:
            identity = go_on_as_another(folder.path)
        state = RobotState(
            boot=boot,
            run=identity.run,
            former=identity.former,
            edits=outbox.edits_taken,
            started=time.time(),
            online=True,
            split=split,
            weights="checkpoint" if saved or outbox.position else start,
            rehearse=config.rehearsed_per_fresh,
        )
        with StopRequest() as stop:
            link = MqttLink(config.uplink.broker, config.robot, will=will(config.robot, state), credentials=credentials)
            uplink = Uplink(link, config.robot, state, outbox)
            board = Board(config.robot, uplink.commands) if page else None
            try:
                uplink.greet(GREETING_SECONDS)  # a trainer gets its half ready, too, while this one is measured
                trainer = EdgeTrainer(
                    segment,
                    bits=config.network.bits,
                    compute=_compute(config, segment, device, saved),
                    peak_learning_rate=config.learning.learning_rate,
                    seed=config.seed,
                )
                parts = (config, trainer, uplink, source, held_out, folder, stop, saved)
                node = live_node(link, *parts, board) if config.is_live else RobotNode(*parts, board=board)
                if config.network.former_run and not saved:
                    node.inherit(config.network.former_run)
                if page and board:
                    _show(page, board)
                summary = node.run()
            finally:
                uplink.close()
    nothing = verdict(config, summary)
    if stop.made:
        if nothing:
            log.warning("%s", nothing)
        raise SystemExit(EXIT_INTERRUPTED)
    if nothing:
        raise NothingDone(nothing)


def _files_of(config: RobotConfig, *, goes_on: bool) -> tuple[SourceFiles, Numbering | None]:
    """Return the files of the source, and how its pictures are numbered. Raises ConfigError where they do not fit."""
    now = files_of(config)
    if goes_on and (before := read_files(config.run_path)):
        return before, go_on_with(before, now, config)
    if config.network.former_run and not goes_on and (former := read_files(config.network.former_run)):
        now = begin_behind(former, now)
    return now, Numbering(numbers=now.numbers, is_all=False) if config.source.source.startswith("folder:") else None


def _source_of(config: RobotConfig, numbering: Numbering | None) -> PacedSource:
    return open_source(
        config.source.source,
        config.source.options,
        image_size=config.network.image_size,
        phases=config.source.phase_classes,
        epochs=config.source.epochs,
        images=config.source.images,
        seed=config.seed,
        live=config.is_live,
        numbering=numbering,
        needs_labels=not config.is_live,
    )


def open_outbox(config: RobotConfig, folder: Path, boot: str) -> Outbox:
    """Open the outbox of a run. Raises ConfigError."""
    return Outbox(
        folder / "outbox.db",
        boot=boot,
        limit=int(config.uplink.outbox_mb * 1e6),
        when_full=config.when_outbox_full,
        catch_up=config.catches_up,
        durable=config.uplink.durable,
    )


def _show(server: PageServer, board: Board) -> None:
    from robot_edge.page.app import build

    server.start(lambda app: build(app, board, server))


def _compute(
    config: RobotConfig, segment: EdgeSegment, device: torch.device, saved: tuple[Parts, dict[str, Any]] | None
) -> Compute:
    """Return how to compute: as before, or else the fastest way."""
    compute = unpack_compute(saved[1].get("compute"), device) if saved else None
    if compute is None:
        log.info("measuring how this machine trains fastest")
        compute = fastest_compute(
            segment, image_size=config.network.image_size, batch=config.learning.batch, device=device
        )
    log.info(
        "%s up to %s, %s values cross for each image, %s",
        config.network.backbone,
        config.network.cut,
        math.prod(segment.shape),
        compute,
    )
    return compute
