"""A robot as a program uses it: noisy pictures of one colour each, learned alone, without a broker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from broker.errors import ConfigError, SourceError
from hierarchy.device import Compute
from robot_edge.learning.framing import Region
from robot_edge.run.kept_look import framing_of
from robot_edge.run.lesson_learning import LessonLearning
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.pushed import FrameQueue, PushedCamera

pytestmark = pytest.mark.slow

SIZE = 16
COLOURS = {"red": (220, 60, 60), "green": (60, 220, 60), "blue": (60, 60, 220)}
# For a machine that is busy with other tests; nothing here waits for its end.
PATIENCE = 120.0


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Compute(device=torch.device("cpu"))
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: cpu)
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)


def robot(folder: Path, **settings: Any) -> edge.Robot:
    given = {
        "cut": "layer1",
        "image_size": SIZE,
        "bottleneck": 4,
        "batch": 16,
        "learning_rate": 0.02,
        "practice": 0.5,
        "seed": 0,
    }
    return edge.Robot("r1", run_dir=str(folder), **{**given, "held_out_every": 4, **settings})


def pictures(name: str, count: int, seed: int = 0) -> list[Pixels]:
    noise = np.random.default_rng(seed).normal(0, 30, (count, SIZE, SIZE, 3))
    return list(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def mixed(*names: str, of_each: int = 40) -> list[tuple[Pixels, str]]:
    columns = [[(image, name) for image in pictures(name, of_each)] for name in names]
    return [pair for row in zip(*columns, strict=True) for pair in row]


def share_right(one: edge.Robot, name: str) -> float:
    return float(np.mean([one.predict(image).name == name for image in pictures(name, 10, seed=9)]))


def wait_for(what: Callable[[], Any]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < give_up
        threading.Event().wait(0.01)


def test_it_learns_is_taught_told_otherwise_saved_and_loaded(tmp_path: Path) -> None:
    with robot(tmp_path / "one") as one:
        pairs = mixed("red", "green")
        steps = list(one.train(pairs))
        assert 0 < steps[-1].images < len(pairs), "some are held out"
        assert steps[-1].loss < steps[0].loss
        assert set(one.classes) == {"red", "green"}
        assert one.teach("blue", pictures("blue", 60)) > 20
        assert one.settle(PATIENCE)
        assert one.accuracy is not None
        assert one.accuracy > 0.8
        assert min(share_right(one, name) for name in COLOURS) > 0.7
        assert (one.cloud.online, one.cloud.accuracy) == (False, None)
        one.rename("blue", "sky")
        with pytest.raises(ConfigError, match="there is no class 'blue'"):
            one.forget("blue")
        with pytest.raises(ConfigError, match="merge makes one of both"):
            one.rename("sky", "red")
        one.save(tmp_path / "copy")
        made = one._thread.run.outbox.messages_made
        one.undo()
        assert set(one.classes) == {"red", "green"}
    with edge.Robot.load(tmp_path / "copy") as two:
        assert set(two.classes) == {"red", "green", "sky"}, "the copy is of before the undo"
        assert two._thread.run.outbox.messages_made == made, "what waits for the cloud came along"
        assert share_right(two, "red") > 0.7
        two.undo()
        two.merge("red", "green")
        assert two.classes == ("green",)
        wall = np.full((SIZE, SIZE, 3), 90, np.uint8)
        two.look("0%,0%,50%,100%")
        assert two.teach("wall", [np.hstack([wall, other]) for other in pictures("blue", 20)]) == 1, "it looks left"
        with pytest.raises(ConfigError, match="no region"):
            two.look("left")
        two.save(tmp_path / "third")
        assert framing_of(tmp_path / "third", two.config.network).region == Region(0, 0, 50, 100)
    with pytest.raises(ConfigError, match="holds another run"), robot(tmp_path / "other") as three:
        three.save(tmp_path / "copy")


def test_a_robot_with_the_weights_of_a_private_one_is_private(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"image_size": SIZE, "batch": 16, "run_dir": str(tmp_path / "one")}
    with edge.Robot("r1", privacy="medium", **settings) as one:
        list(one.train(mixed("red", "green")))
    heirs: dict[str, Any] = {"weights": str(tmp_path / "one"), "batch": 16}
    for privacy, may_send in (("auto", False), ("off", True)):
        with edge.Robot("r1", run_dir=str(tmp_path / privacy), privacy=privacy, **heirs) as heir:
            run = heir._thread.run
            assert (run.config.network.privacy, run.config.network.bits) == ("off" if may_send else "medium", 2)
            assert run.state.may_send == may_send


def test_a_pretrained_robot_whose_settings_were_left_open_is_told_otherwise_saved_and_loaded(tmp_path: Path) -> None:
    name = "shufflenet_v2_x0_5"
    torch.save(models.get_model(name, weights=None).state_dict(), tmp_path / "w.pth")
    settings: dict[str, Any] = {"backbone": name, "weights": str(tmp_path / "w.pth"), "image_size": 96}
    with edge.Robot("r1", run_dir=str(tmp_path / "one"), **settings) as one:
        for colour in ("red", "green"):
            one.teach(colour, pictures(colour, 12))
        assert one.settle(PATIENCE)
        one.rename("red", "rot")
        assert "red" not in {one.predict(image).name for image in pictures("red", 3, seed=9)}
        for nameless in ("", "a\nb", "x" * 300):
            with pytest.raises(ConfigError, match="printable"):
                one.teach(nameless, [])
        one.save(tmp_path / "copy")
    with edge.Robot.load(tmp_path / "copy") as two:
        assert two.classes == ("rot", "green")


def test_many_threads_look_while_it_learns_and_its_caller_may_leave(tmp_path: Path) -> None:
    seen: list[edge.Seen] = []
    with robot(tmp_path, practice=0.0) as one:
        for _step in one.train(mixed("red", "green", of_each=400)):
            break
        first = one._thread.run.state.metrics.images
        assert first < 100, "the rest is not learned"
        steps = one.train(open_source("sim:", image_size=SIZE, images=64))
        next(steps)

        def look() -> None:
            seen.extend(one.predict(image) for image in pictures("red", 5))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        rest = list(steps)
        for thread in threads:
            thread.join(PATIENCE)
        assert len(seen) == 20
        assert {answer.answered_by for answer in seen} == {"exit"}
        assert rest[-1].images > first
        positions = one._thread.run.state.memory.rehearsal.all()
        numbers = [frame.sample for frame in positions]
        assert len(set(numbers)) == len(numbers), "each frame has a number of its own"


def test_what_cannot_be_learned_is_refused_before_it_is_and_nothing_hangs(tmp_path: Path) -> None:
    image = pictures("red", 1)[0]
    trainers = tmp_path / "cloud"
    trainers.mkdir()
    (trainers / "config.toml").write_text('trainer = "main"')
    with robot(tmp_path / "run", practice=0.0) as one:
        for name in ("two\nlines", "long" * 100):
            with pytest.raises(edge.ReflexarcError, match="printable"):
                list(one.train([edge.Frame(image=image, label=name, scene=1, time=0.0)] * 40))
        with pytest.raises(SourceError, match=r"not float64 \(16, 16, 3\)"):
            list(one.train([edge.Frame(image=image.astype(float), label="red", scene=1, time=0.0)]))
        with pytest.raises(SourceError, match="has to be text, not None"):
            list(one.train([(image, None)]))  # type: ignore[list-item]
        for nothing in (np.zeros((0, 0, 3), np.uint8), [[1], [1, 2]]):
            with pytest.raises(SourceError, match=r"uint8 \(H, W, 3\)"):
                one.predict(nothing)  # type: ignore[arg-type]
        assert one.classes == ()
        left = one.train(mixed("red", "green"))
        next(left)
        with pytest.raises(RuntimeError, match="trains already"):
            next(one.train(mixed("red", "green")))
        left.close()
        assert list(one.train(mixed("red", "green")))
        one.save(tmp_path / "run")
        with pytest.raises(ConfigError, match="another program"):
            one.save(trainers)
        assert (trainers / "config.toml").read_text() == 'trainer = "main"'


def test_a_job_that_waits_behind_training_is_done_meanwhile_and_nothing_waits_for_it_again(tmp_path: Path) -> None:
    done: list[str] = []
    with robot(tmp_path) as one:
        run = one._thread.run

        def trains() -> None:
            run.talk.jobs.put(lambda: done.append("before"))  # as if it had come together with this one
            run.talk.obey()

        def come_together() -> None:
            run.talk.jobs.put(trains)
            run.talk.jobs.put(lambda: done.append("behind"))

        run.talk.jobs.put(come_together)
        wait_for(lambda: sorted(done) == ["before", "behind"])
        at = run.state.metrics.seconds
        wait_for(lambda: run.state.metrics.seconds > at)  # and the loop goes on without another job


def test_what_is_observed_is_seen_and_can_be_taught(tmp_path: Path) -> None:
    with robot(tmp_path, practice=0.0) as one:
        one.teach("red", seconds=600.0)
        teaching = one._thread.run.state.teaching
        assert teaching

        def shown() -> int:
            one.observe(pictures("red", 1, seed=int(1e6 * time.monotonic()) % 2**32)[0])
            return teaching.open.frames if teaching.open else 0

        wait_for(lambda: shown() > 3)
        wait_for(lambda: one.seen)
        with pytest.raises(ConfigError, match="'red' is being taught"):
            one.teach("green", pictures("green", 1))
        one.undo()
        assert "red" not in one.classes
        with pytest.raises(SourceError, match=r"uint8 \(H, W, 3\), not float64 \(2, 2\)"):
            one.observe(np.zeros((2, 2)))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="another process is using"), robot(tmp_path):
            pass
    with pytest.raises(RuntimeError, match="not open"):
        one.predict(pictures("red", 1)[0])


def test_a_fault_of_its_thread_is_raised_at_the_next_call_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted in learn")

    monkeypatch.setattr(LessonLearning, "learn", fail)
    with (
        pytest.raises(RuntimeError, match="planted"),  # at the end
        robot(tmp_path) as one,
        pytest.raises(RuntimeError, match="planted"),
    ):
        one.settle(PATIENCE)


def test_settings_are_those_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no setting is called imagesize; did you mean image_size"):
        robot(tmp_path, imagesize=16)
    with pytest.raises(ConfigError, match="has no source: train on open_source"):
        robot(tmp_path, source="sim:")
    with pytest.raises(ConfigError, match="--broker is empty: only"):
        robot_edge.run.start.run(robot(tmp_path).config)
    with pytest.raises(ConfigError, match="holds no run of a robot"):
        edge.Robot.load(tmp_path)
    assert set(edge.__all__) <= set(dir(edge)) | {name for name in edge.__all__ if getattr(edge, name)}


def test_importing_the_package_does_not_wait_for_torch() -> None:
    look = "import sys, robot_edge; assert 'torch' not in sys.modules; assert not hasattr(robot_edge, 'nothing')"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)


def test_of_pushed_pictures_the_newest_counts_and_those_asked_about_come_first() -> None:
    first, second, asked = (next_frame(name) for name in COLOURS)
    camera = PushedCamera()
    camera.show(first)
    camera.show(second)
    camera.ask(asked)
    assert [camera.latest(0.0), camera.latest(0.0), camera.latest(0.0)] == [asked, second, None]
    camera.pause()
    camera.show(first)
    camera.ask(asked)
    assert [camera.latest(0.0), camera.latest(0.0)] == [asked, None]
    camera.step()
    assert (camera.latest(0.0), camera.status) == (first, "paused")
    camera.resume()
    assert not camera.paused


def test_a_queue_of_frames_holds_back_who_fills_it_and_ends() -> None:
    frames = FrameQueue(None, 1)
    assert frames.put(next_frame("red"), 0.0)
    assert not frames.put(next_frame("red"), 0.0)
    frames.end()
    assert not frames.ended
    assert frames.next()
    assert (frames.ended, frames.next(), frames.position) == (True, None, 1)


def next_frame(name: str) -> edge.Frame:
    return edge.Frame(image=pictures(name, 1)[0], label=None, scene=0, time=0.0)
