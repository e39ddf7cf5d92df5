"""JPEG and PNG files to pixels, with and without OpenCV."""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import struct
import sys
import zlib
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


@pytest.fixture(params=["opencv", "pillow"])
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OpenCV where it is wanted, and without it."""
    monkeypatch.setattr(encoded, "HAS_OPENCV", request.param == "opencv")


both = pytest.mark.usefixtures("_decoder")
ARROW = np.zeros((16, 24, 3), np.uint8)
ARROW[:8, :8] = (255, 0, 0)
ARROW[:8, 16:] = (0, 255, 0)
# EXIF's orientations: what was done to the upright picture before it was written.
LAID = {
    1: ARROW,
    2: ARROW[:, ::-1],
    3: ARROW[::-1, ::-1],
    4: ARROW[::-1],
    5: ARROW.transpose(1, 0, 2),
    6: np.rot90(ARROW),
    7: ARROW[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(ARROW, -1),
}


@both
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_in_every_viewer(kind: str, orientation: int) -> None:
    if kind == "AVIF" and not encoded.HAS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[encoded.ORIENTATION] = orientation
    # An MPO has two pictures at least, each with its own.
    second = {"save_all": True, "append_images": [smooth(16, 16)]} if kind == "MPO" else {}
    options = {"quality": 95} if kind in {"JPEG", "WEBP", "AVIF", "MPO"} else {}
    shown = encoded.decode(saved(Image.fromarray(LAID[orientation]), kind, exif=exif, **options, **second))
    assert shown.shape == ARROW.shape
    assert np.abs(shown.astype(int) - ARROW).mean() < 8


@both
def test_xmp_turns_a_picture_as_exif_does() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert encoded.decode(saved(Image.fromarray(LAID[6]), "JPEG", xmp=xmp)).shape == ARROW.shape


@both
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff" + bytes(9)])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_leave_a_picture_as_its_pixels_lie(exif: bytes) -> None:
    assert encoded.decode(saved(smooth(8, 16), "JPEG", exif=exif)).shape == (8, 16, 3)


@both
@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_there_is_not_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[encoded.ORIENTATION] = orientation
    assert encoded.decode(saved(smooth(8, 16), "PNG", exif=exif)).shape == (8, 16, 3)


def _cut_out(mode: str) -> Image.Image:
    """Return a red square; around it, where nobody sees them, are random colours."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 12, 4), np.uint8)
    pixels[:, :, 3] = 0
    pixels[4:8, 4:8] = (255, 0, 0, 255)
    image = Image.fromarray(pixels)
    return image.quantize(32) if mode == "P" else image.convert(mode)


@both
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_what_is_transparent_is_white(kind: str) -> None:
    if kind == "AVIF" and not encoded.HAS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    )
    shown = encoded.decode(saved(_cut_out("RGBA"), kind, **options)).astype(int)
    assert (shown[:4] >= 250).all()
    assert np.abs(shown[4:8, 4:8] - (255, 0, 0)).max() < 10


@both
@pytest.mark.parametrize("mode", ["P", "LA"])
def test_a_palette_and_greys_with_transparency_are_over_white_too(mode: str) -> None:
    shown = encoded.decode(saved(_cut_out(mode), "PNG"))
    assert (shown[:4] == 255).all()
    assert (shown[4:8, 4:8] != 255).any()


