"""`robot-edge privacy`: attacks what a run sends, as the cloud's operator could, and judges it against a line."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broker.errors import EXIT_INTERRUPTED, TooMuchLeaks
from broker.program.machine import refused
from hierarchy.attack.attributes import AttributeLeak, attribute_leak
from hierarchy.attack.membership import MembershipLeak, losses, membership_leak
from hierarchy.attack.pairs import Pairs, Scale, Values
from hierarchy.attack.recognition import GALLERY, matched
from hierarchy.device import set_threads
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.console import PlainConsole
from hierarchy.runtime.progress import RunProgress
from robot_edge.evaluation.saved_run import SavedRun, load_run, saved_settings
from robot_edge.learning.frame_codec import FrameCodec
from robot_edge.learning.frame_memory import frames_in
from robot_edge.learning.framed import framing_for
from robot_edge.privacy.attacks import SHOWN, Attack, Stranger, attacks, steps_in_all
from robot_edge.privacy.config import LEAST_ATTACKED, LEAST_OWN, PrivacyConfig
from robot_edge.privacy.frames import Seen, divided, read_frames
from robot_edge.privacy.payloads import sent_frames
from robot_edge.privacy.report import Findings, Line, beyond, report
from robot_edge.privacy.sheet import draw_sheet
from robot_edge.privacy.table import print_audit
from robot_edge.privacy.wire import Wire
from robot_edge.run.config import RobotConfig
from robot_edge.run.kept_look import framing_of
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.passwords import masked

# Frames of either kind without which membership says nothing, and at most.
LEAST_MEMBERS, MOST_MEMBERS = 50, 1000
# The attribute's pictures: at most, and the share of them that is the attacker's own.
MOST_OF_ATTRIBUTE, OWN_SHARE = 4_000, 0.7

REPORT, SHEET = "privacy.json", "privacy.png"

log = logging.getLogger("robot-edge")


def privacy(config: PrivacyConfig) -> None:
    """Audit a run, print what was found, and write privacy.json and privacy.png.

    Raises TooMuchLeaks where the line does not hold, ConfigError, SourceError, Diverged, and SystemExit where Ctrl-C
    ended it; nothing is written then.
    """
    folder = Path(config.checkpoint)
    run = saved_settings(folder, look=config.look)
    set_threads(config.threads)
    saved = load_run(run, folder)
    wire = Wire.of(saved, batch=run.learning.batch)
    framing = framing_for(run.network) if config.look else framing_of(folder, run.network)
    with StopRequest() as stop:
        audit = _Audit(config, run, saved, wire, framing.input, stop)
        found = audit.findings()
    if found is None:
        log.info("stopped before its end: nothing is written")
        raise SystemExit(EXIT_INTERRUPTED)
    findings, own, attacked = found
    line = Line(ssim=config.most_ssim, found=config.most_found, attribute=config.most_attribute)
    print_audit(PlainConsole(), line, findings, gallery=min(GALLERY, len(own) + len(attacked)))
    _write(config, line, findings, own, attacked, saved)
    if said := beyond(line, findings):
        raise TooMuchLeaks(f"more leaks than the line allows: {'; '.join(said)}")


class _Stopped(Exception):
    """Ctrl-C ended the audit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Setting:
    """Who attacks what. again, encoded: of the same frames, what crossed, and what the attacker encodes them to."""

    own: Pairs
    attacked: Pairs
    stranger: Stranger | None
    again: Values
    encoded: Values


