"""One pass over prepared rows: what is kept of each photo and caption, and photos fetched again by their place.

A chunk of photos is in memory at a time; kept are every caption and less than a kilobyte a photo. (A report of 150,000
captions took 0.5 GB in all, most of it to compare them.) Judges nothing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from raycap.data import usable_cores
from raycap.data.chunks import Chunk, read_chunk
from raycap.data.progress import progress
from raycap.vision import BadImageError, decode_image, inspect_image

LOOK_SIDE = 16  # pixels, of the small grey picture that a photo is known again by
DECODED_SIDE = 64  # a JPEG need not be decoded any larger for that
Grey = np.ndarray[Any, np.dtype[np.uint8]]


class Look(NamedTuple):
    """What is kept of a photo. One that cannot be read has no size, and `problem` says why."""

    width: int
    height: int
    num_bytes: int
    content: bytes
    """Hash of the file."""
    hashes: tuple[int, int]
    """Perceptual hashes of 64 bits, of the steps from left to right and from top to bottom."""
    grey: Grey
    """(LOOK_SIDE, LOOK_SIDE)."""
    problem: str = ""


@dataclass(frozen=True)
class Survey:
    """The rows as they were read: a place in every list is an image, `owner` says whose a caption is."""

    image_ids: list[str]
    splits: list[str]
    looks: list[Look]
    captions: list[str]
    owner: np.ndarray[Any, np.dtype[np.int64]]  # (captions,)

    def captions_of(self, image: int) -> list[str]:
        """All captions of an image, in order."""
        first, last = np.searchsorted(self.owner, [image, image + 1])
        return self.captions[first:last]


def survey_rows(chunks: Sequence[Chunk]) -> Survey:
    """Read all rows once, with progress on stderr."""
    image_ids: list[str] = []
    splits: list[str] = []
    looks: list[Look] = []
    captions: list[str] = []
    counts: list[int] = []
    threads = ThreadPoolExecutor(usable_cores())
    with threads as pool, progress("reading photos", total=sum(chunk.rows for chunk in chunks)) as advance:
        for chunk in chunks:
            rows = read_chunk(chunk, columns=["image_id", "split", "image", "captions"])
            looks += pool.map(look_at, rows["image"].to_pylist())
            image_ids += rows["image_id"].to_pylist()
            splits += rows["split"].to_pylist()
            for texts in rows["captions"].to_pylist():
                captions += texts
                counts.append(len(texts))
            advance(chunk.rows)
    owner = np.repeat(np.arange(len(counts)), counts)
    return Survey(image_ids, splits, looks, captions, owner)


def look_at(data: bytes) -> Look:
    """What is kept of an encoded photo."""
    content = hashlib.blake2b(data, digest_size=16).digest()
    nothing = np.zeros((LOOK_SIDE, LOOK_SIDE), dtype=np.uint8)
    try:
        header = inspect_image(data)
        picture = small_grey(data, jpeg=header.format == "JPEG")
    except BadImageError as error:
        return Look(0, 0, len(data), content, (0, 0), nothing, str(error))
    steps = np.asarray(picture.resize((9, 9), Image.Resampling.BOX)).astype(np.int16)
    rightward, downward = np.diff(steps, axis=1)[:8] > 0, np.diff(steps, axis=0)[:, :8] > 0
    hashes = tuple(int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (rightward, downward))
    grey = np.asarray(picture.resize((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX))
    return Look(header.width, header.height, len(data), content, (hashes[0], hashes[1]), grey)


def small_grey(data: bytes, *, jpeg: bool) -> Image.Image:
    """A photo in grey, a JPEG no larger than needed: its decoder scales as it goes.

    Raises:
        BadImageError: damaged.
    """
    if jpeg:
        try:
            grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=DECODED_SIDE, min_width=DECODED_SIDE)
            return Image.fromarray(grey[:, :, 0])
        except ValueError:
            pass  # as in decode_image, Pillow decides whether the picture is usable
    return Image.fromarray(decode_image(data)).convert("L")


def fetch_photos(chunks: Sequence[Chunk], wanted: Collection[int]) -> dict[int, bytes]:
    """Encoded photos by their place among all rows of the chunks."""
    found: dict[int, bytes] = {}
    starts = itertools.accumulate((chunk.rows for chunk in chunks), initial=0)
    for chunk, start in zip(chunks, starts, strict=False):
        here = [place for place in wanted if start <= place < start + chunk.rows]
        if here:
            images = read_chunk(chunk, columns=["image"])["image"]
            found |= {place: images[place - start].as_py() for place in here}
    return found


def shrink(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An encoded photo as RGB (height, width, 3); black where it cannot be read."""
    try:
        return decode_image(data)
    except BadImageError:
        return np.zeros((32, 32, 3), dtype=np.uint8)


def batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Texts in runs of at most `size`."""
    for begin in range(0, len(texts), size):
        yield texts[begin : begin + size]
