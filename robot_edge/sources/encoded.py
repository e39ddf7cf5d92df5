"""A picture's file as pixels, as a viewer shows it, and pixels as a JPEG file."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from robot_edge.sources.deep_pixels import to_eight_bits
from robot_edge.sources.frames import MAX_PIXELS, Pixels, check_size

try:
    import cv2
    from cv2 import (
        IMREAD_COLOR_RGB,
        IMWRITE_JPEG_SAMPLING_FACTOR,
        IMWRITE_JPEG_SAMPLING_FACTOR_420,
        IMWRITE_JPEG_SAMPLING_FACTOR_444,
    )

    HAS_OPENCV = True
except ImportError:  # of the extra `camera`; or one as old as ROS 2 Humble's, without these
    HAS_OPENCV = False

HAS_AVIF = importlib.util.find_spec("PIL.AvifImagePlugin") is not None and features.check("avif")  # Pillow 11.3

# What a file of each of these formats is usually called. Pillow's other decoders, of which it has forty, get no chance
# at a file of unknown origin.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # mpo: two in one, of cameras with two lenses
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    **({"AVIF": (".avif",)} if HAS_AVIF else {}),
}
FORMATS = tuple(SUFFIXES)
# Pillow raises SyntaxError for some broken PNGs and ValueError for some broken headers.
UNREADABLE = (OSError, SyntaxError, ValueError)
# A picture's file is read whole. None that is shown is larger, as four channels of 16 bits are all that it may have.
MAX_BYTES = 8 * MAX_PIXELS
# Pictures larger than this take OpenCV and Pillow the same time.
SMALL = 200_000
# Where Pillow leaves what may say how a picture is to be turned, and what to do for each of EXIF's orientations (CIPA
# DC-008, "Orientation"). 1 is upright.
METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
ORIENTATION, UPRIGHT = 0x0112, 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's names for pixels of more than 8 bits, and for those with an alpha channel.
DEEP, WITH_ALPHA = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"), ("RGBA", "LA", "PA", "RGBa", "La")
# PNG's 16 bits a channel, most significant byte first, of which Pillow takes the first byte; what takes the second.
DEEP_COLOUR = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
# Pillow shows these formats' 16 bits as int32.
WIDENED = ("PNG", "PPM")
TILE_WIDTH, TILE_HEIGHT = 322, 323  # TIFF 6.0, section 15

# What is wrong with a picture is in the error. Pillow would write it to the terminal as well, for harmless things too.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(encoded: bytes) -> Pixels:
    """Return uint8 (height, width, 3) as a viewer shows it: upright, over white where it is transparent.

    Of an animation, and of a file of several pages, it is the first picture. More than 8 bits become 8 with their
    contrast kept. Its size is checked before a pixel is decoded. Raises one of UNREADABLE.
    """
    try:
        return _decode(encoded)
    except UNREADABLE:
        raise
    except Exception as error:  # a decoder's own, of damaged bytes: Pillow promises no type
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=64)  # the frames in a memory share a few
def check_jpeg_size(head: bytes, size: int) -> None:
    """Raise one of UNREADABLE unless a JPEG's head, all up to its pixels, is that of size x size pixels."""
    with Image.open(io.BytesIO(head), formats=("JPEG",)) as image:
        if image.size != (size, size):
            raise ValueError(f"a frame of {image.size} pixels where {size} x {size} are kept")


def decode_own_jpeg(encoded: bytes) -> Pixels:
    """Return what ``encode_jpeg`` encoded, in half of decode's time: its size was checked. Raises one of UNREADABLE."""
    pixels = _by_opencv(encoded)
    return decode(encoded) if pixels is None else pixels


def _decode(encoded: bytes) -> Pixels:
    with _opened(encoded) as image:
        check_size(*image.size)
        if image.format == "TIFF":  # a tile may be larger than its picture, and is decoded whole
            check_size(image.tag_v2.get(TILE_WIDTH, 1), image.tag_v2.get(TILE_HEIGHT, 1))  # type: ignore[attr-defined]
        if _is_plain_jpeg(image, len(encoded)) and (pixels := _by_opencv(encoded)) is not None:
            return pixels
        if image.format == "PNG" and image.tile[0][3] in DEEP_COLOUR:
            lower = _lower_bits(image, encoded)
            image.load()
            return _pixels(_turned(_with_lower_bits(image, lower), _orientation(image)), "PNG")
        image.load()
        return _pixels(_turned(image, _orientation(image)), image.format)


def _opened(encoded: bytes) -> ImageFile.ImageFile:
    """Read the header. Raises one of UNREADABLE."""
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise ValueError(f"a picture of {int(pixels[0]) if pixels else 0:,} pixels, limit {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        if not encoded:
            raise ValueError("an empty file") from None
        if encoded[4:8] == b"ftyp":  # ISO 14496-12: what phones write, and videos
            raise ValueError("a HEIC picture or a video: convert it to JPEG") from None
        raise ValueError(f"no picture, or a damaged one; read are {', '.join(FORMATS)}") from None


def _is_plain_jpeg(image: Image.Image, size: int) -> bool:
    """Whether OpenCV decodes it as Pillow does: no CMYK, which the two convert differently, and nothing to turn."""
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and size <= SMALL
    return is_plain and not any(name in image.info for name in METADATA)


def _by_opencv(jpeg: bytes) -> Pixels | None:
    """Return Pillow's pixels in a quarter of its time: for small pictures 5 % of a training step on them.

    None where OpenCV is not there, or cannot read it: Pillow says in words why.
    """
    if not HAS_OPENCV:
        return None
    plain = IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), plain)
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return how EXIF or XMP say that a picture is to be turned. Pillow has turned a TIFF by itself."""
    if image.format == "TIFF" or not any(name in image.info for name in METADATA):
        return UPRIGHT
    try:
        return int(image.getexif().get(ORIENTATION, UPRIGHT))
    except Exception:  # damaged metadata, for which Pillow promises no type, leave a picture that can be seen
        return UPRIGHT


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _pixels(image: Image.Image, file_format: str | None) -> Pixels:
    if image.mode in DEEP:
        deep = np.asarray(image)
        grey = to_eight_bits(deep.astype(np.uint16) if image.mode == "I" and file_format in WIDENED else deep)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _lower_bits(image: ImageFile.ImageFile, encoded: bytes) -> Pixels:
    """Return the lower 8 bits of a PNG in colour with 16 bits a channel, of which Pillow decodes the upper ones.

    A camera's 12 bits in 16 would be nearly black without them.
    """
    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as lower:
        codec, extents, offset, raw = image.tile[0]
        lower.tile = [(codec, extents, offset, DEEP_COLOUR[str(raw)])]  # type: ignore[list-item]
        return np.asarray(lower)


def _with_lower_bits(image: Image.Image, lower: Pixels) -> Image.Image:
    upper = np.asarray(image)
    deep = upper[:, :, :3].astype(np.uint16) << 8 | lower[:, :, :3]
    return Image.fromarray(np.dstack([to_eight_bits(deep), upper[:, :, 3:]]))


def encode_jpeg(image: Pixels, quality: int, *, dense: bool) -> bytes:
    """Return image, uint8 (height, width, 3), as JPEG.

    dense: with colour at every pixel, as light; at a quarter of them otherwise, as cameras have it.
    """
    if HAS_OPENCV:  # four times as fast, for small pictures
        sampling = IMWRITE_JPEG_SAMPLING_FACTOR_444 if dense else IMWRITE_JPEG_SAMPLING_FACTOR_420
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if done:
            return encoded.tobytes()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:4:4" if dense else "4:2:0")
    return file.getvalue()
