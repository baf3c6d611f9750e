"""A split of prepared rows: its chunks, and what people wrote about its images; read without Ray or torch."""

from __future__ import annotations

from dataclasses import dataclass

from raycap import storage
from raycap.config import ConfigError
from raycap.data.chunks import Chunk, list_chunks, read_chunk
from raycap.data.manifest import read_data_manifest
from raycap.schema import image_key


@dataclass(frozen=True)
class Reference:
    """What people wrote about an image."""

    image_id: str
    captions: list[str]


def read_references(path: str, split: str, *, limit: int = 0) -> dict[int, Reference]:
    """The captions of a split's images by image_key, in order.

    Raises:
        ConfigError: no prepared rows there, or none of that split.
    """
    found: dict[int, Reference] = {}
    for chunk in split_chunks(path, split, limit=limit, max_rows=1 << 30):
        for row in read_chunk(chunk, columns=["image_id", "captions"]).to_pylist():
            found[image_key(row["image_id"])] = Reference(row["image_id"], row["captions"])
    return found


def split_chunks(path: str, split: str, *, limit: int, max_rows: int) -> list[Chunk]:
    """Chunks of a split's prepared rows.

    Raises:
        ConfigError: no finished rows there, or none of that split.
    """
    counts = read_data_manifest(path).counts
    if not counts.get(split):
        known = ", ".join(name for name, count in counts.items() if count) or "none"
        raise ConfigError(f"no images of split {split!r} at {path}; splits with images: {known}")
    return list_chunks(storage.join(storage.absolute(path), split), max_rows=max_rows, limit=limit)
