"""`robot-edge`: trains the front of the network on a robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.extras import SubcommandApp

from broker.errors import EXIT_SETTING, ConfigError, MalformedMessage
from broker.program.completion import Shell, completion_script
from broker.program.paths import typed_path
from broker.program.plain_text import say
from broker.program.share import FOLDERS, copy_shared, shared
from broker.wire.messages import Action
from broker.wire.names import KeyedNames
from hierarchy.runtime.command_line import run_program
from hierarchy.runtime.help import CommandHelp, run_command
from robot_edge.doctor import DoctorConfig, examine
from robot_edge.export.config import ExportConfig
from robot_edge.photos.config import PhotosConfig
from robot_edge.planning.config import PlanConfig
from robot_edge.privacy.check import check_privacy
from robot_edge.privacy.config import PrivacyConfig
from robot_edge.recording.record import RecordConfig
from robot_edge.recording.record import record as record_source_of
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.run.given_paths import check_evaluation, check_former_run, check_run, with_parts
from robot_edge.sources.settings import SourceOptions
from robot_edge.sources.splits import part_to_test_on

app = SubcommandApp()

AnySettings = TypeVar("AnySettings")
# A setting's flag does not name the group that it is in.
Settings = Annotated[AnySettings, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]


@app.command(name="run")
def run(config: Settings[RobotConfig]) -> None:
    """Train on a source of frames, and send the activations at the cut to a cloud trainer.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/robot.toml); flags win over it. `robot-edge examples` has the files that help names.
    """
    config = with_parts(config)
    check_run(config)
    from robot_edge.run.start import run  # torch takes seconds to import: --help should not

    run(config)


@app.command(name="plan")
def plan(config: Settings[PlanConfig]) -> None:
    """Measure this robot, the link and the trainer, and find where to cut, at how many bits, to train fastest.

    A trainer has to run: it times its half. Writes the settings that it finds as a TOML file for `robot-edge run`.
    Reads no --cut, --bits or --bottleneck.
    """
    config = replace(config, run=with_parts(config.run))
    check_run(config.run)
    from robot_edge.planning.planner import plan

    plan(config)


@app.command(name="evaluate")
def evaluate(config: Settings[EvaluateConfig]) -> None:
    """Test a run's segment on a source of frames: accuracy, calibration, latency; with --broker the cloud's half too.

    Nothing is learned, neither here nor in the cloud.
    """
    config = replace(config, source=part_to_test_on(config.source))
    check_evaluation(config)
    from robot_edge.evaluation.evaluate import evaluate

    evaluate(config)


@app.command(name="export")
def export(config: Settings[ExportConfig]) -> None:
    """Write a run's network as a file that ONNX Runtime runs, or PyTorch without Python, and compare it with the run.

    Preprocessing, class names, temperature and the test for the unknown are inside. It is written where its answers are
    the run's, but for one in a thousand; else the exit status is 1. `robot-edge export runs/r1`.
    """
    config.check_paths()
    from robot_edge.export.export import export

    export(config)


@app.command(name="fronts")
def fronts(
    what: Annotated[Literal["publish", "take", "list", "rollback"], tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
    front: Annotated[Path | None, tyro.conf.Positional] = None,
    most_accuracy_lost: float = 1.0,
) -> None:
    """Keep versions of what a run learned, for its next run and for other robots, and go back to a former one.

    publish RUN: what the run has learned becomes the next version. take RUN FRONT: another robot's does, from a copy of
    its fronts/current. Both are judged by the frames that RUN held out. rollback RUN: the version before counts again.
    A robot takes a front when a run begins, and never in one: --weights RUN/fronts/current --run-dir NEW.

    Args:
        what: publish, take, list or rollback.
        run: Run folder of this robot.
        front: For take: the folder of a version.
        most_accuracy_lost: Percentage points by which a front may be worse than the one in use.

    """
    folder, other = typed_path(run), typed_path(front) if front else None
    if (what == "take") != (other is not None):
        raise ConfigError("robot-edge fronts take RUN FRONT names two folders; the others name one")
    for path in (folder, *([other] if other else [])):
        check_former_run(path, f"robot-edge fronts {what}", "the --run-dir of a robot, or a version of its front")
    from robot_edge.fronts.fronts import let_in, print_versions
    from robot_edge.fronts.registry import Registry

    if what in {"publish", "take"}:
        let_in(folder, other, most_accuracy_lost=most_accuracy_lost)
    elif what == "rollback":
        Registry(folder).roll_back()
    print_versions(folder, Registry(folder).versions())


@app.command(name="privacy")
def privacy(config: Settings[PrivacyConfig]) -> None:
    """Attack what a run sends, as the cloud's operator could, and say how much of its frames an attacker sees.

    Attackers paint pictures from activations: by linear algebra, with a network, by a search through the front; with
    frames of the robot's kind, and with others. The strongest one counts. The exit status says whether your line holds:
    0 where it does, 5 where it does not. Nothing is sent. What is written shows frames: it stays in the run's folder.
    """
    check_privacy(config)
    from robot_edge.privacy.audit import privacy

    privacy(config)


@app.command(name="teach-photos")
def teach_photos(config: Settings[PhotosConfig]) -> None:
    """Teach a robot from folders of photos, as if a camera showed them: without a camera, and in seconds a class.

    Each class is a lesson. Photos that are kept back are named by exit and cloud at the end. Without any setting of the
    network, the robot begins with the pretrained one of a camera. The cloud is asked where broker and trainer run.
    """
    from robot_edge.photos.teach_photos import teach_photos

    teach_photos(config)


@app.command(name="record")
def record(config: Settings[RecordConfig]) -> None:
    """Record frames and labels of a source into a bag, which --source bag:FILE replays to the same training.

    What a camera shows is taught while it is recorded: type a name and Enter.
    """
    record_source_of(config)


@app.command(name="cameras")
def cameras() -> None:
    """List the cameras that this machine has, as --source takes them."""
    from robot_edge.sources.camera import list_cameras

    for path, about in list_cameras():
        say(f"camera:{path}  {about}")
    if not list_cameras():
        print("no cameras here (no /dev/video*)")


@app.command(name="doctor")
def doctor(config: Settings[DoctorConfig]) -> None:
    """Say what is here of what a robot needs, a line each, and what mends the rest.

    Python, PyTorch, device, codecs, cameras, disk, broker, trainer, clock and extras. Exit status 1 where something
    needed is not ok.
    """
    sys.exit(examine(config))


@app.command(name="sources")
def sources(path: Annotated[str, tyro.conf.Positional], options: Settings[SourceOptions]) -> None:
    """Say what is in a recording: cameras, labels, lengths, sizes, and a command line that would use it.

    PATH is a file or a folder, or a source as --source takes it.
    """
    from robot_edge.sources.about import command_line, look_at, sources_at, told

    found = [look_at(source, options) for source in sources_at(path)]
    for about in found:
        for line in told(about):
            say(line)
    say(f"to use it:\n  {command_line(found)}")


@app.command(name="completion")
def completion(shell: Annotated[Shell, tyro.conf.Positional]) -> None:
    """Print what a shell needs to complete commands and flags: save it where the shell looks (docs/how-to/install.md).

    Args:
        shell: bash, zsh or fish.

    """
    print(completion_script(app.cli, "robot-edge", shell))


@app.command(name="examples")
def examples(to: Annotated[Path | None, tyro.conf.arg(help="Folder to copy them into.")] = None) -> None:
    """Say where the pages and examples are that help and errors name, such as docs/security.md or launch/robot.toml."""
    if to is not None:
        copy_shared(typed_path(to))
    for name in FOLDERS:
        print((to or shared()) / name)


@app.command(name="names-key")
def names_key(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="The key's file.")],
    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="Names, or tokens; - for a text on standard input.")
    ] = (),
) -> None:
    """Make a key of class names, for --names-key: broker and cloud then see tokens in place of names.

    All robots of a fleet have the same file, and so has who teaches them. The trainer never has it. With NAMES a key
    that there is makes a token of each name, and reads each token, as the trainer's page and files show it.
    """
    from broker.security.names_key import load_names_key, make_names_key

    if not names:
        make_names_key(typed_path(file))
        say(f"{file} is a new key: copy it to each robot and to who teaches them, never to the trainer")
        return
    key = load_names_key(file)
    for name in names:
        if name == "-":
            for line in sys.stdin:
                say(key.reveal_text(line.rstrip("\n")))
        else:
            say(key.name_of(name) or _token(key, name))


def _token(key: KeyedNames, name: str) -> str:
    try:
        return key.token(name)
    except MalformedMessage as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Robot:
    """Which robot, and how to reach it."""

    robot: str = "robot"
    """The robot's name, as in `robot-edge run --robot`."""
    broker: str = "mqtt://127.0.0.1:1883"
    """The broker that the robot is connected to, as for `robot-edge run`."""
    credentials: str = ""
    """TOML file with what the broker asks for, as in `robot-edge run`: the robot's own will do."""
    names_key: str = ""
    """The key of class names that the robot was started with."""
    payload_key: str = ""
    """File with the keys that payloads are sealed with: the robot's own, where it has one."""


