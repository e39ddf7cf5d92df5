from __future__ import annotations

from collections import Counter

from cloud_trainer.cluster.ingest import ingest_of, wants
from cloud_trainer.cluster.shares import moves


def test_logs_without_an_actor_go_where_there_are_fewest() -> None:
    logs = [("r1", "", False), ("r2", "gone", True), ("r3", "a", True)]
    assert moves(logs, ["a", "b"]) == {"r2": "b", "r1": "a"}
    assert moves(logs, []) == {}


def test_an_actor_that_joins_gets_its_share_of_those_at_rest() -> None:
    logs = [(f"r{number}", "a", number < 5) for number in range(9)]
    moved = moves(logs, ["a", "b"])
    assert set(moved.values()) == {"b"}
    assert sorted(moved) == ["r5", "r6", "r7", "r8"], "networks in memory stay"
    assert moves([(name, moved.get(name, actor), held) for name, actor, held in logs], ["a", "b"]) == {}


def test_an_actor_that_leaves_is_shared_out() -> None:
    logs = [(f"r{number}", f"a{number % 3}", False) for number in range(9)]
    moved = moves(logs, ["a0", "a1"])
    assert sorted(moved) == ["r2", "r5", "r8"]
    own = Counter(moved.get(name, actor) for name, actor, _ in logs)
    assert max(own.values()) - min(own.values()) == 1


def test_each_robot_is_heard_by_one_ingest() -> None:
    for name in ("r1", "r2", "robot-17"):
        topic = f"reflexarc/1/robot/{name}/activations"
        assert [wants(topic, number, 3) for number in range(3)].index(True) == ingest_of(name, 3)
        assert sum(wants(topic, number, 3) for number in range(3)) == 1
    assert [wants("reflexarc/1/trainer/t1/state", number, 2) for number in range(2)] == [True, False]
    assert [wants("nobody's", number, 2) for number in range(2)] == [True, False]
