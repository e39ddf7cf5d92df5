"""JPEG and PNG files to pixels, with and without OpenCV."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from robot_edge.sources import encoded


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    "encode",
    [
        lambda image: saved(image, "JPEG"),
        lambda image: saved(image, "JPEG", quality=30, subsampling=1),
        lambda image: saved(image, "JPEG", quality=95, subsampling=0, progressive=True),
        lambda image: saved(image.convert("L"), "JPEG"),
        lambda image: saved(image.convert("CMYK"), "JPEG"),
        lambda image: saved(image, "PNG"),
    ],
    ids=["jpeg", "4:2:2", "progressive", "grey", "cmyk", "png"],
)
def test_opencv_gives_the_pixels_that_pillow_gives(
    encode: Callable[[Image.Image], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = encode(smooth(33, 47))
    with_opencv = encoded.decode(file)
    monkeypatch.setattr(encoded, "HAS_OPENCV", False)
    np.testing.assert_array_equal(with_opencv, encoded.decode(file))
    assert with_opencv.shape == (33, 47, 3)
    assert with_opencv.dtype == np.uint8


@pytest.mark.parametrize("quality", [1, 45, 90])
@pytest.mark.parametrize("dense", [True, False])
def test_opencv_encodes_as_pillow_does(quality: int, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.asarray(smooth(33, 47))
    assert encoded.HAS_OPENCV
    with_opencv = encoded.decode(encoded.encode_jpeg(image, quality, dense=dense))
    monkeypatch.setattr(encoded, "HAS_OPENCV", False)
    np.testing.assert_array_equal(with_opencv, encoded.decode(encoded.encode_jpeg(image, quality, dense=dense)))
    assert np.abs(with_opencv.astype(float) - image).mean() < 5 + 60 / quality


def test_colour_is_as_sharp_as_light_where_it_is_dense() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    back = encoded.decode(encoded.encode_jpeg(stripes, 90, dense=True)).astype(float)
    assert np.abs(back - stripes).mean() < 10
    back = encoded.decode(encoded.encode_jpeg(stripes, 90, dense=False)).astype(float)
    assert np.abs(back - stripes).mean() > 50


def test_an_opencv_as_old_as_that_of_ros_2_humble_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as old:
            old.setitem(sys.modules, "cv2", ModuleType("cv2"))
            importlib.reload(encoded)
            assert not encoded.HAS_OPENCV
            assert encoded.decode(saved(smooth(8, 16), "JPEG")).shape == (8, 16, 3)
    finally:
        importlib.reload(encoded)
    assert encoded.HAS_OPENCV


def test_a_turned_picture_stays_as_its_pixels_lie() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert encoded.decode(saved(smooth(8, 16), "JPEG", exif=turned)).shape == (8, 16, 3)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_jpeg_that_is_cut_off_is_not_readable(share: float) -> None:
    file = saved(smooth(64, 64), "JPEG")
    with pytest.raises(encoded.UNREADABLE):
        encoded.decode(file[: int(share * len(file))])
