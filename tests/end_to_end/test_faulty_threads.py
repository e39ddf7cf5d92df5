"""A fault in each thread of both programs: somebody is told, and it goes on or ends, but never stands still."""

from __future__ import annotations

import signal
import time
import urllib.request
from functools import partial
from typing import Any

import pytest

from broker.errors import EXIT_BUG
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Probe, ProbeResult
from tests.cloud_trainer.answering.test_answers import make_ask
from tests.cloud_trainer.answering.test_probes import make_probe
from tests.cloud_trainer.world import SPLIT
from tests.ports import free_port

pytestmark = pytest.mark.mosquitto

LINK = "broker.link.mqtt:MqttLink._on_message:1"
SEEING = "robot_edge.inference.frame_path:FramePath.look:3"
TRAINING = "cloud_trainer.robots.training:Training.turn:3"
# uvicorn asks this ten times a second.
PAGE = "uvicorn.server:Server.on_tick:20"
ANSWERS, PROBES = "cloud_trainer.answering.answers:Answerer._take:1", "cloud_trainer.answering.probes:Probes._wait:1"


@pytest.mark.parametrize(
    ("package", "topic"), [("robot_edge", "robot/deaf/command"), ("cloud_trainer", "robot/r1/state")]
)
def test_a_link_whose_thread_fails_ends_the_program(
    launcher: Any, mosquitto_url: str, record: Any, package: str, topic: str
) -> None:
    flags = ["--source", "sim:", "--live", "--robot", "deaf", "--image-size", "16"] if package == "robot_edge" else []
    program = launcher.faulty(LINK, package, mosquitto_url, *flags)
    recorder = record(mosquitto_url)
    try:
        recorder.publish(f"{topics.PREFIX}/{topic}", b"{}", retain=True)  # it hears that when it subscribes
        assert program.wait() == EXIT_BUG
        recorder.publish(f"{topics.PREFIX}/{topic}", b"", retain=True)
    finally:
        recorder.close()
    assert "the link's thread has failed" in program.printed
    assert "planted in _on_message" in program.printed


def test_a_robot_that_cannot_see_any_more_ends(launcher: Any, mosquitto_url: str) -> None:
    program = launcher.faulty(
        SEEING, "robot_edge", mosquitto_url, "--source", "sim:", "--live", "--robot", "blind", "--image-size", "16"
    )
    assert program.wait() == EXIT_BUG
    assert "the thread 'seeing' has failed" in program.printed
    assert "planted in look" in program.printed


def test_a_trainer_that_cannot_train_any_more_ends(launcher: Any, mosquitto_url: str) -> None:
    trainer = launcher.faulty(TRAINING, "cloud_trainer", mosquitto_url, "--trainer", "tired")
    assert trainer.wait() == EXIT_BUG
    assert "the thread 'training' has failed" in trainer.printed
    assert "planted in turn" in trainer.printed


def test_a_trainer_goes_on_answering_and_showing_its_page(launcher: Any, mosquitto_url: str, record: Any) -> None:
    port = free_port()
    trainer = launcher.faulty(
        ",".join((PAGE, ANSWERS, PROBES)), "cloud_trainer", mosquitto_url, "--trainer", "faulty", "--page", str(port)
    )
    recorder = record(mosquitto_url)
    try:
        trainer.until_it_says("page at")

        def has_failed(name: str) -> bool:  # what is asked before the thread listens is lost
            recorder.publish(topics.topic("robot", "r1", "ask"), pack(make_ask()))
            recorder.publish(topics.topic("robot", "r1", "probe"), pack(make_probe(split=SPLIT)))
            time.sleep(0.2)
            return f"the thread '{name}' has failed: it is started again" in trainer.printed

        for name in ("answers", "probes", "page"):
            trainer.until(partial(has_failed, name), f"the thread {name!r} has failed")
        # The first two were lost with their thread. What comes next is answered, and the page is there again.
        probe = make_probe(7)
        trainer.until(lambda: _is_answered(probe, recorder), "its probes were answered again")
        trainer.until(lambda: _answers(port, "/metrics"), "its page was there again")
    finally:
        recorder.close()
    assert trainer.interrupt() == 0


def test_a_robot_goes_on_seeing_and_shows_its_page_again(launcher: Any, mosquitto_url: str) -> None:
    port = free_port()
    flags = ["--source", "sim:", "--live", "--robot", "shown", "--image-size", "16", "--page", str(port)]
    robot = launcher.faulty(PAGE, "robot_edge", mosquitto_url, *flags)
    robot.until_it_says("the thread 'page' has failed: it is started again")
    robot.until(lambda: _answers(port, "/sees.json"), "its page was there again")
    assert robot.interrupt() == 130


def _is_answered(probe: Probe, recorder: Any) -> bool:
    recorder.publish(topics.topic("robot", "r1", "probe"), pack(probe))
    results = recorder.messages(ProbeResult, topics.topic("robot", "r1", "probe-result"))
    return any(result.number == probe.number for result in results)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_second_ctrl_c_ends_a_trainer_in_the_middle_of_a_step(launcher: Any, mosquitto_url: str) -> None:
    fault = "cloud_trainer.robots.training:Training.turn:3:busy"
    launcher.cold = True  # what is forked ends without the end of Python that this is about
    try:
        trainer = launcher.faulty(fault, "cloud_trainer", mosquitto_url, "--trainer", "busy")
    finally:
        launcher.cold = False
    trainer.until_it_says("planted in turn")
    next_one = 0.0
    while trainer.running:  # one that comes at once counts as the same
        if time.monotonic() >= next_one:
            trainer.send(signal.SIGINT)
            next_one = time.monotonic() + 5
        time.sleep(0.05)
    assert trainer.wait() == 130
