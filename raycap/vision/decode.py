"""Encoded image bytes -> RGB pixels, upright.

JPEG goes through libjpeg-turbo directly (no intermediate picture object); everything else, and every JPEG
that libjpeg-turbo declines, through Pillow. Sizes are checked from the header, before anything is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from raycap.vision.headers import (
    FORMATS,
    MAX_PIXELS,
    MAX_SIDE,
    BadImageError,
    ImageHeader,
    check_size,
    declared_size,
    identify,
)

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
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
)


def inspect_image(
    data: bytes,
    *,
    formats: Collection[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
) -> ImageHeader:
    """Format and size from an image's header; no pixel is decoded or allocated.

    Raises:
        BadImageError: not an image, not one of `formats`, empty, more than `max_pixels`, a side above `max_side`, or
            a strip. What passes may yet turn out damaged in `decode_image`.
    """
    kind = identify(data, formats=formats)
    size = declared_size(data, kind=kind)
    if not size:
        with _opened(data, kind) as image:
            size = image.size
    check_size(*size, max_pixels=max_pixels, max_side=max_side)
    return ImageHeader(kind, *size)


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF into RGB uint8 (height, width, 3), turned upright.

    Raises:
        BadImageError: not an image, not one of `formats`, damaged or cut short, more than `max_pixels`, or a strip.
    """
    kind = identify(data, formats=formats)
    size = declared_size(data, kind=kind)
    if size:  # Pillow allocates a WebP's canvas, and unpacks a PNG's texts, as soon as it opens the file
        check_size(*size, max_pixels=max_pixels)
    if size and kind == "JPEG":
        try:
            return _upright(simplejpeg.decode_jpeg(data, "RGB"), _jpeg_orientation(data))
        except ValueError:
            pass  # libjpeg-turbo stops at mere warnings too: Pillow decides whether the picture is usable
    with _opened(data, kind) as image:
        check_size(*image.size, max_pixels=max_pixels)
        orientation = int(image.getexif().get(ORIENTATION, 1))
        return _upright(_rgb(image), orientation)


@contextmanager
def _opened(data: bytes, kind: str) -> Iterator[Image.Image]:
    """The image as Pillow opens it, as `kind` and nothing else; what it raises then and later is a BadImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"not an image: it begins as a {kind} and is none") from None
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