To = Annotated[Robot, tyro.conf.arg(name="")]
Name = Annotated[str, tyro.conf.Positional]


@app.command(name="teach")
def teach(name: Name, to: To, seconds: Annotated[float, tyro.conf.arg(help="How long.")] = 10.0) -> None:
    """Teach a running robot: what its camera shows during the next seconds is called NAME.

    Turn the thing, move it nearer and further; frames that look like others are left out.
    """
    _command("teach", to, name=name, seconds=seconds)


@app.command(name="stop-teaching")
def stop_teaching(to: To) -> None:
    """End the lesson that a running robot is being given."""
    _command("stop", to)


@app.command(name="undo")
def undo(to: To) -> None:
    """Take back the last lesson that a running robot was given, on the robot and in the cloud."""
    _command("undo", to)


@app.command(name="rename")
def rename(name: Name, new_name: Name, to: To) -> None:
    """Give a class of a running robot another name."""
    _command("rename", to, name=name, new_name=new_name)


@app.command(name="merge")
def merge(name: Name, into: Name, to: To) -> None:
    """Let two classes of a running robot be one: all that was NAME is INTO from now on."""
    _command("merge", to, name=name, new_name=into)


@app.command(name="forget")
def forget(
    name: Name,
    to: To,
    everywhere: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="For all robots of its fleet.")
    ] = False,
) -> None:
    """Let a running robot, and its cloud, forget a class: the network, rehearsal memories, and what is stored of it.

    In a fleet that is about what this robot taught. With --everywhere it is about all that was taught of the class so
    far; robots that were taught it themselves are told, and know it until it is forgotten there.
    """
    _command("forget-everywhere" if everywhere else "forget", to, name=name)


