"""`python -m tests.page_scene KIND`: a page of a board that a test changes by a line on stdin; prints its URL.

In a process of its own, as NiceGUI has one app in each.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# What would run as a script, or be taken for markup or a template, wherever a name is no text.
NAMES = ("<img src=x onerror=window.hit=1>", "{b}{@[2]}", "</script><script>window.hit=1</script>", "$x^$", "a\" b='c'")

Change = Callable[[str], None]


class Scene(NamedTuple):
    """An open page."""

    url: str
    pid: int
    tell: Change


@contextmanager
def scene(kind: str) -> Iterator[Scene]:
    """Serve a page, and end it."""
    command = [sys.executable, "-m", "tests.page_scene", kind]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        pipe = process.stdin

        def tell(line: str) -> None:
            pipe.write(f"{line}\n")
            pipe.flush()

        try:
            yield Scene(process.stdout.readline().strip(), process.pid, tell)
        finally:
            process.kill()


def main() -> None:
    from hierarchy.runtime.page.options import PageOptions
    from hierarchy.runtime.page.server import PageServer

    scenes = {"robot": robot, "trainer": trainer, "cluster": cluster, "bare": bare}
    with closing(PageServer(PageOptions(page=0), title="r1")) as server:
        change = scenes[sys.argv[1]](server)
        print(server.urls[0], flush=True)
        for line in sys.stdin:
            change(line.strip())


def robot(server: object) -> Change:
    """Serve a robot's page. `stale` takes its camera away, `seen` brings it back; `obey` looks where it was told to,
    and `holds TEXT` says TEXT of frames that are held back. `ask` asks for the names of three frames and doubts two
    taught ones; `decide` does what was chosen among pictures.
    """
    from dataclasses import replace

    import numpy as np

    from broker.link.mailbox import Mailbox
    from hierarchy.runtime.page.server import PageServer
    from robot_edge.inference.cascade import Decision, nothing_seen
    from robot_edge.inference.seeing_thread import View
    from robot_edge.learning.framing import Framing, parse_region
    from robot_edge.page.app import build
    from robot_edge.page.page_model import ClassRow, DoubtRow, PageModel, PageState, Thumbnail
    from robot_edge.sources.frames import Frame
    from robot_edge.teaching.choices import Choices
    from robot_edge.teaching.lessons import Teaching
    from robot_edge.teaching.questions import LOOK_SECONDS, Questions

    assert isinstance(server, PageServer)
    frame = Frame(image=np.zeros((48, 64, 3), np.uint8), label=None, scene=0, time=0.0)
    mug = Decision(name="mug", confidence=1.0, by="exit", taken_at=0.0, latency=0.001)
    rows = tuple(ClassRow(name=name, frames=1, accuracy=0.5) for name in NAMES)
    framing = Framing(size=32)
    page_model = PageModel(
        robot="r1",
        commands=Mailbox(8),
        state=PageState(classes=rows, camera="reconnecting to camera 0", framing=framing),
    )
    page_model.thumbnails = {name: Thumbnail.of(frame.image) for name in NAMES}
    views = [View(frame, mug, 1, time.monotonic())]
    page_model.next_view = lambda number, timeout: views[-1] if views[-1].number > number else None

    asked = Questions(itertools.count(step=LOOK_SECONDS).__next__)
    page_model.questions = asked

    def remove(numbers: Collection[int]) -> int:
        page_model.doubts = tuple(one for one in page_model.doubts if one.number not in numbers)
        return len(numbers)

    choices = Choices(
        teaching=Teaching(time.monotonic), questions=asked, classes=lambda: NAMES, remove=remove, keep=remove
    )

    def ask() -> None:
        for shade in (40, 120, 200):
            image = np.full((32, 32, 3), shade, np.uint8)
            asked.offer(replace(frame, image=image), partial(np.copy, image), guess=NAMES[0], confidence=0.4)
        why = f"4 of the 5 frames most like it are {NAMES[1]!r}"
        page_model.doubts = tuple(
            DoubtRow(number=number, name=NAMES[0], why=why, thumbnail=Thumbnail.of(frame.image + number))
            for number in (1, 2)
        )

    def change(line: str) -> None:
        if line == "ask":
            ask()
            return
        if line == "decide":
            choice = page_model.choices.take(60.0)
            assert choice
            page_model.tell(choices.obey(choice))
            return
        if line.startswith("holds"):
            page_model.state = replace(page_model.state, held_back=line[len("holds ") :])
            return
        if line == "obey":
            command = page_model.commands.take(60.0)
            assert command
            looks = replace(framing, region=parse_region(command.region))
            page_model.state = replace(page_model.state, framing=looks)
            return
        now, stale = time.monotonic(), line == "stale"
        decision = nothing_seen(now) if stale else mug
        views.append(View(frame, decision, len(views) + 1, now - 40 * stale, stale=stale))

    server.start(partial(build, page_model=page_model, server=server))
    return change


def trainer(server: object) -> Change:
    """Serve a trainer's page without robots; any line brings two, of which r2 is away."""
    from cloud_trainer.page.app import build
    from cloud_trainer.page.model import FleetState, PageModel, RobotRow, SharedHalf
    from cloud_trainer.robots.robot import Rejection
    from hierarchy.runtime.page.server import PageServer

    assert isinstance(server, PageServer)
    page_model = PageModel(trainer="t1")

    def row(name: str, *, online: bool) -> RobotRow:
        return RobotRow(
            name=name,
            online=online,
            classes=NAMES,
            by_class=dict.fromkeys(NAMES, 0.5),
            confusion={one: dict.fromkeys(NAMES, 3) for one in NAMES},
            rejections=(Rejection(time=0.0, robot=name, reason=NAMES[0]),),
            shared=SharedHalf(fleet="lab", front="f" * 16, robots=2, images=900, classes=3, accuracy=0.75),
            history=((0.0, (1.0, 1.0, 0.5, 0.5)), (9.0, (0.5, 0.5, 0.7, 0.7))),
        )

    def change(_: str) -> None:
        page_model.state = FleetState(robots=(row("r1", online=True), row("r2", online=False)))

    server.start(partial(build, page_model=page_model))
    return change


