"""Predictions of one frame while the segment learns: the same as the trainer's own, calibrated, from another thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from broker.errors import Diverged
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer
from robot_edge.inference.predictor import REFRESH_SECONDS, Predictor
from tests.hierarchy.test_edge import BFLOAT, FLOAT, SIZE, STRIPES, batch, pictures, trainer

TIMEOUT_S = 60


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("compute", [FLOAT, BFLOAT], ids=str)
def test_it_says_what_the_trainer_would(compute: Compute) -> None:
    edge = trainer(compute=compute)
    predictor = Predictor(edge.segment, bits=edge.bits, compute=edge.learner.compute)
    images, names = batch(12, seed=0)
    blank = predictor.predict(images[0])
    assert (blank.name, blank.confidence, blank.unknown, blank.classes) == ("", 0.0, True, ())
    edge.step(images, names, fresh=12, progress=None)
    predictor.refresh(edge.segment, at_once=True)
    for image in images[:4]:
        says = predictor.predict(image)
        (name,), quantized = edge.evaluate(image[None])
        assert says.name == name
        assert says.classes == STRIPES
        np.testing.assert_array_equal(says.quantized.codes, quantized.codes)
        assert says.probabilities.sum() == pytest.approx(1)
        assert says.confidence == says.probabilities.max()
        assert says.seconds > 0


def test_a_refresh_is_now_and_then() -> None:
    edge, clock = trainer(), Clock()
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT, clock=clock)
    edge.step(*batch(6, 0), fresh=6, progress=None)
    predictor.refresh(edge.segment)
    assert predictor.predict(batch(1, 0)[0][0]).classes == ()
    clock.now += REFRESH_SECONDS
    predictor.refresh(edge.segment)
    assert predictor.predict(batch(1, 0)[0][0]).classes == STRIPES


def test_calibrated_on_held_out_frames() -> None:
    edge = trainer()
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT)
    for number in range(12):
        edge.step(*batch(18, number), fresh=18, progress=number / 12)
    predictor.refresh(edge.segment, at_once=True)
    images, names = batch(90, seed=500)
    predictor.calibrate(edge.segment, images, [*names[:-3], *["never taught"] * 3])
    calibration = predictor.calibration
    assert calibration.temperature != 1
    assert 0 < calibration.least_confidence < 1
    says = [predictor.predict(image) for image in batch(60, seed=600)[0]]
    assert np.mean([one.unknown for one in says]) < 0.3
    assert all(one.unknown == (one.confidence < calibration.least_confidence) for one in says)
    edge.step(*batch(18, 0), fresh=18, progress=None)
    assert edge.segment.training, "as training goes on"
    predictor.calibrate(edge.segment, images[:0], [])
    assert predictor.calibration == calibration


def test_one_thread_sees_while_another_learns() -> None:
    edge = trainer()
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT)
    images, names = batch(12, seed=0)
    seen: list[tuple[str, ...]] = []
    over = threading.Event()

    def see() -> None:
        Predictor.claim_thread()
        while not over.is_set():
            seen.append(predictor.predict(images[0]).classes)

    seeing = threading.Thread(target=see, daemon=True)
    seeing.start()
    rng = torch.get_rng_state()
    for number in range(6):
        taught = names if number >= 3 else STRIPES[:1] * 12
        edge.step(images, list(taught), fresh=12, progress=None)
        predictor.refresh(edge.segment, at_once=True)
    over.set()
    seeing.join(TIMEOUT_S)
    assert not seeing.is_alive()
    assert torch.equal(torch.get_rng_state(), rng), "seeing draws no random numbers"
    twin = trainer()
    for number in range(6):
        twin.step(images, list(names if number >= 3 else STRIPES[:1] * 12), fresh=12, progress=None)
    for one, other in zip(edge.segment.state_dict().values(), twin.segment.state_dict().values(), strict=True):
        assert torch.equal(one, other), "and learning does not notice"


def test_a_diverged_network_is_said() -> None:
    edge = trainer()
    with torch.no_grad():
        for parameter in edge.segment.bottleneck.parameters():
            parameter.fill_(1e9)
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT)
    with pytest.raises(Diverged, match="diverged"):
        predictor.predict(batch(1, 0)[0][0])


def test_with_one_class_it_is_sure_of_nothing() -> None:
    edge = trainer()
    images, _ = batch(6, seed=0)
    edge.step(images, ["mug"] * 6, fresh=6, progress=None)
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT)
    predictor.refresh(edge.segment, at_once=True)
    says = predictor.predict(images[0])
    assert (says.name, says.confidence, says.unknown, says.classes) == ("mug", 0.0, True, ("mug",))


def still_predictor(classes: tuple[str, ...]) -> tuple[Predictor, EdgeTrainer]:
    """Return what predicts by a network that stands still, and knows stripes of those classes."""
    edge = trainer(freeze="all", exit="end")
    images, names = batch(12 * len(classes), seed=0, classes=classes)
    encoding = edge.encode(images)
    edge.learner.fit(encoding.features, names)
    predictor = Predictor(edge.segment, bits=4, compute=FLOAT, encode=edge.encode)
    predictor.refresh(edge.segment, at_once=True)
    predictor.remember(encoding, names)
    return predictor, edge


@pytest.mark.parametrize("classes", [("across",), ("across", "down")], ids=len)
def test_remembered_frames_tell_the_unknown(classes: tuple[str, ...]) -> None:
    predictor, _ = still_predictor(classes)
    known = [predictor.predict(image) for image in batch(20, seed=5, classes=classes)[0]]
    walls = [predictor.predict(np.full((SIZE, SIZE, 3), grey, np.uint8)) for grey in (20, 90, 160, 230)]
    assert np.mean([one.unknown for one in known]) < 0.2
    novelties = [one.novelty for one in (*known, *walls) if one.novelty is not None]
    assert max(novelties[:20]) < min(novelties[20:])
    if len(classes) > 1:  # a network of random weights sees one class and a wall nearly alike
        assert all(wall.unknown and wall.confidence <= 0.5 for wall in walls), "whatever the classes are beside another"
    assert np.mean([one.confidence > 0.5 for one in known]) > 0.8


def test_a_class_whose_lesson_is_not_over_is_named_all_the_same() -> None:
    predictor, edge = still_predictor(("across", "down"))
    images, names = batch(36, seed=1)
    edge.learner.fit(edge.encode(images).features, names)
    predictor.refresh(edge.segment, at_once=True)
    says = [predictor.predict(image) for image in pictures(["none"] * 10, seed=9)]
    named = [one for one in says if one.name == "none"]
    assert len(named) >= 8
    assert all(one.novelty is None and not one.unknown for one in named)
    predictor.remember(edge.encode(images[:1])[:0], [])
    assert predictor.predict(images[0]).novelty is None, "nothing is remembered, so the confidence has to do"


def test_the_thread_that_trains_is_told_the_same_between_two_steps() -> None:
    edge = trainer()
    predictor = Predictor(edge.segment, bits=edge.bits, compute=FLOAT)
    images, names = batch(12, seed=0)
    edge.step(images, names, fresh=12, progress=None)
    predictor.refresh(edge.segment, at_once=True)
    seen, between = predictor.predict(images[0]), predictor.predict_between_steps(edge.segment, images[0])
    np.testing.assert_allclose(between.probabilities, seen.probabilities)
    still, edge = still_predictor(STRIPES)
    encoded = edge.encode(images[:1])
    seen, between = still.predict(images[0]), still.predict_between_steps(edge.segment, images[0], encoded)
    np.testing.assert_allclose(between.probabilities, seen.probabilities)
    assert (between.unknown, between.novelty) == (seen.unknown, seen.novelty)
