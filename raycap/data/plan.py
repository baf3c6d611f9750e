"""The plan of a prepare run: a source's records by split, in one file for each Parquet file to be made.

Listing a source streams: no more than one shard of each split is held. Knows nothing of Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from raycap import storage
from raycap.datasets import RawRecord

PLANS = "plan"


class Shard(NamedTuple):
    """A planned Parquet file."""

    split: str
    name: str  # of its file below the split, without suffix: part-00003
    images: int


def plan_path(work: str, shard: Shard) -> str:
    """Path of a shard's records."""
    return storage.join(work, PLANS, f"{shard.split}-{shard.name}.jsonl")


def shard_path(work: str, shard: Shard, *, suffix: str = "") -> str:
    """Path of a shard's Parquet file."""
    return storage.join(work, shard.split, f"{shard.name}{suffix}.parquet")


def write_plans(records: Iterable[RawRecord], work: str, *, rows_per_shard: int, limit: int) -> list[Shard]:
    """Write the records of every shard, and make the folders of the shards.

    Args:
        records: with a split each.
        limit: images of each split; 0 takes all.
    """
    waiting: dict[str, list[RawRecord]] = defaultdict(list)
    taken: Counter[str] = Counter()
    made: Counter[str] = Counter()
    shards: list[Shard] = []

    def flush(split: str) -> None:
        shards.append(Shard(split, f"part-{made[split]:05d}", len(waiting[split])))
        if not made[split]:
            storage.make_folder(storage.join(work, split))
        made[split] += 1
        write_plan(plan_path(work, shards[-1]), waiting.pop(split))

    for record in records:
        if 0 < limit <= taken[record.split]:
            continue
        taken[record.split] += 1
        waiting[record.split].append(record)
        if len(waiting[record.split]) == rows_per_shard:
            flush(record.split)
    for split in list(waiting):
        flush(split)
    return shards


def write_plan(path: str, records: Sequence[RawRecord]) -> None:
    """Keep a shard's records for the task that will make it."""
    lines = (json.dumps(record) + "\n" for record in records)
    storage.write_bytes(path, "".join(lines).encode())


def read_plan(path: str) -> Iterator[RawRecord]:
    """A shard's records."""
    for line in storage.read_bytes(path).splitlines():
        yield RawRecord(*json.loads(line))


def with_split(
    records: Iterable[RawRecord], *, seed: int, val_share: float, test_share: float
) -> Iterator[RawRecord]:
    """Records that all have a split; one that has none gets it from its image id and the seed alone."""
    for record in records:
        if not record.split:
            record = record._replace(
                split=seeded_split(record.image_id, seed=seed, val_share=val_share, test_share=test_share)
            )
        yield record


def seeded_split(image_id: str, *, seed: int, val_share: float, test_share: float) -> str:
    """Split of an image whose source has none."""
    digest = hashlib.blake2b(f"{seed}:{image_id}".encode(errors="replace"), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < test_share:
        return "test"
    return "val" if share < test_share + val_share else "train"
