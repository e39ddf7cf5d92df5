"""`robot-edge evaluate`: what a run's segment is worth on a source of frames, alone and with the cloud to ask."""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from broker.errors import EXIT_INTERRUPTED, ConfigError, NoAnswer, NothingDone
from broker.link.connect import connect
from broker.link.named import named
from broker.program.machine import refused
from broker.security.credentials import payload_keys_for
from broker.security.names_key import load_names
from broker.security.tls import credentials_for
from broker.wire.messages import ASKS_PER_SECOND, Answer, Ask, RobotState, SplitSpec
from broker.wire.quantize import Quantized, pack_activations
from hierarchy.device import Compute, choose_device, set_threads
from hierarchy.edge import front_digest
from hierarchy.evaluation import RECENT
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.command_line import Notice, StopRequest
from hierarchy.runtime.progress import RunProgress
from hierarchy.runtime.run_folder import can_draw
from robot_edge.evaluation.evaluation_report import FrameResult, report, threshold_points
from robot_edge.evaluation.kept_exit import take_kept_exit
from robot_edge.evaluation.saved_predictor import saved_predictor
from robot_edge.evaluation.saved_run import SavedRun, load_run, saved_settings
from robot_edge.fleet.exits import FleetStatus
from robot_edge.inference.cascade import CloudLine
from robot_edge.inference.exit_prediction import ExitPrediction
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.framed import framing_for
from robot_edge.learning.held_out import HELD_OUT_SEED
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.run.identity import check_names_key, run_identity
from robot_edge.run.kept_look import framing_of
from robot_edge.run.report import LISTED_CLASSES, print_evaluation
from robot_edge.run.same_run import unpack_compute
from robot_edge.run.start import open_outbox
from robot_edge.sources.frames import FrameSource
from robot_edge.sources.opening import open_source
from robot_edge.sources.passwords import masked
from robot_edge.uplink.presence import will
from robot_edge.uplink.uplink import Uplink

# A trainer takes a copy of the network when it is first asked, which it may be after a step of some seconds.
FIRST_ANSWER_SECONDS = 30.0

log = logging.getLogger("robot-edge")

# Given what the exit says and when its frame came, returns the cloud's answer and its latency, or None for neither.
AskCloud = Callable[[ExitPrediction, float], tuple[Answer, float] | None]


def evaluate(config: EvaluateConfig) -> None:
    """Test a run on a source, print the figures, and write evaluation.json and threshold.png.

    Raises ConfigError, SourceError, NameTaken, NothingDone where nothing could be tested, and SystemExit where Ctrl-C
    ended it; what was seen by then is printed, and nothing is written.
    """
    run = settings_of_run(config)
    with closing(
        source_to_test(config, run)
    ) as source:  # what is wrong with it should be said before a network is built
        _evaluate(config, run, source)


def source_to_test(config: EvaluateConfig, run: RobotConfig) -> FrameSource:
    """Open the source of frames to test a run on, with labels of its own. Raises SourceError where it has none."""
    return open_source(
        config.source,
        config.options,
        image_size=run.network.image_size,
        images=config.images,
        seed=config.seed + HELD_OUT_SEED,
        needs_labels=True,
    )


def _evaluate(config: EvaluateConfig, run: RobotConfig, source: FrameSource) -> None:
    with StopRequest() as stop:
        named = name_frames(config, run, source, stop)
    if named.tested:
        _conclude(config, named, stopped=stop.made)
    nothing = _nothing_tested(config, named.tested, named.classes, source)
    if stop.made:
        if nothing:
            log.warning("%s", nothing)
        raise SystemExit(EXIT_INTERRUPTED)
    if nothing:
        raise NothingDone(nothing)


@dataclass(frozen=True, kw_only=True)
class NamedFrames:
    """What was said of each labelled frame, and what said it.

    classes: that the run knows, by itself or by its fleet's exit. fleet: what there is to say of that; None for none.
    """

    tested: list[FrameResult]
    predictor: Predictor
    classes: tuple[str, ...]
    fleet: FleetStatus | None


