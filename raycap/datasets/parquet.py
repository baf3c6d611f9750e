"""Images inside Parquet files, as the Hugging Face hub converts data sets: a struct of `bytes` and `path`."""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import storage
from raycap.config import ConfigError
from raycap.datasets.base import SPLIT_NAMES, RawRecord, bad_line, missing, stem

CAPTION_COLUMN = re.compile(r"captions?|sentences?|text|(caption|text|sentence)_\d+")
SPLIT_IN_NAME = re.compile(r"(?:^|/)(train|val|validation|test)(?=[-_./])")


def parquet_files(folder: str) -> list[str]:
    """Names of every Parquet file below a folder, sorted."""
    return [name for name in storage.list_files(folder) if name.endswith(".parquet")]


def parquet_records(folder: str) -> Iterator[RawRecord]:
    """Records of all rows; only the columns beside the images are read.

    Splits are a column, or else the files' names; names that are all of one split say nothing.

    Raises:
        ConfigError: no Parquet files, or no column of images or captions.
    """
    names = parquet_files(folder)
    if not names:
        raise missing(folder, wanted="*.parquet")
    splits = {name: _split_in_name(name) for name in names}
    for name in names:
        path = storage.join(folder, *name.split("/"))
        with _open(path) as file:
            yield from _file_records(path, file, split=splits[name] if len(set(splits.values())) > 1 else "")


def _split_in_name(name: str) -> str:
    match = SPLIT_IN_NAME.search(name)
    return SPLIT_NAMES[match.group(1)] if match else ""


def _file_records(path: str, file: pq.ParquetFile, *, split: str) -> Iterator[RawRecord]:
    names = file.schema_arrow.names
    captions = [name for name in names if CAPTION_COLUMN.fullmatch(name)]
    if "image" not in names or not captions:
        raise ConfigError(f"{path} has the columns {', '.join(names)}; it needs 'image' and 'caption'")
    columns = captions + [name for name in ("split", "filename", "img_id") if name in names]
    start = 0
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        for row, cells in enumerate(batch.to_pylist(), start=start):
            yield _record(path, row, {"split": split} | cells, captions)
        start += batch.num_rows


def _record(path: str, row: int, cells: dict[str, Any], columns: list[str]) -> RawRecord:
    name = cells.get("filename") or cells.get("img_id") or f"{stem(path)}-{row}"
    if cells["split"] and cells["split"] not in SPLIT_NAMES:
        return bad_line(stem(path), row, f"unknown split {cells['split']!r}")
    captions: list[Any] = []
    for column in columns:
        captions += cells[column] if isinstance(cells[column], list) else [cells[column]]
    return RawRecord(stem(str(name)), SPLIT_NAMES.get(cells["split"], ""), path, captions, row=row)


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
