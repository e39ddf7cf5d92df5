"""Rows of an exit cross in half precision and name the same frames; bytes that are none are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import MalformedMessage
from hierarchy.exit_rows import HALF, ExitRows, crossing_features, crossing_width, pack_rows, rows_of, unpack_rows
from hierarchy.exits import LENGTH
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows

FEATURES = 24


def fitted(classes: int, seed: int = 0) -> tuple[GrowingHead, np.ndarray, list[str]]:
    """Return a head that was fitted to features around a mean for each class, and other features of the same kind."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, FEATURES))
    labels = np.arange(40 * classes) % classes
    both = [means[labels] + rng.normal(size=(len(labels), FEATURES)) * 0.5 for _ in range(2)]
    shown, others = (LENGTH * one / np.linalg.norm(one, axis=1, keepdims=True) for one in both)
    head = GrowingHead(FEATURES)
    head.grow([f"class {one}" for one in range(classes)], None)
    for _ in range(3):
        fit_rows(head, torch.from_numpy(shown).float(), torch.from_numpy(labels))
    return head, others.astype(np.float16), [f"class {one}" for one in labels]


@pytest.mark.parametrize("classes", [2, 20])
def test_what_is_sent_names_the_same_frames(classes: int) -> None:
    head, features, names = fitted(classes)
    sent = rows_of(head)
    data = pack_rows(sent)
    assert len(data) == 2 * classes * (FEATURES + 1)
    read = unpack_rows(data, classes=head.classes, features=FEATURES)
    with torch.inference_mode():
        exact = head(torch.from_numpy(features)).numpy()
    logits = read.logits(features)
    np.testing.assert_array_equal(logits, sent.logits(features))
    np.testing.assert_allclose(logits, exact, atol=0.05)
    right = [read.classes[one] for one in logits.argmax(1)]
    assert np.mean([one == name for one, name in zip(right, names, strict=True)]) > 0.95
    assert read.classes == head.classes


def test_what_is_sent_learns_no_more() -> None:
    head, features, _ = fitted(3)
    sent = rows_of(head)
    before = sent.logits(features)
    with torch.no_grad():
        head.weight.zero_()
    np.testing.assert_array_equal(sent.logits(features), before)


def test_what_half_precision_does_not_hold_is_not_sent() -> None:
    head, _, _ = fitted(2)
    with torch.no_grad():
        head.bias[1] = 1e5
    with pytest.raises(ValueError, match="not finite in half precision"):
        rows_of(head)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_cut_or_changed_is_refused_or_is_other_rows(data: st.DataObject) -> None:
    head, _, _ = fitted(2)
    sound = pack_rows(rows_of(head))
    length = data.draw(st.integers(0, len(sound) - 1))
    for wrong in (sound[:length], sound + bytes(length + 1)):
        with pytest.raises(MalformedMessage, match="bytes are not 2 rows of 24 features"):
            unpack_rows(wrong, classes=head.classes, features=FEATURES)
    flipped = bytearray(sound)
    flipped[length] ^= data.draw(st.integers(1, 255))
    if not np.isfinite(np.frombuffer(flipped, HALF)).all():
        with pytest.raises(MalformedMessage, match="not finite"):
            unpack_rows(bytes(flipped), classes=head.classes, features=FEATURES)
        return
    assert pack_rows(unpack_rows(bytes(flipped), classes=head.classes, features=FEATURES)) == bytes(flipped)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_rows_are_finite(value: float) -> None:
    rows = ExitRows(classes=("a", "b"), weight=torch.zeros(2, 3), bias=torch.tensor([0.0, value]))
    with pytest.raises(MalformedMessage, match="not finite"):
        unpack_rows(pack_rows(rows), classes=("a", "b"), features=3)


@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 4)])
def test_what_crosses_has_means_and_deviations_of_one_length(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    features = crossing_features(values)
    assert features.shape == (5, crossing_width(shape))
    np.testing.assert_allclose(np.linalg.norm(features.astype(np.float64), axis=1), LENGTH, rtol=1e-2)
    flat = values.reshape(5, shape[0], -1)
    wanted = values if len(shape) == 1 else np.concatenate([flat.mean(2), flat.std(2)], axis=1)
    wanted *= LENGTH / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(features, wanted, atol=0.15)
