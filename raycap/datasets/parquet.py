"""Images inside Parquet files, as the Hugging Face hub converts data sets: a struct of `bytes` and `path`."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import storage
from raycap.config import ConfigError
from raycap.datasets.base import SPLIT_NAMES, RawRecord, bad_line, missing, stem

CAPTION_COLUMNS = ("caption", "captions", "sentences", "text")


def parquet_files(folder: str) -> list[str]:
    """Every Parquet file below a folder, sorted."""
    names = (name for name in storage.list_files(folder) if name.endswith(".parquet"))
    return [storage.join(folder, *name.split("/")) for name in names]


def parquet_records(folder: str) -> Iterator[RawRecord]:
    """Records of all rows; only the columns beside the images are read.

    Raises:
        ConfigError: no Parquet files, or no column of images or captions.
    """
    files = parquet_files(folder)
    if not files:
        raise missing(folder, wanted="*.parquet")
    for path in files:
        with _open(path) as file:
            yield from _file_records(path, file)


def _file_records(path: str, file: pq.ParquetFile) -> Iterator[RawRecord]:
    names = file.schema_arrow.names
    caption = next((name for name in CAPTION_COLUMNS if name in names), "")
    if "image" not in names or not caption:
        wanted = f"'image' and one of {', '.join(CAPTION_COLUMNS)}"
        raise ConfigError(f"{path} has the columns {', '.join(names)}; it needs {wanted}")
    columns = [name for name in (caption, "split", "filename", "img_id") if name in names]
    start = 0
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        for row, cells in enumerate(batch.to_pylist(), start=start):
            yield _record(path, row, cells, caption)
        start += batch.num_rows


def _record(path: str, row: int, cells: dict[str, Any], caption: str) -> RawRecord:
    name = cells.get("filename") or cells.get("img_id") or f"{stem(path)}-{row}"
    split = cells.get("split", "")
    if split and split not in SPLIT_NAMES:
        return bad_line(stem(path), row, f"unknown split {split!r}")
    captions = cells[caption] if isinstance(cells[caption], list) else [cells[caption]]
    return RawRecord(stem(str(name)), SPLIT_NAMES.get(split, ""), path, captions, row=row)


def read_parquet_image(record: RawRecord) -> bytes:
    """Encoded image of a record.

    Raises:
        OSError: the file cannot be read.
        ValueError: the row holds no bytes.
    """
    group, offset = _locate(record.path, record.row)
    cell = _images(record.path, group)[offset].as_py()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise ValueError("the row holds no image bytes")
    return data


def _open(path: str) -> pq.ParquetFile:
    fs, inner = storage.filesystem(path)
    return pq.ParquetFile(fs.open_input_file(inner))


@functools.lru_cache(maxsize=64)
def _group_starts(path: str) -> tuple[int, ...]:
    with _open(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return tuple(itertools.accumulate(sizes, initial=0))[:-1]


def _locate(path: str, row: int) -> tuple[int, int]:
    """Row group of a row, and the row's place in it."""
    starts = _group_starts(path)
    group = bisect.bisect_right(starts, row) - 1
    return group, row - starts[group]


@functools.lru_cache(maxsize=1)  # records come in file order, so a row group is read once and one is held
def _images(path: str, group: int) -> pa.ChunkedArray:
    with _open(path) as file:
        return file.read_row_group(group, columns=["image"]).column("image")
