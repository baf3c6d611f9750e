"""The work of a prepare task: the planned records of a shard -> one Parquet file, and what became of each.

Images are read, checked and written one at a time, so a task holds one row group, whatever the data's size.
Knows nothing of Ray.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raycap import storage
from raycap.data.plan import read_plan
from raycap.datasets import RawRecord, Source
from raycap.schema import IMAGE_SCHEMA, ImageRow, image_key
from raycap.vision.decode import DAMAGED, ORIENTATION, decode_image
from raycap.vision.headers import FORMATS, BadImageError

ROW_GROUP_BYTES = 8 << 20
JPEG_QUALITY = 95
LOSSLESS = {"PNG", "BMP", "GIF", "TIFF"}  # stay lossless when they must be encoded again
READ_TRIES = 3
# One line for each row that was written, and one for each image or caption that was not.
RESULTS = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),  # in the shard's file; -1 where nothing was written
        ("key", pa.int64()),  # of the image id
        ("content", pa.int64()),  # hash of the pixels
        ("captions", pa.int32()),
        ("digest", pa.binary()),  # of the row, for the fingerprint
        ("image_id", pa.string()),
        ("what", pa.string()),  # "image" or "caption", "" for a written row
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
EMPTY = {
    "row": -1,
    "key": 0,
    "content": 0,
    "captions": 0,
    "digest": b"",
    "image_id": "",
    "what": "",
    "reason": "",
}


class Rejection(NamedTuple):
    """Why an image or a caption is left out: a reason to sum up by, and what is special to this one."""

    what: Literal["image", "caption"]
    reason: str
    detail: str = ""


class Made(NamedTuple):
    """A row with the hash of its pixels."""

    row: ImageRow
    content: int


def make_shard(
    plan: str, output: str, *, shard: int, source: Source, short_side: int, max_characters: int
) -> pa.Table:
    """Write the rows of a plan to a Parquet file (none where no row is good) and tell what became of each."""
    results: list[dict[str, Any]] = []
    written = 0
    # Folders are made by the driver: once it has given up, a task that still runs must not bring them back.
    with storage.writing(output, make_folder=False) as stream, RowWriter(stream) as rows:
        for record in read_plan(plan):
            made, rejections = make_row(
                record, source=source, short_side=short_side, max_characters=max_characters
            )
            results += [_rejected(shard, record.image_id, rejection) for rejection in rejections]
            if made is None:
                continue
            results.append(_written(shard, written, made))
            rows.add(made.row)
            written += 1
    if not written:
        storage.remove(output)
    return pa.Table.from_pylist(results, schema=RESULTS)


def write_without(path: str, output: str, *, dropped: dict[int, tuple[str, str]], shard: int) -> pa.Table:
    """Write a shard anew without some rows (row -> reason and detail), and tell their ids and digests."""
    results: list[dict[str, Any]] = []
    fs, inner = storage.filesystem(path)
    numbers = itertools.count()
    with (
        pq.ParquetFile(fs.open_input_file(inner)) as old,
        storage.writing(output, make_folder=False) as stream,
        RowWriter(stream) as rows,
    ):
        for group in range(old.num_row_groups):
            for row in old.read_row_group(group).to_pylist():
                if (number := next(numbers)) not in dropped:
                    rows.add(row)
                    continue
                rejected = _rejected(shard, row["image_id"], Rejection("image", *dropped[number]))
                results.append(rejected | {"captions": len(row["captions"]), "digest": row_digest(row)})
    if next(numbers) == len(dropped):
        storage.remove(output)
    return pa.Table.from_pylist(results, schema=RESULTS)


class RowWriter:
    """Writes rows to a Parquet stream, a row group whenever enough bytes have come together."""

    def __init__(self, stream: pa.NativeFile) -> None:
        # images are compressed already, and statistics of them would be copies of them
        self.file = pq.ParquetWriter(
            stream, IMAGE_SCHEMA, compression="none", use_dictionary=["split"], write_statistics=False
        )
        self.group: list[ImageRow] = []
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()
        self.file.close()

    def add(self, row: ImageRow) -> None:
        """Keep a row until its row group is full."""
        self.group.append(row)
        self.bytes += len(row["image"])
        if self.bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has come together."""
        if self.group:
            self.file.write_table(pa.Table.from_pylist(self.group, schema=IMAGE_SCHEMA))
        self.group, self.bytes = [], 0


