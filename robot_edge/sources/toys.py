"""Toys for the simulated camera: each a few flat polygons in the unit circle, x to the right, y down."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

Colour = tuple[int, int, int]
Tone = Literal["body", "shade", "trim", "ink"]
Outline = NDArray[np.float64]  # (corners, 2)


def draw_toy(canvas: ImageDraw.ImageDraw, name: str, pose: NDArray[np.float64], colours: Mapping[Tone, Colour]) -> None:
    """Draw one toy.

    name: one of TOY_CLASSES; anything else is a KeyError.
    pose: (2, 3), the affine map from the toy's unit circle to pixels of the canvas.
    colours: one for each tone. Form alone tells toys apart, so any colours will do.
    """
    tones, corners, ends = _TOYS[name]
    points = (corners @ pose[:, :2].T + pose[:, 2]).ravel().tolist()
    for tone, (start, end) in zip(tones, pairwise(ends), strict=True):
        canvas.polygon(points[2 * start : 2 * end], fill=colours[tone])


def _arc(x: float, y: float, radius: float, start: float = 0, stop: float = 360) -> Outline:
    """Return points on a circle, one about every 20 degrees, clockwise from the right; angles are in degrees."""
    angles = np.radians(np.linspace(start, stop, 1 + round(abs(stop - start) / 20)))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _oval(x: float, y: float, width: float, height: float) -> Outline:
    return _arc(0, 0, 1) * (width, height) + (x, y)


def _band(x: float, y: float, outer: float, inner: float, start: float = 0, stop: float = 360) -> Outline:
    """Return a piece of a ring. A whole one has a seam of no width, and a hole one can see through."""
    return np.concatenate([_arc(x, y, outer, start, stop), _arc(x, y, inner, stop, start)])


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return _path(left, top, right, top, right, bottom, left, bottom)


def _path(*coordinates: float) -> Outline:
    return np.array(coordinates).reshape(-1, 2)


def _half_ray(tip: float, notch: float) -> Outline:
    """From a star's middle to a tip and the notch beside it, both at so many degrees."""
    return np.concatenate([[(0.0, 0.0)], _arc(0, 0, 1, tip, tip), _arc(0, 0, 0.42, notch, notch)])