@app.command(name="look")
def look(region: Annotated[str, tyro.conf.Positional], to: To) -> None:
    """Let a live robot look at a part of each frame: LEFT,TOP,WIDTH,HEIGHT in pixels or percent, or whole.

    As in 160,48,320,384 or 25%,10%,50%,80%. The run keeps it across a restart. What was taught before stays as it was
    seen.
    """
    _command("look", to, region=region)


@app.command(name="use")
def use(exit_: Annotated[Literal["own", "fleet"], tyro.conf.Positional, tyro.conf.arg(name="exit")], to: To) -> None:
    """Let a robot's own exit answer alone (own), or the exit of its fleet beside it (fleet), until told otherwise.

    What the robot learns, and what it sends, is the same either way. The run keeps it across a restart.
    """
    _command("use-own" if exit_ == "own" else "use-fleet", to)


@app.command(name="pause")
def pause(to: To) -> None:
    """Pause the replay of a running robot."""
    _command("pause", to)


@app.command(name="resume")
def resume(to: To) -> None:
    """Let a paused replay go on."""
    _command("resume", to)


@app.command(name="step")
def step(to: To) -> None:
    """Show a paused replay's next frame."""
    _command("step", to)


def _command(
    action: Action, to: Robot, *, name: str = "", new_name: str = "", seconds: float = 0.0, region: str = ""
) -> None:
    from robot_edge.teaching.remote import give_command

    done = give_command(action, **vars(to), name=name, to=new_name, seconds=seconds, region=region)
    if not done:
        raise SystemExit(EXIT_SETTING)


HELPS = {
    "run": CommandHelp(
        command=run,
        settings=RobotConfig,
        first="source broker robot run_dir backbone cut bits bottleneck epochs page",
        examples="""
            robot-edge run --source folder:pictures --epochs 3 --robot r1
            robot-edge run --source camera:0 --page 8080 --bottleneck 16
            robot-edge run --config robot.toml --broker mqtts://host:8883
        """,
    ),
    "plan": CommandHelp(
        command=plan,
        settings=PlanConfig,
        first="source broker robot backbone image_size out cuts most_memory_mb mbit verify",
        examples="""
            robot-edge plan --source folder:pictures --out plan.toml
            robot-edge plan --source sim: --backbone mobilenet_v3_small --mbit 2
        """,
    ),
    "evaluate": CommandHelp(
        command=evaluate,
        settings=EvaluateConfig,
        first="source checkpoint broker robot credentials threshold deadline images labels out",
        examples="""
            robot-edge evaluate --checkpoint runs/r1 --source folder:test
            robot-edge evaluate --checkpoint runs/r1 --source sim: --broker mqtt://h
        """,
    ),
    "privacy": CommandHelp(
        command=privacy,
        settings=PrivacyConfig,
        first="source checkpoint attacker_source payloads attribute most_ssim most_found quick frames out",
        examples="""
            robot-edge privacy --checkpoint runs/r1 --source folder:pictures --quick
            robot-edge privacy --checkpoint runs/r1 --source folder:pictures \\
                --most-ssim 0.25 --most-found 0.05 --attribute pictures-by-room
            robot-edge privacy --checkpoint runs/r1 --source folder:pictures \\
                --payloads runs/cloud/store.db
        """,
    ),
    "teach-photos": CommandHelp(
        command=teach_photos,
        settings=PhotosConfig,
        first="photos held_out each per_second robot broker run_dir backbone weights page",
        examples="""
            robot-edge teach-photos --photos pictures
            robot-edge teach-photos --photos pictures --each 10 --page 8080
        """,
    ),
    "record": CommandHelp(
        command=record,
        settings=RecordConfig,
        first="source out seconds images raw live rate width height fps",
        examples="""
            robot-edge record --source camera:0 --out session.mcap --seconds 60
            robot-edge run --source bag:session.mcap
        """,
    ),
}


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        run_command(app, "robot-edge", __doc__, HELPS, arguments)

    run_program("robot-edge", cli)