class _Audit:
    """One audit: it reads frames, attacks, and gathers what was found."""

    def __init__(
        self,
        config: PrivacyConfig,
        run: RobotConfig,
        saved: SavedRun,
        wire: Wire,
        see: Callable[[Pixels], Pixels],
        stop: StopRequest,
    ) -> None:
        self.config, self.run, self.saved, self.wire, self.see, self.stop = config, run, saved, wire, see, stop

    def findings(self) -> tuple[Findings, Pairs, Pairs] | None:
        """Return what was found, the attacker's own pairs, and those attacked; None where Ctrl-C ended it."""
        try:
            setting = self._sent() if self.config.payloads else self._encoded()
            attribute = self._attribute() if self.config.attribute else None
            membership = self._membership()
            results = self._attack(setting)
        except _Stopped:
            return None
        same = matched(*_flat(setting.again, setting.encoded))
        findings = Findings(attacks=results, matched=same, attribute=attribute, membership=membership)
        return findings, setting.own, setting.attacked

    def _encoded(self) -> _Setting:
        """Return frames of the source, the most of them the attacker's own."""
        most, seed = self.config.frames or self.config.effort.frames, self.config.seed
        seen = self._read(self.config.source, "--source", most=most, least=LEAST_OWN + LEAST_ATTACKED)
        own, attacked = divided(seen, self.config.effort.attacked, seed)
        return _Setting(
            own=own.pairs,
            attacked=attacked.pairs,
            stranger=self._stranger_of_source() or _stranger_of_classes(own, attacked, seed),
            again=seen.again,
            encoded=seen.pairs.values[: max(GALLERY, len(seen.again))],
        )

    def _sent(self) -> _Setting:
        """Return what the robot sent, and frames of the source, all of them the attacker's own."""
        effort, store = self.config.effort, Path(self.config.payloads)
        attacked, now = sent_frames(store, self.run.robot, self.saved, self.wire, side=effort.side)
        most = self.config.frames or effort.frames
        own = self._read(self.config.source, "--source", most=most, least=LEAST_OWN).pairs
        stranger = self._stranger_of_source()
        return _Setting(own=own, attacked=attacked, stranger=stranger, again=attacked.values, encoded=now)

    def _attack(self, setting: _Setting) -> list[Attack]:
        effort = self.config.effort
        results: list[Attack] = []
        total = steps_in_all(effort, has_stranger=setting.stranger is not None)
        with RunProgress(total, "steps of attack") as progress:

            def on_step(attacker: str, steps: int) -> bool:
                best = max((one.leak.ssim for one in results), default=0.0)
                progress.show(steps, [attacker, f"SSIM {best:.2f} so far"])
                return self.stop.made

            results.extend(  # one by one, so that the line has the latest
                attacks(
                    setting.own,
                    setting.attacked,
                    front=self.wire.front,
                    image_size=self.run.network.image_size,
                    effort=effort,
                    stranger=setting.stranger,
                    seed=self.config.seed,
                    on_step=on_step,
                )
            )
        self._end_where_stopped()
        return results

    def _end_where_stopped(self) -> None:
        if self.stop.made:
            raise _Stopped

    def _read(self, source: str, flag: str, *, most: int, least: int, seed: int = 0) -> Seen:
        """Return frames of a source. Raises SourceError."""
        opened = open_source(
            source,
            self.config.options,
            image_size=self.run.network.image_size,
            images=most,
            seed=self.config.seed + seed,
        )
        with closing(opened):
            name = f"{flag} {masked(source)}"
            side = self.config.effort.side
            seen = read_frames(
                opened, self.wire, self.see, most=most, side=side, name=name, least=least, stop=self.stop
            )
        self._end_where_stopped()
        return seen

    def _stranger_of_source(self) -> Stranger | None:
        if not self.config.attacker_source:
            return None
        most = self.config.effort.frames - self.config.effort.attacked
        seen = self._read(self.config.attacker_source, "--attacker-source", most=most, least=LEAST_OWN)
        return Stranger(own=seen.pairs, knows="frames of --attacker-source", judged=None)

    def _attribute(self) -> AttributeLeak:
        """Return how well the attribute is named. Raises SourceError where it has too few pictures."""
        seen = self._read(
            f"folder:{self.config.attribute}", "--attribute", most=MOST_OF_ATTRIBUTE, least=2 * LEAST_ATTACKED
        )
        cut = round(OWN_SHARE * len(seen))  # a folder comes shuffled
        says = [str(one) for one in seen.labels]
        return attribute_leak(
            seen.pairs.values[:cut],
            says[:cut],
            seen.pairs.values[cut:],
            says[cut:],
            own_classes=seen.said[:cut],
            attacked_classes=seen.said[cut:],
            seed=self.config.seed,
        )

    def _membership(self) -> MembershipLeak | None:
        """Return whether the exit tells frames that it learned from; None where the run kept too few frames."""
        learned = [(one.name, one.image) for one in frames_in(self.saved.checkpoint.rehearsal)]
        # Those that were learned from were kept as JPEG: the others have to be seen alike.
        codec = FrameCodec(self.run.network.image_size)
        others = [(one.name, codec.decode(*codec.encode(one.image))) for one in self.saved.held_out]
        known = set(self.wire.classes)
        learned, others = ([one for one in some if one[0] in known] for some in (learned, others))
        if min(len(learned), len(others)) < LEAST_MEMBERS:
            log.info("membership is not measured: the run kept %d frames, and set %d apart", len(learned), len(others))
            return None
        rng = random.Random(self.config.seed)
        chosen = [rng.sample(some, min(len(some), MOST_MEMBERS)) for some in (learned, others)]
        return membership_leak(*(self._losses(some) for some in chosen))

    def _losses(self, frames: Sequence[tuple[str, Pixels]]) -> Any:
        batch, classes = self.wire.batch, self.wire.classes
        parts = [
            np.stack([image for _, image in frames[start : start + batch]]) for start in range(0, len(frames), batch)
        ]
        logits = np.concatenate([self.wire.crossed(part)[1] for part in parts])
        return losses(logits, np.array([classes.index(name) for name, _ in frames]))