# Each toy's parts from back to front.
_PARTS: dict[str, list[tuple[Tone, Outline]]] = {
    "ball": [
        ("body", _arc(0, 0, 0.9)),
        *(("trim", _band(0, 0, 0.9, 0, turn, turn + 60)) for turn in (0, 120, 240)),
        ("ink", _arc(0, 0, 0.14)),
    ],
    "block": [
        ("trim", _path(0, -0.95, 0.82, -0.48, 0, 0, -0.82, -0.48)),
        ("body", _path(-0.82, -0.48, 0, 0, 0, 0.95, -0.82, 0.48)),
        ("shade", _path(0.82, -0.48, 0, 0, 0, 0.95, 0.82, 0.48)),
    ],
    "car": [
        ("body", _path(-0.55, -0.05, -0.35, -0.5, 0.3, -0.5, 0.6, -0.05)),
        ("body", _path(-0.97, -0.05, 0.85, -0.05, 0.98, 0.15, 0.98, 0.38, -0.97, 0.38)),
        ("trim", _path(-0.4, -0.08, -0.27, -0.4, -0.04, -0.4, -0.04, -0.08)),
        ("trim", _path(0.06, -0.08, 0.06, -0.4, 0.25, -0.4, 0.45, -0.08)),
        ("ink", _arc(-0.52, 0.38, 0.25)),
        ("ink", _arc(0.52, 0.38, 0.25)),
    ],
    "cone": [
        ("body", _path(-0.12, -0.95, 0.12, -0.95, 0.55, 0.7, -0.55, 0.7)),
        ("trim", _path(-0.2, -0.6, 0.2, -0.6, 0.29, -0.28, -0.29, -0.28)),
        ("trim", _path(-0.38, 0.05, 0.38, 0.05, 0.46, 0.37, -0.46, 0.37)),
        ("shade", _box(-0.8, 0.66, 0.8, 0.88)),
    ],
    "duck": [
        ("trim", _path(0.68, -0.66, 1.05, -0.4, 0.66, -0.22)),
        ("body", _path(-0.98, -0.2, -0.4, 0.1, 0.7, -0.05, 0.8, 0.35, 0.45, 0.75, -0.4, 0.75, -0.8, 0.4)),
        ("body", _arc(0.42, -0.45, 0.38)),
        ("trim", _oval(-0.12, 0.33, 0.46, 0.25)),
        ("ink", _arc(0.52, -0.52, 0.09)),
    ],
    "fish": [
        ("trim", _path(-0.25, 0, -0.98, -0.62, -0.78, 0, -0.98, 0.62)),
        ("body", _oval(0.25, 0, 0.72, 0.5)),
        ("trim", _path(-0.15, -0.42, 0.1, -0.49, 0.1, 0.49, -0.15, 0.42)),
        ("trim", _path(0.32, -0.5, 0.5, -0.47, 0.5, 0.47, 0.32, 0.5)),
        ("ink", _arc(0.72, -0.12, 0.09)),
    ],
    "house": [
        ("shade", _box(0.3, -0.85, 0.52, -0.2)),
        ("body", _box(-0.68, -0.15, 0.68, 0.85)),
        ("trim", _path(-0.92, -0.1, 0, -0.9, 0.92, -0.1)),
        ("ink", _box(-0.48, 0.2, -0.1, 0.85)),
        ("ink", _box(0.15, 0.1, 0.5, 0.45)),
    ],
    "key": [
        ("body", _band(-0.55, 0, 0.42, 0.2)),
        ("body", _box(-0.15, -0.12, 0.97, 0.12)),
        ("body", _box(0.72, 0.1, 0.95, 0.5)),
        ("body", _box(0.38, 0.1, 0.58, 0.4)),
    ],
    "mug": [
        ("shade", _band(0.42, 0.05, 0.5, 0.28)),
        ("body", _box(-0.75, -0.7, 0.42, 0.85)),
        ("trim", _box(-0.75, -0.05, 0.42, 0.35)),
        ("ink", _oval(-0.165, -0.7, 0.585, 0.17)),
    ],
    "ring": [
        ("body", _band(0, 0, 0.95, 0.5)),
        *(("trim", _band(0, 0, 0.95, 0.5, turn, turn + 40)) for turn in (0, 90, 180, 270)),
    ],
    "star": [
        *(("body", _half_ray(tip, tip - 36)) for tip in range(-90, 270, 72)),
        *(("shade", _half_ray(tip, tip + 36)) for tip in range(-90, 270, 72)),
    ],
    "tree": [
        ("ink", _box(-0.13, 0.5, 0.13, 0.97)),
        ("shade", _path(0, -0.25, 0.78, 0.62, -0.78, 0.62)),
        ("body", _path(0, -0.6, 0.62, 0.2, -0.62, 0.2)),
        ("shade", _path(0, -0.97, 0.45, -0.25, -0.45, -0.25)),
    ],
    # Behind the others, whose place decides their colours.
    "arrow": [
        ("body", _path(-0.95, -0.2, 0.1, -0.2, 0.1, -0.65, 0.97, 0, 0.1, 0.65, 0.1, 0.2, -0.95, 0.2)),
        ("trim", _path(-0.95, -0.06, 0.55, -0.06, 0.55, 0.06, -0.95, 0.06)),
    ],
    "boat": [
        ("ink", _box(-0.06, -0.95, 0.06, 0.35)),
        ("trim", _path(0.06, -0.9, 0.78, 0.2, 0.06, 0.2)),
        ("shade", _path(-0.06, -0.65, -0.06, 0.2, -0.6, 0.2)),
        ("body", _path(-0.97, 0.35, 0.97, 0.35, 0.6, 0.85, -0.6, 0.85)),
    ],
    "bottle": [
        ("ink", _box(-0.17, -0.98, 0.17, -0.78)),
        (
            "body",
            _path(
                -0.14, -0.8, 0.14, -0.8, 0.16, -0.35, 0.42, -0.05, 0.42, 0.95, -0.42, 0.95, -0.42, -0.05, -0.16, -0.35
            ),
        ),
        ("trim", _box(-0.42, 0.15, 0.42, 0.65)),
    ],
    "cross": [
        ("body", _box(-0.3, -0.95, 0.3, 0.95)),
        ("body", _box(-0.95, -0.3, 0.95, 0.3)),
        ("trim", _box(-0.3, -0.3, 0.3, 0.3)),
    ],
    "heart": [
        ("body", _arc(-0.43, -0.38, 0.47)),
        ("body", _arc(0.43, -0.38, 0.47)),
        ("body", _path(-0.84, -0.16, 0, -0.4, 0.84, -0.16, 0, 0.95)),
        ("trim", _oval(-0.45, -0.5, 0.17, 0.12)),
    ],
    "hourglass": [
        ("body", _path(-0.6, -0.75, 0.6, -0.75, 0.07, 0, 0.6, 0.75, -0.6, 0.75, -0.07, 0)),
        ("trim", _path(-0.42, 0.72, 0.42, 0.72, 0, 0.3)),
        ("ink", _box(-0.75, -0.95, 0.75, -0.72)),
        ("ink", _box(-0.75, 0.72, 0.75, 0.95)),
    ],
    "mushroom": [
        ("shade", _path(-0.24, 0.05, 0.24, 0.05, 0.34, 0.92, -0.34, 0.92)),
        ("body", _band(0, 0.08, 0.95, 0, 180, 360)),
        ("trim", _arc(-0.45, -0.2, 0.17)),
        ("trim", _arc(0.12, -0.5, 0.2)),
        ("trim", _arc(0.56, -0.12, 0.14)),
    ],
    "rocket": [
        ("shade", _path(-0.28, 0.2, -0.75, 0.75, -0.28, 0.6)),
        ("shade", _path(0.28, 0.2, 0.75, 0.75, 0.28, 0.6)),
        ("trim", _path(-0.18, 0.6, 0.18, 0.6, 0, 0.98)),
        ("body", _path(0, -0.98, 0.26, -0.55, 0.3, 0.1, 0.24, 0.62, -0.24, 0.62, -0.3, 0.1, -0.26, -0.55)),
        ("ink", _arc(0, -0.2, 0.15)),
    ],
}

TOY_CLASSES: tuple[str, ...] = tuple(_PARTS)


def _compile(parts: list[tuple[Tone, Outline]]) -> tuple[list[Tone], Outline, list[int]]:
    """All corners in one array, so that a pose is applied once and not once per part."""
    tones, outlines = zip(*parts, strict=True)
    ends = np.cumsum([0, *(len(outline) for outline in outlines)])
    return list(tones), np.concatenate(outlines), ends.tolist()


_TOYS = {name: _compile(parts) for name, parts in _PARTS.items()}
