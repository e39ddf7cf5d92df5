"""What crosses, rounded within a network, is to the bit what the quantizer of messages makes of each sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from broker.wire.quantize import dequantize, quantize
from hierarchy.answering import Judgement, Received
from hierarchy.calibration import Calibration, softmax
from hierarchy.head import GrowingHead


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(3,), (4, 9), (5, 8, 8), (2, 64, 65)])
def test_received_is_what_a_message_of_one_sample_carries(shape: tuple[int, ...], bits: int) -> None:
    samples = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    samples[:, 0] = 0.5  # a channel without extent
    if len(shape) > 1:
        samples[:, 1] = np.maximum(samples[:, 1] - 2.4, 0)  # nearly always nothing
    found = Received(shape, bits)(torch.from_numpy(samples)).numpy()
    told = np.concatenate([dequantize(quantize(one[None], bits)) for one in samples])
    np.testing.assert_allclose(found, told, rtol=0, atol=1e-6)


def test_a_head_of_one_class_knows_nothing() -> None:
    head = GrowingHead(4)
    head.grow(["mug"], None)
    probabilities, confidence, unknown = Judgement(head, Calibration(), None)(torch.randn(2, 4))
    assert (probabilities.tolist(), confidence.tolist(), unknown.tolist()) == ([[1], [1]], [0, 0], [True, True])


def test_confidence_is_calibrated_and_the_frame_at_the_threshold_is_known() -> None:
    head = GrowingHead(4)
    head.grow(["mug", "car"], None)
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    confidences = softmax(head(features).detach().numpy(), 0.3).max(1)
    at_threshold = Calibration(temperature=0.3, least_confidence=float(np.sort(confidences)[10]))
    _, confidence, unknown = Judgement(head, at_threshold, None)(features)
    np.testing.assert_allclose(confidence.numpy(), confidences, rtol=1e-5)
    assert unknown.sum() == 10
