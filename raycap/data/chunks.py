"""Parquet files as chunks of rows: the unit that one Ray task reads.

Ray's own Parquet reader starts an actor to read footers and packs files into few blocks, which costs
seconds a pass; here the driver lists the chunks once and each task reads its own row groups. What the
tasks run is here too and needs no torch, so a worker that reads starts in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycap import storage
from raycap.schema import image_key

if TYPE_CHECKING:
    from ray.data import Dataset

FOOTER_THREADS = 16  # reading footers on an object store is waiting, not work
READ_TASKS = 4  # reading row groups reserves no CPU, so this is what bounds the tasks


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file: `rows` of them from `offset` within row groups `first` to `last`."""

    file: str
    first: int
    last: int
    offset: int
    rows: int
    start: int  # first row within the file


def list_files(folder: str) -> list[str]:
    """The Parquet files directly in a folder, sorted by name."""
    return [storage.join(folder, name) for name in storage.list_names(folder) if name.endswith(".parquet")]


def list_chunks(folder: str, *, max_rows: int, limit: int = 0) -> list[Chunk]:
    """Chunks that cover the rows of a folder's files in order; whole row groups where those are small enough.

    Args:
        folder: of Parquet files.
        max_rows: in one chunk.
        limit: rows in all; 0 takes every row.

    Raises:
        ValueError: a file that is no Parquet.
    """
    files = list_files(folder)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        groups = list(pool.map(row_groups, files))
    chunks = [
        chunk
        for file, sizes in zip(files, groups, strict=True)
        for chunk in chunks_of(file, sizes, max_rows=max_rows)
    ]
    return first_rows(chunks, limit) if limit else chunks


def chunks_of(file: str, sizes: Sequence[int], *, max_rows: int) -> Iterator[Chunk]:
    """Chunks of one file whose row groups have these sizes: neighbours joined, large ones cut."""
    group, start = 0, 0
    while group < len(sizes):
        last, rows = group, sizes[group]
        while last + 1 < len(sizes) and rows + sizes[last + 1] <= max_rows:
            last, rows = last + 1, rows + sizes[last + 1]
        for offset in range(0, rows, max_rows):
            size = min(max_rows, rows - offset)
            yield Chunk(file=file, first=group, last=last, offset=offset, rows=size, start=start + offset)
        group, start = last + 1, start + rows


def first_rows(chunks: Sequence[Chunk], limit: int) -> list[Chunk]:
    """The chunks that cover the first `limit` rows, the last one cut."""
    kept: list[Chunk] = []
    for chunk in chunks:
        rows = min(chunk.rows, limit)
        if rows == 0:
            break
        kept.append(replace(chunk, rows=rows))
        limit -= rows
    return kept


def row_groups(file: str) -> list[int]:
    """Rows in each row group of a Parquet file.

    Raises:
        ValueError: not a Parquet file.
    """
    fs, inner = storage.filesystem(file)
    try:
        footer = pq.read_metadata(inner, filesystem=fs)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is damaged or no Parquet file: {error}") from None
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


def read_chunk(chunk: Chunk, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a chunk.

    Raises:
        ValueError: the file is damaged.
    """
    fs, inner = storage.filesystem(chunk.file)
    try:
        with pq.ParquetFile(inner, filesystem=fs) as file:
            table = file.read_row_groups(range(chunk.first, chunk.last + 1), columns=columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{chunk.file} is damaged: {error}") from None
    return table.slice(chunk.offset, chunk.rows)


def chunk_rows(
    chunks: Sequence[Chunk],
    read: Callable[..., pa.Table],
    *,
    shuffle_seed: int | None = None,
    num_cpus: float = 0,
    tasks: int = READ_TASKS,
    **settings: Any,
) -> Dataset:
    """A dataset with one block a chunk, made by `read(table of one chunk, **settings)`.

    Args:
        chunks: at least one.
        read: runs in a Ray task; gets a table whose one row holds a Chunk's fields.
        shuffle_seed: another order of the chunks at each pass; None keeps theirs.
        num_cpus: that a task reserves.
        tasks: at most so many at a time.
        settings: keyword arguments of `read`.
    """
    import ray.data
    from ray.data import RandomSeedConfig, TaskPoolStrategy

    rows = ray.data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks))
    if shuffle_seed is not None:
        rows = rows.randomize_block_order(seed=RandomSeedConfig(shuffle_seed, reseed_after_execution=True))
    return rows.map_batches(
        read,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=num_cpus,
        compute=TaskPoolStrategy(size=min(tasks, len(chunks))),  # Ray warns of a pool larger than its input
        fn_kwargs=settings,
    )


def the_chunk(batch: pa.Table) -> Chunk:
    """The chunk that a task was given."""
    (fields,) = batch.to_pylist()
    return Chunk(**fields)


def read_rows(batch: pa.Table, *, columns: list[str] | None) -> pa.Table:
    """Task: the rows of a chunk."""
    return read_chunk(the_chunk(batch), columns=columns)


def drop_rows(batch: pa.Table, *, seen: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
    """Task: the rows whose image key is not among `seen`."""
    keep = ~np.isin(image_keys(batch["image_id"].to_pylist()), seen)
    return batch.take(pa.array(np.flatnonzero(keep)))


def image_keys(names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Keys of image ids: int64 (images,)."""
    return np.array([image_key(str(name)) for name in names], dtype=np.int64)
