"""What an image file says of itself, and what would make its decoder work or allocate without bound.

Looks at headers only. A format is what Pillow's own test of the first bytes says, never a name or a content type,
and the file is then opened as that one format, so a file that is two at once has no second reading.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

import simplejpeg
from PIL import Image

MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535  # JPEG's own limit
MAX_ELONGATION = 100  # a 1 x 3000 strip would become 224 x 672,000 when its short side is resized to 224
# The picture formats people have; Pillow's list also holds document formats that run other programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # JPEG opens MPO too
# A progressive JPEG may have any number of scans, of a few bytes each, and every one walks over all pixels.
MAX_SCANS = 100  # encoders write about ten
# Pillow handles PNG's chunks one by one in Python, and unpacks each of these to as much as 1 MiB when it opens a file.
PACKED = (b"iCCP", b"zTXt", b"iTXt")
MAX_PACKED = 32
MAX_CHUNKS = 50_000  # encoders write 8 KB a chunk, some 1 KB


class BadImageError(ValueError):
    """Bytes that are no usable image; the message is one sentence saying why."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file declares; its pixels may yet turn out damaged."""

    format: str
    """As in FORMATS."""
    width: int
    """Pixels, before it is turned upright; likewise the height."""
    height: int


def identify(data: bytes, *, formats: Collection[str]) -> str:
    """The format of an encoded image, one of `formats`.

    Raises:
        BadImageError: none of FORMATS, or one that is not allowed here.
    """
    Image.init()  # Pillow's plugins, loaded once
    accepts = {name: Image.OPEN[name][1] for name in FORMATS}
    found = next((name for name, accept in accepts.items() if accept and accept(data[:16]) is True), "")
    if not found:
        raise BadImageError(
            f"not an image of a known format (it starts with {data[:8].hex(' ') or 'nothing'})"
        )
    if found not in formats:
        raise BadImageError(f"a {found} image, and allowed are {', '.join(sorted(formats))}; convert it")
    return found


def check_size(width: int, height: int, *, max_pixels: int, max_side: int = MAX_SIDE) -> None:
    """Refuse a picture that is empty, too large or a strip.

    Raises:
        BadImageError: says which.
    """
    if min(width, height) < 1:
        raise BadImageError(f"damaged image: it declares {width} x {height} pixels")
    if width * height > max_pixels:
        raise BadImageError(f"too large: {width} x {height} pixels, the limit is {max_pixels:,} pixels")
    if max(width, height) > max_side:
        raise BadImageError(f"too large: {width} x {height} pixels, the limit of a side is {max_side:,}")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise BadImageError(
            f"too elongated: {width} x {height}, one side over {MAX_ELONGATION} times the other"
        )


def declared_size(data: bytes, *, kind: str) -> tuple[int, int] | tuple[()]:
    """Width and height where they can be read without Pillow; empty where Pillow must look.

    Raises:
        BadImageError: damaged, or made to keep a decoder busy.
    """
    readers = {"JPEG": jpeg_size, "PNG": png_size, "WEBP": webp_size}
    return readers[kind](data) if kind in readers else ()


def jpeg_size(data: bytes) -> tuple[int, int] | tuple[()]:
    """Width and height of a JPEG that libjpeg-turbo takes; empty for one that Pillow must look at.

    Raises:
        BadImageError: more than MAX_SCANS scans.
    """
    scans = data.count(b"\xff\xda")  # compressed data never holds these two bytes: 0xff is stuffed there
    if scans > MAX_SCANS:
        raise BadImageError(
            f"a JPEG of {scans} scans, the limit is {MAX_SCANS}; save it again as baseline JPEG"
        )
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return ()
    return (width, height) if colours in {"RGB", "YCbCr", "Gray"} else ()


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG that has one header and neither very many chunks nor compressed texts.

    Raises:
        BadImageError: damaged, or too many of these.
    """
    position, chunks, packed = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if (kind == b"IHDR") != (position == 8):  # Pillow takes the last one's size
            raise BadImageError("damaged image: a PNG begins with its header and has one only")
        chunks, packed = chunks + 1, packed + (kind in PACKED)
        if chunks > MAX_CHUNKS or packed > MAX_PACKED:
            raise BadImageError(
                f"a PNG of too many chunks, the limit is {MAX_CHUNKS:,} with {MAX_PACKED} compressed texts or "
                "profiles; save it again without metadata"
            )
        if kind == b"IEND":
            break
        position += 12 + length
    if len(data) < 24:
        raise BadImageError("damaged image: a PNG cut short in its header")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP's canvas: Pillow's decoder allocates it as soon as it opens the file.

    Layouts from RFC 9649, sections 2.5 to 2.7 (and RFC 6386, section 9.1, for lossy pictures).

    Raises:
        BadImageError: cut short or damaged.
    """
    kind, head = data[12:16], data[20:30]  # the first chunk's name; its content after four bytes of length
    if kind == b"VP8X" and len(head) == 10:
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8 " and len(head) == 10 and head[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[6:])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(head) >= 5 and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise BadImageError("damaged image: a WebP without a header")