def make_row(
    record: RawRecord, *, source: Source, short_side: int, max_characters: int
) -> tuple[Made | None, list[Rejection]]:
    """A record's row, or None, and what is left out of it: the image, or single captions."""
    if not record.path and record.row < 0:
        return None, [Rejection("image", "unusable line", "; ".join(record.problems))]
    if not _is_unicode(record.image_id):
        return None, [Rejection("image", "image id is not valid UTF-8")]
    try:
        data, found = _read(source, record)
        captions, rejections = check_captions(found, max_characters=max_characters)
        rejections += [Rejection("caption", "unusable line", problem) for problem in record.problems]
        if not captions:
            detail = "; ".join(rejection.detail or rejection.reason for rejection in rejections)
            return None, [Rejection("image", "no usable caption", detail)]
        pixels = decode_image(data)
    except FileNotFoundError:
        return None, [Rejection("image", "no such file", record.path)]
    except BadImageError as error:
        return None, [Rejection("image", "cannot be decoded", str(error))]
    except (OSError, ValueError) as error:
        return None, [Rejection("image", "cannot be read", str(error))]
    row = ImageRow(
        image_id=record.image_id,
        split=record.split,
        image=encode_image(data, pixels, short_side=short_side),
        captions=captions,
    )
    return Made(row, content_hash(pixels)), rejections


def _read(source: Source, record: RawRecord) -> tuple[bytes, list[Any]]:
    """Read, again where a disk or network fails for a moment."""
    for attempt in range(1, READ_TRIES + 1):
        try:
            return source.read(record)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError:
            if attempt == READ_TRIES:
                raise
            time.sleep(0.1 * attempt)
    raise AssertionError("unreachable")


def check_captions(captions: Sequence[Any], *, max_characters: int) -> tuple[list[str], list[Rejection]]:
    """The usable captions with their white space collapsed, and why the others are not."""
    good: list[str] = []
    rejections: list[Rejection] = []
    for caption in captions:
        text = " ".join(caption.split()) if isinstance(caption, str) else ""
        if not isinstance(caption, str):
            rejections.append(Rejection("caption", "not text", repr(caption)[:80]))
        elif not text:
            rejections.append(Rejection("caption", "empty"))
        elif "\ufffd" in text or not _is_unicode(text):
            rejections.append(Rejection("caption", "not valid UTF-8", ascii(text)[:80]))
        elif len(text) > max_characters:
            rejections.append(Rejection("caption", f"longer than {max_characters} characters", text[:80]))
        else:
            good.append(text)
    return good, rejections


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False
    return True


def encode_image(data: bytes, pixels: np.ndarray[Any, Any], *, short_side: int) -> bytes:
    """The image as it is kept: the original bytes where they are an upright RGB JPEG or PNG that fits.

    Args:
        pixels: the decoded image, uint8 (height, width, 3).
        short_side: larger images are reduced to it; 0 keeps every size.
    """
    kind, plain = inspect_image(data)
    height, width = pixels.shape[:2]
    shrinks = 0 < short_side < min(height, width)
    if plain and not shrinks:
        return data
    image = Image.fromarray(pixels)
    if shrinks:
        scale = short_side / min(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if kind in LOSSLESS:
        image.save(stream, format="PNG")
    else:
        image.save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def inspect_image(data: bytes) -> tuple[str, bool]:
    """Format of encoded bytes, and whether they are already what a row holds: upright RGB in JPEG or PNG."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            upright = image.getexif().get(ORIENTATION, 1) not in range(2, 9)
            kind = image.format or ""
            return kind, upright and image.mode == "RGB" and kind in ("JPEG", "PNG")
    except DAMAGED:  # the pixels decoded all the same, so they are encoded anew without what is damaged
        return "", False


def content_hash(pixels: np.ndarray[Any, Any]) -> int:
    """Signed 64-bit hash of an image's pixels, the same whatever its metadata or lossless encoding."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest(), "big", signed=True)


def row_digest(row: ImageRow) -> bytes:
    """128-bit digest of all of a row."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        row["image_id"].encode(),
        row["split"].encode(),
        row["image"],
        *map(str.encode, row["captions"]),
    ):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _written(shard: int, number: int, made: Made) -> dict[str, Any]:
    return EMPTY | {
        "shard": shard,
        "row": number,
        "key": image_key(made.row["image_id"]),
        "content": made.content,
        "captions": len(made.row["captions"]),
        "digest": row_digest(made.row),
    }


def _rejected(shard: int, image_id: str, rejection: Rejection) -> dict[str, Any]:
    told = {"image_id": image_id, **rejection._asdict()}
    return EMPTY | {"shard": shard} | {name: _as_unicode(text) for name, text in told.items()}


def _as_unicode(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
