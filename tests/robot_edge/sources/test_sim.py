from __future__ import annotations

from itertools import combinations, islice, pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from broker.errors import SourceError
from robot_edge.sources.frames import Frame, FrameSource
from robot_edge.sources.sim import FRAMES_PER_SCENE, SimulatedCamera
from robot_edge.sources.toys import TOY_CLASSES, Colour, Tone, draw_toy


def shown(camera: FrameSource, count: int | None = None) -> list[Frame]:
    return list(islice(iter(camera.next, None), count))


def pictures(**settings: Any) -> NDArray[np.uint8]:
    """Two scenes of a camera, (frames, size, size, 3)."""
    return np.stack([frame.image for frame in shown(SimulatedCamera(**settings), 2 * FRAMES_PER_SCENE)])


def distance(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(np.abs(left.astype(float) - right.astype(float)).mean())


def test_it_ends_after_the_frames_asked_for() -> None:
    camera = SimulatedCamera(frames=11)
    assert camera.length == 11
    assert len(shown(camera)) == 11
    assert camera.next() is None


def test_without_a_number_it_has_no_end() -> None:
    camera = SimulatedCamera()
    assert camera.length is None
    assert len(shown(camera, 50)) == 50


@pytest.mark.parametrize("size", [16, 32, 45, 96])
def test_a_frame_is_rgb_of_the_size_asked_for(size: int) -> None:
    image = pictures(size=size)[0]
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_the_same_settings_show_the_same_frames_bit_for_bit() -> None:
    assert np.array_equal(pictures(seed=5), pictures(seed=5))


def test_other_seeds_and_other_numbers_are_other_scenes() -> None:
    runs = [pictures(), pictures(seed=1), pictures(first_scene=1), pictures(first_scene=2)]
    starts = [run[0] for run in runs]
    assert all(distance(left, right) > 10 for left, right in combinations(starts, 2))


def test_a_scene_depends_on_its_number_and_not_on_those_before_it() -> None:
    assert np.array_equal(pictures()[FRAMES_PER_SCENE:], pictures(first_scene=1)[:FRAMES_PER_SCENE])


def test_a_scene_is_one_toy_that_moves_a_little_from_frame_to_frame() -> None:
    frames = shown(SimulatedCamera(first_scene=7), 20 * FRAMES_PER_SCENE)
    assert [frame.scene for frame in frames[::FRAMES_PER_SCENE]] == list(range(7, 27))
    within: list[float] = []
    between: list[float] = []
    for before, after in pairwise(frames):
        same = before.scene == after.scene
        assert not same or before.label == after.label
        assert not np.array_equal(before.image, after.image)
        (within if same else between).append(distance(before.image, after.image))
    assert len(within) == 20 * (FRAMES_PER_SCENE - 1)
    assert 3 * np.mean(within) < np.mean(between)


def test_every_size_shows_the_same_scene() -> None:
    small = pictures(size=32)[0]
    large = Image.fromarray(pictures(size=96)[0]).reduce(3)
    assert 3 * distance(small, np.asarray(large)) < distance(small, pictures(seed=1)[0])


def test_all_toys_are_shown_about_equally_often() -> None:
    labels = [frame.label for frame in shown(SimulatedCamera(size=16, frames=300 * FRAMES_PER_SCENE))]
    counts = [labels.count(name) / FRAMES_PER_SCENE for name in TOY_CLASSES]
    assert sum(counts) == 300
    assert min(counts) >= 5  # of 15


def test_only_the_toys_asked_for_are_shown() -> None:
    labels = {frame.label for frame in shown(SimulatedCamera(classes=["mug", "car"], frames=160))}
    assert labels == {"mug", "car"}


def test_form_alone_tells_toys_apart() -> None:
    for left, right in combinations([grey(name) for name in TOY_CLASSES], 2):
        toys = (left > 0) | (right > 0)
        assert np.mean((left != right)[toys]) > 0.3


def grey(name: str) -> NDArray[np.uint8]:
    """A toy in three greys, upright, on black: (64, 64)."""
    canvas = Image.new("RGB", (64, 64))
    tones: dict[Tone, Colour] = {
        "body": (200, 200, 200),
        "shade": (150, 150, 150),
        "trim": (150, 150, 150),
        "ink": (50, 50, 50),
    }
    draw_toy(ImageDraw.Draw(canvas), name, np.array([[30.0, 0, 32], [0, 30, 32]]), tones)
    return np.asarray(canvas)[:, :, 0]


def test_colour_does_not_give_the_class_away() -> None:
    frames = shown(SimulatedCamera(frames=400 * FRAMES_PER_SCENE))[::FRAMES_PER_SCENE]
    colours = np.stack([frame.image[8:24, 8:24].reshape(-1, 3).mean(axis=0) for frame in frames])
    labels = np.array([frame.label for frame in frames])
    means = np.stack([colours[:200][labels[:200] == name].mean(axis=0) for name in TOY_CLASSES])
    nearest = ((colours[200:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    # Chance is 1 in 20, and it is 0.06.
    assert np.mean(np.array(TOY_CLASSES)[nearest] == labels[200:]) < 0.12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["ball", "unicorn"]}, "unicorn.*ball, block, car"),
        ({"classes": []}, "one or more"),
        ({"classes": ["ball", "ball"]}, "different"),
        ({"size": 8}, "size is 8.*at least 16"),
        ({"frames": -1}, "frames is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"first_scene": -1}, "first_scene is -1"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        SimulatedCamera(**settings)


def test_a_thing_keeps_its_colours_and_its_class_has_its_turn() -> None:
    def frames(**settings: Any) -> list[Frame]:
        camera = SimulatedCamera(classes=["mug", "ball"], frames=64, size=32, **settings)
        return list(iter(camera.next, None))

    shown = frames(stay=4)
    assert [one.label for one in shown] == ["mug"] * 16 + ["ball"] * 16 + ["mug"] * 16 + ["ball"] * 16
    things, others = frames(stay=4, things=True), frames(stay=4)
    hues = [{_hue(one.image) for one in part[:16:4]} for part in (things, others)]
    assert len(hues[0]) < len(hues[1]), "the thing is the same in each scene, a toy is another one"


def _hue(image: np.ndarray[Any, Any]) -> int:
    """Return the commonest strong colour of a picture, coarsely."""
    pixels = image.reshape(-1, 3).astype(int)
    strong = pixels[np.ptp(pixels, axis=1) > 80]
    angles = np.arctan2(np.sqrt(3) * (strong[:, 1] - strong[:, 2]), 2 * strong[:, 0] - strong[:, 1] - strong[:, 2])
    return int(np.bincount(((angles + np.pi) / (2 * np.pi) * 8).astype(int) % 8).argmax()) if len(strong) else -1
