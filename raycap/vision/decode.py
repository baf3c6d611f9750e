"""Encoded image bytes -> RGB pixels, upright.

JPEG goes through libjpeg-turbo directly (no intermediate picture object); everything else, and every JPEG
that libjpeg-turbo declines, through Pillow. Sizes are checked from the header, before anything is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000
MAX_ELONGATION = 100  # a 1 x 3000 strip would become 224 x 672,000 when its short side is resized to 224
# The picture formats people have; Pillow's list also holds document formats that run other programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # JPEG opens MPO too
ORIENTATION = 0x0112  # EXIF tag
# What Pillow's decoders raise on damaged files, seen by flipping and cutting bytes of each format.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
)


class BadImageError(ValueError):
    """Bytes that are no usable image; the message is one sentence saying why."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF into RGB uint8 (height, width, 3), turned upright.

    Raises:
        BadImageError: not an image, damaged or cut short, more than `max_pixels`, or a strip.
    """
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in {"RGB", "YCbCr", "Gray"}:
                _check_size(width, height, max_pixels)
                pixels = simplejpeg.decode_jpeg(data, "RGB")
                return _upright(pixels, _jpeg_orientation(data))
        except BadImageError:
            raise
        except ValueError:
            pass  # libjpeg-turbo stops at mere warnings too: Pillow decides whether the picture is usable
    return _decode_with_pillow(data, max_pixels)


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            orientation = int(image.getexif().get(ORIENTATION, 1))
            return _upright(_rgb(image), orientation)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(
            f"not an image of a known format (it starts with {data[:8].hex(' ') or 'nothing'})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"too large: {error}") from None
    except DAMAGED as error:
        raise BadImageError(f"damaged image: {error or type(error).__name__}") from None


def _rgb(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """First frame of a picture in any mode, as RGB; transparency is dropped, 16-bit greys become 8-bit."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P":
        image = image.convert("RGBA")  # palettes with transparency must go this way
    return np.array(image.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImageError(f"too large: {width} x {height} pixels, the limit is {max_pixels:,} pixels")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise BadImageError(
            f"too elongated: {width} x {height}, one side over {MAX_ELONGATION} times the other"
        )


def _upright(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Undo an EXIF orientation: 1 is upright, 2-4 mirror or turn by 180 degrees, 5-8 exchange the axes."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _jpeg_orientation(data: bytes) -> int:
    """EXIF orientation of a JPEG, 1 where it has none. Walks the segments before the pixels only."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # start of scan
            return 1
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return _tiff_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    """Orientation in the first directory of a TIFF block (EXIF 2.32, 4.5.4), 1 where absent or malformed."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, at)
        if tag == ORIENTATION:
            return int(value)
    return 1