def _stranger_of_classes(own: Seen, attacked: Seen, seed: int) -> Stranger | None:
    """Return an attacker who has frames of half of the classes, judged by the others; None where there are too few."""
    classes = sorted({one for one in own.labels if one is not None})
    his = set(random.Random(seed).sample(classes, len(classes) // 2))
    kept = np.array([place for place, one in enumerate(own.labels) if one in his], np.int64)
    judged = np.array(
        [place for place, one in enumerate(attacked.labels) if one is not None and one not in his], np.int64
    )
    if len(kept) < LEAST_OWN // 2 or len(judged) < LEAST_ATTACKED // 2:
        return None
    return Stranger(own=own.pairs[kept], knows="frames of other classes", judged=judged)


def _flat(crossed: Values, encoded: Values) -> tuple[torch.Tensor, torch.Tensor]:
    scale = Scale.of(encoded)
    first, second = (torch.from_numpy(scale.applied(one).reshape(len(one), -1)) for one in (crossed, encoded))
    return first, second


def _write(config: PrivacyConfig, line: Line, findings: Findings, own: Pairs, attacked: Pairs, saved: SavedRun) -> None:
    out = Path(config.out or config.checkpoint)
    split = saved.split
    figures = {
        "source": masked(config.source),
        "checkpoint": config.checkpoint,
        "payloads": config.payloads or None,
        "attacker_source": masked(config.attacker_source) or None,
        "quick": config.quick,
        "seed": config.seed,
        **report(line, findings),
        "own_frames": len(own),
        "attacked_frames": len(attacked),
        "picture_side": attacked.pictures.shape[1],
        "backbone": split.backbone,
        "cut": split.cut,
        "shape": list(split.shape),
        "bits": split.bits,
        "image_size": split.image_size,
        "steps": saved.checkpoint.trainer.learner.steps,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / REPORT, figures)
        draw_sheet(attacked.pictures[:SHOWN], findings.attacks, out / SHEET)
    except OSError as error:
        raise refused(f"--out {out}", error, path=out) from error
    log.info(
        "%s has the figures, %s the frames beside what attackers see: that one stays here", out / REPORT, out / SHEET
    )