def name_frames(config: EvaluateConfig, run: RobotConfig, source: FrameSource, stop: StopRequest) -> NamedFrames:
    """Return what a run's exit, and its cloud, say of each labelled frame.

    run: its settings. Raises ConfigError and NameTaken, and NoAnswer where no cloud answers.
    """
    set_threads(config.threads)
    loaded = load_run(run, Path(config.checkpoint))
    segment, saved = loaded.segment, loaded.checkpoint
    device = choose_device(config.device)
    compute = unpack_compute(saved.compute, device) or Compute(device=device)
    compute.place(segment)
    predictor = saved_predictor(loaded, compute)
    fleet = take_kept_exit(Path(config.checkpoint), run.fleet, loaded, predictor, compute, config.use)
    known = tuple(dict.fromkeys([*segment.exit.head.classes, *(predictor.second.classes if predictor.second else ())]))
    framing = framing_for(run.network) if config.look else framing_of(Path(config.checkpoint), run.network)
    tested: list[FrameResult] = []
    if config.broker and saved.held and not saved.held.released:
        raise ConfigError(
            f"--broker {config.broker}: the run in {config.checkpoint} holds back what its front encodes, until an "
            f"attack on it finds little enough for --privacy {run.network.privacy}. To ask the cloud would send what "
            "the front makes of these frames: leave out --broker, or let the run go on first"
        )
    with _cloud(config, run, loaded, stop) as ask, RunProgress(source.length, "frames") as progress:
        while not stop.made and (frame := source.next()) is not None:
            taken_at = time.monotonic()
            says = predictor.predict(framing.input(frame.image))
            answered = ask(says, taken_at) if ask else None
            if frame.label is not None:
                tested.append(_result_of(frame.label, says, answered, taught=frame.label in known))
            progress.show(source.position, _so_far(tested, asked=ask is not None))
    return NamedFrames(tested=tested, predictor=predictor, classes=known, fleet=fleet)


def _nothing_tested(
    config: EvaluateConfig, tested: list[FrameResult], classes: Sequence[str], source: FrameSource
) -> str:
    """Say why there is no accuracy; empty where there is one."""
    frames = f"the {source.position:,} frames of {masked(config.source)}"
    if not source.position and source.skipped:
        return f"NOTHING WAS TESTED: none of the {source.skipped:,} frames of {masked(config.source)} could be read"
    if not tested:
        return f"NOTHING WAS TESTED: none of {frames} has a label"
    if any(one.taught for one in tested):
        return ""
    known = ", ".join(classes[:LISTED_CLASSES]) + (", ..." if len(classes) > LISTED_CLASSES else "")
    return f"NOTHING WAS TESTED: none of {frames} shows a class that the run learned ({known or 'it learned none'})"


def _so_far(tested: list[FrameResult], *, asked: bool) -> list[str]:
    """Return what there is to say before the end."""
    taught = [one for one in tested[-RECENT:] if one.taught]
    if not taught:
        return [f"no frame of a taught class yet, {len(tested):,} labelled"]
    exit_right = sum(one.exit_name == one.label for one in taught) / len(taught)
    answered = sum(one.cloud_name is not None for one in tested[-RECENT:])
    cloud = [f"the cloud answered {answered:,} of the last {len(tested[-RECENT:]):,}"] if asked else []
    return [f"exit {exit_right:.1%}", *cloud]


def _conclude(config: EvaluateConfig, named: NamedFrames, *, stopped: bool) -> None:
    tested, asked = named.tested, bool(config.broker)
    curve, threshold = threshold_points(tested, None if config.threshold == "auto" else float(config.threshold))
    figures = report(tested, named.predictor.calibration, curve, threshold, deadline=config.deadline, asked=asked)
    if named.fleet:
        figures |= {"fleet_exit": asdict(named.fleet)}
    if stopped:  # what a whole evaluation found is worth more than the beginning of this one
        print_evaluation(figures, None)
        return
    out = Path(config.out or config.checkpoint)
    try:
        out.mkdir(parents=True, exist_ok=True)
        metadata = {"source": masked(config.source), "checkpoint": config.checkpoint}
        write_json(out / "evaluation.json", {**metadata, **figures})
        if can_draw("threshold.png"):
            from hierarchy.runtime.curves import draw_thresholds

            draw_thresholds(curve, threshold, out / "threshold.png", asked=asked)
    except OSError as error:
        raise refused(f"--out {out}", error, path=out) from error
    print_evaluation(figures, out)


def settings_of_run(config: EvaluateConfig) -> RobotConfig:
    """Return the settings of the run, with what this evaluation has others of. Raises ConfigError."""
    return saved_settings(
        Path(config.checkpoint),
        robot=config.robot,
        broker=config.broker,
        credentials=config.credentials,
        names_key=config.names_key,
        look=config.look,
    )


def _result_of(label: str, says: ExitPrediction, answered: tuple[Answer, float] | None, *, taught: bool) -> FrameResult:
    answer, seconds = answered or (None, None)
    return FrameResult(
        label=label,
        taught=taught,
        exit_name=says.name,
        exit_confidence=says.confidence,
        exit_logits=says.logits,
        unknown=says.unknown,
        novelty=says.novelty,
        exit_seconds=says.seconds,
        cloud_name=answer.classes[0] if answer else None,
        cloud_confidence=answer.probabilities[0] if answer else None,
        cloud_seconds=seconds,
    )