@both
def test_a_colour_that_stands_for_transparency_is_white_and_half_of_one_is_mixed() -> None:
    plain = Image.new("RGB", (4, 4), (9, 9, 9))
    assert (encoded.decode(saved(plain, "PNG", transparency=(9, 9, 9))) == 255).all()
    half = encoded.decode(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert np.abs(half.astype(int) - 127).max() <= 1


DEEP = np.tile(np.arange(256, dtype=np.uint16), (16, 1))


@both
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_the_picture_in_8_bits(kind: str) -> None:
    shown = encoded.decode(saved(Image.fromarray(DEEP * 257), kind))
    np.testing.assert_array_equal(shown, np.repeat(DEEP[:, :, None], 3, axis=2))


@both
@pytest.mark.parametrize(
    "image",
    [DEEP * 16, DEEP.astype(np.float32) / 255, DEEP.astype(np.int32) * 16],
    ids=["12 bits", "float", "int32"],
)
def test_fewer_bits_of_more_keep_their_contrast(image: np.typing.NDArray[np.generic]) -> None:
    shown = encoded.decode(saved(Image.fromarray(image), "TIFF"))
    assert np.abs(shown.astype(int) - DEEP[:, :, None]).max() <= 1


@both
@pytest.mark.parametrize("scale", [257, 16])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_of_16_bits_a_channel_keeps_its_contrast(scale: int, channels: int) -> None:
    cv2 = pytest.importorskip("cv2")  # Pillow writes none
    colour = np.dstack([DEEP * scale, DEEP[:, ::-1] * scale, DEEP * 0, np.full_like(DEEP, 65_535)])[:, :, :channels]
    written, file = cv2.imencode(".png", colour)
    assert written
    shown = encoded.decode(file.tobytes()).astype(int)
    assert np.abs(shown[:, :, 2] - DEEP).max() <= 1  # OpenCV's first channel is blue
    assert np.abs(shown[:, :, 1] - DEEP[:, ::-1]).max() <= 1
    assert not shown[:, :, 0].any()


@both
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_pictures_the_first_is_shown(kind: str) -> None:
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    shown = encoded.decode(saved(images[0], kind, save_all=True, append_images=images[1:]))
    assert np.abs(shown.astype(int) - (255, 0, 0)).max() < 10


@both
@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_a_tiff_of_any_kind_of_pixels_is_read(mode: str) -> None:
    shown = encoded.decode(saved(Image.new("RGB", (8, 8), "white").convert(mode), "TIFF"))
    assert shown.min() > 250


def _jpeg_of_size(width: int, height: int) -> bytes:
    file = saved(smooth(16, 16), "JPEG")
    at = file.index(b"\xff\xc0") + 5  # start of frame: length, precision, then height and width
    return file[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + file[at + 4 :]


def _png_of_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(99))
    chunks = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _webp_of_size(width: int, height: int, *, simple: bool = False) -> bytes:
    if simple:
        body = b"VP8L" + (9).to_bytes(4, "little") + b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little")
    else:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"VP8X" + (10).to_bytes(4, "little") + b"\x02\0\0\0" + size
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def _tiff_of_tile(width: int, height: int) -> bytes:
    """Return a picture of 16 x 16 pixels in one tile of that size."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height, 324: 8, 325: 10}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + directory


@both
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "file",
    [
        _jpeg_of_size(8001, 8001),
        _jpeg_of_size(10_000, 10_000),
        _jpeg_of_size(65_500, 65_500),
        _png_of_size(8001, 8001),
        _png_of_size(2**31 - 1, 2**31 - 1),
        _webp_of_size(16_383, 16_383),
        _webp_of_size(2**24, 2**24),
        _webp_of_size(16_383, 16_383, simple=True),
        _tiff_of_tile(32_000, 32_000),
        saved(Image.new("1", (1, 1)), "PPM").replace(b"1 1", b"8001 8001"),
        saved(Image.new("RGB", (1, 1)), "BMP").replace(struct.pack("<ii", 1, 1), struct.pack("<ii", 8001, 8001)),
        saved(Image.new("L", (1, 1)), "GIF").replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 9999, 9999)),
    ],
    ids=lambda file: f"{file[:12]!r}, {len(file)}",
)
def test_a_picture_s_size_is_checked_before_a_pixel_is_decoded(file: bytes) -> None:
    assert len(file) < 1500
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(encoded.UNREADABLE, match="limit 64,000,000"):
        encoded.decode(file)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # kB


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "empty file"),
        (b"no picture", "no picture.*JPEG, PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC.*convert it to JPEG"),
    ],
)
def test_what_is_no_picture_says_so_in_words(file: bytes, why: str) -> None:
    with pytest.raises(encoded.UNREADABLE, match=why):
        encoded.decode(file)


@both
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", encoded.FORMATS)
def test_damaged_bytes_raise_nothing_but_what_is_promised(kind: str) -> None:
    file, rng = saved(smooth(16, 16), kind), np.random.default_rng(3)
    for _ in range(150):
        damaged = bytearray(file)
        for at in rng.integers(0, len(file), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        with contextlib.suppress(*encoded.UNREADABLE):
            encoded.decode(bytes(damaged[: rng.integers(len(file) // 2, len(file) + 1)]))


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_jpeg_that_is_cut_off_is_not_readable(share: float) -> None:
    file = saved(smooth(64, 64), "JPEG")
    with pytest.raises(encoded.UNREADABLE):
        encoded.decode(file[: int(share * len(file))])
