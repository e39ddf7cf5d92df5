"""Ingest and actors between a real broker and a real database: who takes what in, who trains on it, who answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import Answer, Ask
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.answering.answers import MAX_COPIES, Asks
from cloud_trainer.cluster.asked import AskedLogs
from cloud_trainer.cluster.board import Board
from cloud_trainer.cluster.figures import ClusterFigures, exposition, row_of
from cloud_trainer.cluster.run import Cluster
from cloud_trainer.page.model import RobotRow
from cloud_trainer.robots.robot import Robot
from tests.cloud_trainer.cluster.scene import ClusterScene
from tests.cloud_trainer.test_fleets import LOG, samples, state_of
from tests.talking_robots import Talker

Start = Callable[..., ClusterScene]


def counts(scene: ClusterScene, log: str) -> dict[str, int]:
    return scene.store.count_batches(log, 0, 2**62)


def test_several_ingest_share_robots_and_each_message_is_stored_once(start_cluster: Start) -> None:
    scene = start_cluster(ingest=2)
    for number in range(4):
        scene.robot(f"{number}-shared").send(3)
    scene.until_done()
    first, second = (set(one.side.fleet.robots) for one in scene.ingest.values())
    assert first
    assert second
    assert not first & second
    assert first | second == {one.name for one in scene.robots}
    assert all(counts(scene, one.name) == {one.name: 3} for one in scene.robots)


def test_a_robot_that_asks_is_answered_though_nothing_kept_its_network_in_memory(start_cluster: Start) -> None:
    scene = start_cluster()
    robot, actor = scene.robot("asking"), scene.actors[0]
    robot.send(2)
    scene.until_done()
    steps = actor._fleet.trainings["asking"].steps
    assert actor._let_go("asking")
    link = robot.link
    link.subscribe(topics.topic("robot", "asking", "answer"))
    answers: list[Answer] = []
    number = 0

    def answered() -> bool:
        nonlocal number
        for name in ("asking", "nobody"):
            link.publish(topics.topic("robot", name, "ask"), pack(ask_of(robot, number)))
        number += 1
        while (delivery := link.receive(0.0)) is not None:
            if isinstance(message := unpack(delivery.payload), Answer):
                answers.append(message)
        return bool(answers)

    scene.robots.remove(robot)  # this test hears what it is told
    scene.until(answered, "an answer")
    link.close()
    assert answers[0].boot == robot.boot
    assert list(actor._held) == ["asking"]
    assert actor._fleet.trainings["asking"].steps == steps
    assert not actor._is_idle("asking"), "it stays, as long as the robot asks"


def ask_of(robot: Talker, number: int) -> Ask:
    split = robot.state.split
    values = np.random.default_rng(number).standard_normal((1, *split.shape)).astype(np.float32)
    packed = pack_activations(quantize(values, split.bits))
    return Ask(boot=robot.boot, number=number, split=split.fingerprint, deadline=30.0, activations=packed)


def test_no_more_networks_are_loaded_for_asks_than_are_answered_from() -> None:
    asks, board = Asks(), SimpleNamespace(logs_of=lambda robots, _actor: sorted(robots))
    asked = AskedLogs(asks, board, "a")  # type: ignore[arg-type]
    known = {f"r{number}": Robot(f"r{number}", trainings([f"r{number}"])) for number in range(MAX_COPIES - 1)}
    for name in [*known, "s0", "s1"]:
        asks.add(name, object(), 10.0, answerable=False)  # type: ignore[arg-type]
    assert asked.to_load(known, 10.0) == ["s0"]
    assert asked.to_load(known, 10.1) == [], "the board is asked now and then only"
    known["s0"] = Robot("s0", trainings(["s0"]))
    assert asked.to_load(known, 20.0) == []
    assert asked.loaded(known, 20.0) == set(known)
    assert asked.loaded(known, 1000.0) == set(), "nobody asks any more"


def trainings(logs: Iterable[str]) -> Any:
    return {log: SimpleNamespace(log=log) for log in logs}


def test_robots_of_an_actor_that_died_go_on_with_those_that_are_there(start_cluster: Start) -> None:
    scene = start_cluster(actors=2)
    for number in range(4):
        scene.robot(f"left-{number}").send(2)
    scene.until_done()
    name = scene.actors[1].name
    left = [log for log, actor, _ in scene.board.shares() if actor == name]
    assert len(left) == 2
    scene.kill(1)
    for robot in scene.robots:
        robot.send(2)
    coordinator = coordinator_of(scene)
    coordinator.turn()
    assert {actor for _, actor, _ in scene.board.shares()} == {scene.actors[0].name}
    scene.until_done()
    assert all(counts(scene, one.name) == {one.name: 4} for one in scene.robots)
    assert set(scene.actors[0]._held) == {one.name for one in scene.robots}


def coordinator_of(scene: ClusterScene) -> Cluster:
    """Return a coordinator that has started nothing."""
    coordinator = Cluster.__new__(Cluster)
    coordinator._board, coordinator._shared, coordinator._former = scene.board, (), []
    coordinator._config = scene.config
    coordinator.actors = {one.name: object() for one in scene.actors.values()}
    coordinator.ingest = {}
    return coordinator


def test_a_clusters_figures_say_who_trains_on_what_and_how_fast(start_cluster: Start) -> None:
    scene = start_cluster(actors=2)
    first, second = (scene.robot(f"counted-{number}") for number in range(2))
    figures = ClusterFigures(scene.board, scene.store, 2e9)
    for robot in (first, second):
        robot.send(2)
    scene.until_done()
    assert figures.look(100.0).images_per_second == 0.0
    first.send(3)
    scene.until_done()
    scene.until(lambda: sum(row.images for row in row_list(scene)) == 28, "reports")
    state = figures.look(104.0)
    owner, epoch = state.owners[first.name]
    rates = {one.member.name: one.images_per_second for one in state.processes if one.member.role == "actor"}
    assert rates == {one.name: 3.0 * (one.name == owner) for one in scene.actors.values()}
    assert epoch == 1
    text = exposition(state)
    assert f'reflexarc_robot_epoch{{robot="counted-0",actor="{owner}"}} 1\n' in text
    assert f'reflexarc_actor_images_per_second{{process="{owner}"}} 3.0\n' in text
    assert 'reflexarc_robot_images{robot="counted-0"} 20\n' in text
    assert "reflexarc_robot_messages_rejected_total{" not in text, "its ingest alone knows"
    assert "reflexarc_taking 1\n" in text
    second.go()
    scene.until(lambda: not figures.look(105.0).fleet.robots[1].online, "it has gone")


def row_list(scene: ClusterScene) -> list[RobotRow]:
    return [row_of(one) for one in scene.board.robots()]


def test_what_a_robot_withdraws_is_out_of_its_fleets_half_whoever_trains_that(start_cluster: Start) -> None:
    scene = start_cluster(actors=2)
    r1, r2 = (scene.robot(name, state=state_of(name)) for name in ("r1", "r2"))
    for robot in (r1, r2):
        robot.send(2)
    scene.until_done()
    of_fleet = next(one for one in scene.actors.values() if LOG in one._held)
    session = of_fleet._fleet.trainings[LOG].session
    assert session
    assert {robot for robot, _ in samples(session)} == {"r1", "r2"}
    r2.go()
    scene.robots.remove(r2)
    r2.link.close()
    back = scene.robot("r2", state=replace(state_of("r2"), share="withdraw"))
    back.state = replace(back.state, run=r2.state.run)
    back.send(1)
    scene.until_done(back)
    scene.until(lambda: {robot for robot, _ in samples(session)} == {"r1"}, "its samples are taken out")
    assert counts(scene, "r2") == {"r2": 1}
    assert {log: actor for log, actor, _ in scene.board.shares()}["r2"] != of_fleet.name


def test_a_cluster_that_lacks_cores_says_so_and_ends_when_it_is_told_to(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cloud_trainer.cluster import run

    looks = 0

    def stopped() -> bool:
        nonlocal looks
        looks += 1
        return looks > 3

    waits = SimpleNamespace(wait=lambda refs, **_: ([], refs), get=lambda _: [])  # as Ray does for cores that it lacks
    monkeypatch.setattr(run, "ray", waits)
    monkeypatch.setattr(run, "NOTICE_SECONDS", -1.0)
    process = SimpleNamespace(ready=SimpleNamespace(remote=object))
    coordinator = Cluster.__new__(Cluster)
    coordinator._board, coordinator._former = Board(database_url), []
    coordinator._board.make()
    coordinator.ingest, coordinator.actors = {"ingest-0": process}, {"0": process, "1": process}
    monkeypatch.setattr(coordinator, "_adopt", lambda: None)
    with caplog.at_level(logging.WARNING):
        coordinator.wait_until_ready(stopped)
    coordinator._board.close()
    assert [one.message for one in caplog.records] == [
        "waiting for 3 processes: Ray may lack cores for them (--actors)"
    ], "once"