def cluster(server: object) -> Change:
    """Serve a cluster's page without robots; any line brings an actor and more robots than it lists."""
    from cloud_trainer.cluster.board import Member
    from cloud_trainer.cluster.figures import ClusterState, Process
    from cloud_trainer.cluster.page import LISTED_ROBOTS, ClusterModel, build
    from cloud_trainer.page.model import FleetState, RobotRow
    from hierarchy.runtime.page.server import PageServer

    assert isinstance(server, PageServer)
    model = ClusterModel(trainer="t1")

    def change(_: str) -> None:
        member = Member(name="t1-0", role="actor", place="m:1", silent=1.0, figures="", logs=2, held=1)
        robots = tuple(RobotRow(name=f"r{number}", online=number == 7) for number in range(LISTED_ROBOTS + 3))
        model.state = ClusterState(
            fleet=FleetState(robots=(*robots, RobotRow(name=NAMES[0], online=True, messages_waiting=3))),
            processes=(Process(member=member, figures={"waiting": 5}, robots=2, images_per_second=12.5),),
            owners={"r7": ("t1-0", 4)},
        )

    server.start(partial(build, model=model))
    return change


def bare(server: object) -> Change:
    """Serve nothing, and end connections that are silent for a second."""
    from hierarchy.runtime.page import door
    from hierarchy.runtime.page.server import PageServer

    assert isinstance(server, PageServer)
    door.SILENT_SECONDS = 1.0
    server.start(lambda app: None)
    return lambda line: None


if __name__ == "__main__":
    main()