@contextmanager
def _cloud(config: EvaluateConfig, run: RobotConfig, loaded: SavedRun, stop: StopRequest) -> Iterator[AskCloud | None]:
    """Connect as the robot, where there is a broker, and return what asks the cloud. Raises ConfigError, NameTaken."""
    if not config.broker:
        yield None
        return
    credentials = credentials_for(config.broker, config.credentials)
    names = load_names(run.uplink.names_key)
    check_names_key(Path(config.checkpoint), names.fingerprint, "--checkpoint")
    # What a run has sealed goes to no broker in the clear because somebody left out a flag.
    keys = payload_keys_for(config.payload_key, credentials, robot=run.robot)
    if keys is None:
        keys = payload_keys_for(run.uplink.payload_key, credentials, robot=run.robot)
    identity = run_identity(Path(config.checkpoint), "none")
    state = RobotState(
        boot=secrets.token_hex(8),
        run=identity.run,
        former=identity.former,
        edits=loaded.checkpoint.edits,
        started=time.time(),
        online=True,
        split=loaded.split,
        weights="checkpoint",  # so the trainer knows that its network for this run is meant
        rehearse=run.rehearsed_per_fresh,
        **_of_fleet(run, loaded),
    )
    with tempfile.TemporaryDirectory() as folder, closing(open_outbox(run, Path(folder), state.boot)) as outbox:
        broker = connect(config.broker, run.robot, will=will(run.robot, state), credentials=credentials, keys=keys)
        link = named(broker, names)
        line = CloudLine(link, run.robot)
        with closing(Uplink(link, run.robot, state, outbox, names=names)) as uplink:
            yield _Asker(uplink, line, loaded.split, state.boot, config, stop)


def _of_fleet(run: RobotConfig, loaded: SavedRun) -> dict[str, Any]:
    """Return what tells the trainer whose half answers, where the run is of a fleet."""
    segment = loaded.segment
    if not (run.fleet and segment.stands_still):
        return {}
    front = front_digest(segment.state_dict(), loaded.split)
    return {"fleet": run.fleet, "still": True, "front": front, "exit": segment.exit_at, "share": run.share}


@dataclass(eq=False)
class _Asker:
    """Asks about one frame at a time. Each answer is waited for until its deadline."""

    uplink: Uplink
    line: CloudLine
    split: SplitSpec
    boot: str
    config: EvaluateConfig
    stop: StopRequest
    _number: int = 0
    _next_at: float = 0.0
    _answered: bool = False
    _notice: Notice = field(default_factory=lambda: Notice(log))

    def __call__(self, says: ExitPrediction, taken_at: float) -> tuple[Answer, float] | None:
        spent = time.monotonic() - taken_at
        if not self._answered:
            self._wake(says.quantized)
        self._wait_for_trainer()
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        asked_at = time.monotonic()
        self._next_at = asked_at + 1 / ASKS_PER_SECOND
        answer = self._ask(says.quantized, self.config.deadline - spent)
        # What was waited for before the ask is our pace and no latency.
        return (answer, spent + time.monotonic() - asked_at) if answer else None

    def _wait_for_trainer(self) -> None:
        self.uplink.pump()
        while (missing := self.uplink.waits_for) and not self.stop.made:
            self._notice.say(f"waiting for {missing}")
            self.uplink.pump(timeout=0.2)
        self._notice.say("")

    def _wake(self, quantized: Quantized) -> None:
        """Ask until the first answer comes. Raises NoAnswer where none does."""
        self._wait_for_trainer()
        deadline = time.monotonic() + FIRST_ANSWER_SECONDS
        self._notice.say(f"waiting up to {FIRST_ANSWER_SECONDS:.0f} s for the trainer's first answer")
        while not self._answered and not self.stop.made:
            self.uplink.pump()
            self._answered = self._ask(quantized, 1.0) is not None
            if not self._answered and time.monotonic() > deadline:
                raise NoAnswer(self._what_is_known())

    def _what_is_known(self) -> str:
        """Say what there is to say of a trainer that answers nothing: what was seen, and no guesses."""
        uplink, asked = self.uplink, f"none of {self._number} asks in {FIRST_ANSWER_SECONDS:.0f} s was answered"
        if uplink.waits_for:
            return f"{asked}; what is missing by now: {uplink.waits_for}"
        heard = uplink.presence.trainer_heard
        alive = f"the trainer is online (its last sign of life came {heard:.0f} s ago)" if heard is not None else ""
        if uplink.quarantine:
            return f"{alive}, but {asked}: it takes nothing from this robot ({uplink.quarantine})"
        told = uplink.cloud_metrics is not None
        nothing_said = f"it has said nothing of the run in {self.config.checkpoint}, so it may have no network of it"
        network = "it has a network for this run" if told else nothing_said
        return f"{alive}, but {asked}. {network.capitalize()}. Its own log says what its answering thread does"

    def _ask(self, quantized: Quantized, deadline: float) -> Answer | None:
        until = time.monotonic() + deadline
        ask = Ask(
            boot=self.boot,
            number=self._number,
            split=self.split.fingerprint,
            deadline=max(0.0, deadline),
            activations=pack_activations(quantized),
        )
        self._number += 1
        self.line.ask(ask)
        while (left := until - time.monotonic()) > 0 and not self.stop.made:
            for answer in self.line.answers(min(left, 0.2)):
                if (answer.boot, answer.number) == (ask.boot, ask.number) and time.monotonic() <= until:
                    return answer
        return None
