from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, fx, nn

from hierarchy.backbone import build_backbone
from hierarchy.cut import find_cut_points
from hierarchy.tracing import traced_apart

# Only a failure takes this long.
PATIENCE_S = 60.0


class Interrupted(nn.Module):
    """Calls something in the middle of its forward pass, which is in the middle of its trace."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.weight = nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        self.meanwhile()
        return self.layer(x) * self.weight


def trace(module: nn.Module) -> list[str]:
    with traced_apart():
        return [f"{node.op} {node.target}" for node in fx.Tracer().trace(module).nodes]


def in_another_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(PATIENCE_S)


def test_a_forward_pass_in_another_thread_computes_and_is_not_traced() -> None:
    other = nn.Sequential(Interrupted(lambda: None), nn.BatchNorm1d(2))
    x = torch.randn(3, 2)
    expected = other(x)
    found: list[Tensor] = []
    nodes = trace(Interrupted(lambda: found.append(in_another_thread(lambda: other(x)))))
    assert torch.equal(found[0], expected)
    assert nodes == trace(Interrupted(lambda: None))


def test_networks_are_traced_one_at_a_time_and_methods_come_back() -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    started, waited = threading.Event(), threading.Event()

    def second() -> list[str]:
        started.set()
        nodes = trace(Interrupted(lambda: None))
        assert waited.is_set(), "it began in the middle of the first"
        return nodes

    with ThreadPoolExecutor(1) as threads:
        nodes: list[Any] = []

        def meanwhile() -> None:
            nodes.append(threads.submit(second))
            assert started.wait(PATIENCE_S)
            assert not nodes[0].done()
            waited.set()

        first = trace(Interrupted(meanwhile))
        assert nodes[0].result(PATIENCE_S) == first
    assert (nn.Module.__call__, nn.Module.__getattr__) == before


def test_answers_go_on_while_a_backbone_is_cut() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("squeezenet1_1", image_size=32, weights="none")
    expected = find_cut_points(backbone)
    answering = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    cut = threading.Event()

    def answer() -> int:
        answers, x = 0, torch.zeros(1, 3, 4, 4)
        while not cut.is_set():
            answering(x)
            answers += 1
        return answers

    with ThreadPoolExecutor(1) as threads:
        answers = threads.submit(answer)
        try:
            found = [find_cut_points(backbone) for _ in range(3)]
        finally:
            cut.set()
        assert answers.result(PATIENCE_S)
    assert found == [expected] * 3
