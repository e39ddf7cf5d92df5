"""A simulated camera: toys that move over a cluttered, unevenly lit background. Needs no device and no data.

What is seen is a pure function of the settings, so a run can be repeated bit for bit. Lengths are in units of
the picture's side and times in frames, so every size shows the same scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from broker.errors import SourceError
from robot_edge.sources.frames import NOMINAL_RATE, Frame
from robot_edge.sources.replay import Replay
from robot_edge.sources.toys import TOY_CLASSES, Colour, Tone, draw_toy

FRAMES_PER_SCENE = 4
# Beside the seed, so that the colours of things are drawn apart from scenes.
THINGS = 7
MIN_SIZE = 16  # pixels; in less nobody could name the toys

# How hard it is: a ResNet-18 with a small stem, cut after layer2, got 0.91 (exit) and 0.90 (cloud) of 1,600 frames of
# unseen scenes right after one pass over 6,000 frames of eight toys at 32 pixels, two of them new half way.
_RADIUS = (0.34, 0.44)
_TURN = 0.2  # radians to either side
_TILT = 0.75  # the least height over width of a toy seen at a slant
_CLUTTER = (2, 6)  # things in the background
_OCCLUDED = 0.2  # the share of scenes with something in front of the toy
_DEFOCUS = 0.02  # the widest blur's radius
_NOISE = (2.0, 5.0)  # standard deviation, in steps of 8 bits

_SUPERSAMPLE = 2  # Pillow draws polygons with hard edges
_SHUTTER = 0.5  # the share of the time between two frames in which the shutter is open
_SWAY = 0.08  # how far an unsteady hand moves the picture


class SimulatedCamera(Replay):
    """A FrameSource that draws its frames: scene after scene of one toy before one background.

    classes: which of TOY_CLASSES to show, each as often as any other; None for all.
    frames: how many frames to show; None for a stream without an end.
    size: width and height of a frame in pixels.
    seed, first_scene: scenes are numbered from `first_scene` on, one for every FRAMES_PER_SCENE frames. The same
        seed and number is the same scene; cameras with other seeds or other numbers show other ones.

    stay: scenes in which the same toy is shown before it is the next one's turn; 0 to show them in any order.

    things: each class is one thing, of the same colours whenever it is shown, and not another one in each scene.

    Raises SourceError for settings that no camera can have.
    """

    skipped = 0

    def __init__(
        self,
        *,
        classes: Sequence[str] | None = None,
        frames: int | None = None,
        size: int = 32,
        seed: int = 0,
        first_scene: int = 0,
        stay: int = 0,
        things: bool = False,
    ) -> None:
        self._classes = TOY_CLASSES if classes is None else tuple(classes)
        _check_classes(self._classes)
        if size < MIN_SIZE:
            raise SourceError(f"sim: size is {size}, but toys need at least {MIN_SIZE} pixels to be told apart")
        for name, value in (("frames", frames or 0), ("seed", seed), ("first_scene", first_scene)):
            if value < 0:
                raise SourceError(f"sim: {name} is {value}, but cannot be negative")
        self._frames = frames
        self._size = size
        self._seed = seed
        self._first_scene = first_scene
        self._stay = stay
        self._things = things
        self.position = 0

    @property
    def length(self) -> int | None:
        return self._frames

    @property
    def ended(self) -> bool:
        return self.position == self._frames

    def next(self, timeout: float | None = None) -> Frame | None:
        """Draw the next frame, at once: this camera has no clock. None at the end."""
        if self.position == self._frames:
            return None
        scenes_before, moment = divmod(self.position, FRAMES_PER_SCENE)
        if moment == 0:
            number = self._first_scene + scenes_before
            turn = number // self._stay % len(self._classes) if self._stay else None
            shown = self._classes if turn is None else (self._classes[turn],)
            self._scene = _Scene(number, shown, self._size, np.random.default_rng([self._seed, number]))
            if self._things:
                self._scene.paint(np.random.default_rng([self._seed, THINGS, TOY_CLASSES.index(self._scene.toy)]))
        self.position += 1
        return self._scene.film(moment, (self._first_scene * FRAMES_PER_SCENE + self.position - 1) / NOMINAL_RATE)

    def seek(self, position: int) -> None:
        """Go on behind so many frames. Those before within the scene are drawn, as their noise comes before."""
        if self._frames is not None:
            position = min(position, self._frames)
        self.position = position - position % FRAMES_PER_SCENE
        while self.position < position:
            self.next()


def _check_classes(classes: tuple[str, ...]) -> None:
    unknown = [name for name in classes if name not in TOY_CLASSES]
    if unknown:
        raise SourceError(f"sim: no toy is called {', '.join(unknown)}; there are {', '.join(TOY_CLASSES)}")
    if not classes or len(set(classes)) < len(classes):
        raise SourceError(f"sim: classes are {list(classes)}, but must be one or more different toys")


class _Scene:
    """One toy, one background, one light, and how they move; frames are filmed in order, as the noise is drawn."""

    def __init__(self, number: int, classes: tuple[str, ...], size: int, rng: np.random.Generator) -> None:
        self._number = number
        self._toy = classes[rng.integers(len(classes))]
        self._side = size * _SUPERSAMPLE
        self._rng = rng
        self._backdrop = _backdrop(self._side, rng)
        self._colours = _toy_colours(rng)
        self._light = _light(size, rng)
        self._defocus = ImageFilter.BoxBlur(rng.uniform(0, _DEFOCUS) * size)
        self._noise = np.float32(rng.uniform(*_NOISE))

        # Two instants of each exposure, counted from the middle of the scene's time.
        instants = np.add.outer(np.arange(FRAMES_PER_SCENE), (0, _SHUTTER)).ravel() - FRAMES_PER_SCENE / 2
        self._view = _sway(instants, rng)
        self._poses = _poses(instants, rng)
        self._poses[:, :, 2] -= self._view
        self._occluder = _bar(rng) if rng.random() < _OCCLUDED else None
        self._occluder_colour = _dull(rng)

    @property
    def toy(self) -> str:
        """The class of what is shown."""
        return self._toy

    def paint(self, rng: np.random.Generator) -> None:
        """Give the toy other colours."""
        self._colours = _toy_colours(rng)

    def film(self, moment: int, time: float) -> Frame:
        """Return the frame at `moment`, 0 for the scene's first; `time` is what it says of itself."""
        # What moves while the shutter is open is seen in both places.
        exposure = Image.blend(self._draw(2 * moment), self._draw(2 * moment + 1), 0.5)
        exposure = exposure.reduce(_SUPERSAMPLE).filter(self._defocus)
        image = np.asarray(exposure, dtype=np.float32) * self._light
        image += self._noise * self._rng.standard_normal(image.shape, dtype=np.float32)
        return Frame(image=image.clip(0, 255).astype(np.uint8), label=self._toy, scene=self._number, time=time)

    def _draw(self, instant: int) -> Image.Image:
        view = self._view[instant]
        left, top = np.rint((_SWAY + view) * self._side).astype(int).tolist()
        canvas = self._backdrop.crop((left, top, left + self._side, top + self._side))
        draw = ImageDraw.Draw(canvas)
        draw_toy(draw, self._toy, self._poses[instant] * self._side, self._colours)
        if self._occluder is not None:
            bar = (self._occluder - view) * self._side
            draw.polygon(bar.ravel().tolist(), fill=self._occluder_colour)
        return canvas


