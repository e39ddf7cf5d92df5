from __future__ import annotations

import torch

from hierarchy.random_state import TorchRandom

CPU = torch.device("cpu")


def test_a_stream_goes_on_where_it_was_whatever_others_draw() -> None:
    stream = TorchRandom(7, CPU)
    with stream:
        first = torch.rand(3)
    torch.rand(5)
    with stream:
        second = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.cat([first, second]), torch.cat([torch.rand(3), torch.rand(3)]))


def test_others_do_not_notice() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    before = torch.rand(2)
    with TorchRandom(7, CPU):
        torch.rand(9)
    assert torch.equal(torch.cat([before, torch.rand(2)]), expected)


def test_a_state_is_taken_up_again() -> None:
    stream = TorchRandom(7, CPU)
    with stream:
        torch.rand(3)
    other = TorchRandom(8, CPU)
    other.state = {name: value.clone() for name, value in stream.state.items()}
    with stream:
        expected = torch.rand(3)
    with other:
        assert torch.equal(torch.rand(3), expected)
