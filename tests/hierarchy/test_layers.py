from __future__ import annotations

import pytest
import torch

from broker.errors import CutError
from hierarchy.layers import EXIT_CHANNELS, EarlyExit, bottleneck, expansion

# Pooled features, a transformer's tokens, an image, a video.
SHAPES = [(6,), (6, 5), (6, 4, 3), (6, 2, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bottleneck_takes_channels_away_and_its_inverse_brings_them_back(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, *shape)
    narrow = bottleneck(shape, 2)(x)
    assert narrow.shape == (4, 2, *shape[1:])
    assert expansion(shape, 2)(narrow).shape == x.shape


def test_a_bottleneck_uses_every_quantization_level_alike() -> None:
    narrow = bottleneck((6, 4, 3), 2)(100 + 50 * torch.randn(64, 6, 4, 3))
    torch.testing.assert_close(narrow.mean((0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(narrow.std((0, 2, 3)), torch.ones(2), atol=1e-2, rtol=0)


def test_no_bottleneck_changes_nothing() -> None:
    x = torch.randn(2, 6, 4, 3)
    assert torch.equal(expansion((6, 4, 3), 0)(bottleneck((6, 4, 3), 0)(x)), x)


@pytest.mark.parametrize("channels", [-1, 6, 7])
def test_a_bottleneck_that_is_none_is_refused(channels: int) -> None:
    for layer in (bottleneck, expansion):
        with pytest.raises(CutError, match=f"bottleneck of {channels} channels: the cut has 6; use 1 to 5, or 0"):
            layer((6, 4, 3), channels)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exit_predicts_the_classes_that_it_knows(shape: tuple[int, ...]) -> None:
    exit_ = EarlyExit(shape)
    assert exit_(torch.randn(4, *shape)).shape == (4, 0)
    exit_.head.grow(["cat", "dog", "ant"], None)
    activations = torch.randn(4, *shape, requires_grad=True)
    logits = exit_(activations)
    assert logits.shape == (4, 3)
    torch.autograd.backward(logits.square().sum())
    assert activations.grad is not None
    assert activations.grad.abs().sum() > 0
    assert exit_.get_parameter("mix.0.weight").shape[:2] == (EXIT_CHANNELS, 6)