def _sway(instants: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how far the camera points off its mean, (instants, 2)."""
    rates = rng.uniform(0.1, 0.5, 2)  # radians per frame
    view: NDArray[np.float64] = _SWAY * np.sin(np.outer(instants, rates) + rng.uniform(0, 2 * pi, 2))
    return view


def _poses(instants: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the affine maps from the toy's unit circle to the scene, (instants, 2, 3)."""
    radius = rng.uniform(*_RADIUS) * (1 + rng.uniform(-0.03, 0.03) * instants)
    angle = rng.uniform(-_TURN, _TURN) + rng.uniform(-0.08, 0.08) * instants
    across = radius * rng.choice([-1.0, 1.0])  # some are mirror images
    down = radius * rng.uniform(_TILT, 1)
    path = rng.uniform(0.4, 0.6, 2) + np.outer(instants, rng.uniform(-0.025, 0.025, 2))
    rows = [
        [across * np.cos(angle), -down * np.sin(angle), path[:, 0]],
        [across * np.sin(angle), down * np.cos(angle), path[:, 1]],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _bar(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the corners, (4, 2), of a bar that runs through the picture at some distance from its middle."""
    angle = rng.uniform(0, 2 * pi)
    across = np.array([cos(angle), sin(angle)])
    along = np.array([-sin(angle), cos(angle)])
    near = rng.uniform(0.05, 0.25)
    far = near + rng.uniform(0.05, 0.15)
    return 0.5 + np.array([near * across - along, near * across + along, far * across + along, far * across - along])


def _backdrop(side: int, rng: np.random.Generator) -> Image.Image:
    """Return clutter for a canvas `side` pixels wide, with a margin of _SWAY all around."""
    # Drawn small and enlarged: quick, and softly out of focus.
    small = side // 2
    extent = 1 + 2 * _SWAY
    picture = Image.new("RGB", (round(extent * small),) * 2, _dull(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(*_CLUTTER)):
        corners = rng.integers(3, 7)
        angles = np.sort(rng.uniform(0, 2 * pi, corners))
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.05, 0.3, (corners, 1))
        outline = (rng.uniform(0, extent, 2) + rays) * small
        draw.polygon(outline.ravel().tolist(), fill=_dull(rng))
    return picture.resize((round(extent * side),) * 2, Image.Resampling.BILINEAR)


def _light(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the light's strength at each pixel, (size, size, 1): a slope and a lamp."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    slope_x, slope_y = rng.uniform(-0.5, 0.5, 2)
    lamp_x, lamp_y = rng.uniform(-0.5, 0.5, 2)
    lamp = np.exp(-((x - lamp_x) ** 2 + (y - lamp_y) ** 2) / 0.1)
    light: NDArray[np.float32] = rng.uniform(0.7, 1.0) + slope_x * x + slope_y * y + rng.uniform(0, 0.4) * lamp
    return light[:, :, None]


def _toy_colours(rng: np.random.Generator) -> dict[Tone, Colour]:
    """Return any bright colours, for any toy: colour must not give the class away."""
    hue, other_hue = rng.random() + np.array([0, rng.uniform(0.25, 0.75)])
    saturation, value = rng.uniform(0.5, 1), rng.uniform(0.65, 1)
    return {
        "body": _colour(hue, saturation, value),
        "shade": _colour(hue, saturation, 0.65 * value),
        "trim": _colour(other_hue, rng.uniform(0.5, 1), rng.uniform(0.65, 1)),
        "ink": (30, 30, 30),
    }


def _dull(rng: np.random.Generator) -> Colour:
    """Return a colour of the room, where toys stand out."""
    return _colour(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.2, 0.8))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
