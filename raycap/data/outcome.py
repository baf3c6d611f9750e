"""What became of every record of a prepare run, and which images stand in two splits.

Holds some thirty bytes an image (hashes, not rows), and the rejected records, whose share is bounded.
"""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycap import storage
from raycap.data.plan import Shard, shard_path

RANKS = {"test": 0, "val": 1, "train": 2}  # who keeps an image that stands in two splits: the smaller
FINGERPRINT_BITS = 128
KINDS = ("image", "caption")

Index = np.ndarray[Any, np.dtype[np.int64]]


class Rejected(NamedTuple):
    """A line of rejected.jsonl, with the shard it would have been in."""

    shard: int
    image_id: str
    what: str
    reason: str
    detail: str


class Outcome:
    """Counts, hashes and rejections, gathered shard by shard in any order."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self.planned = sum(shard.images for shard in shards)
        self.images: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()
        self.rejected: list[Rejected] = []
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.digests = 0
        self._places: list[dict[str, Index]] = []

    def add(self, results: pa.Table) -> int:
        """Take in the results of a shard; returns how many images they are about."""
        written = results.filter(pa.compute.equal(results["what"], ""))
        self._places.append({name: written[name].to_numpy() for name in ("shard", "row", "key", "content")})
        self._count(written, sign=1)
        return len(written) + self._reject(results)

    def remove(self, results: pa.Table) -> int:
        """Take out rows that were written and dropped again; returns how many."""
        self._count(results, sign=-1)
        return self._reject(results)

    def _count(self, rows: pa.Table, *, sign: int) -> None:
        for shard, captions, digest in zip(
            rows["shard"].to_pylist(), rows["captions"].to_pylist(), rows["digest"].to_pylist(), strict=True
        ):
            self.images[self.shards[shard].split] += sign
            self.captions[self.shards[shard].split] += sign * captions
            self.digests += sign * int.from_bytes(digest, "big")

    def _reject(self, results: pa.Table) -> int:
        lines = results.filter(pa.compute.not_equal(results["what"], "")).select(Rejected._fields).to_pylist()
        for line in lines:
            self.rejected.append(Rejected(**line))
            self.reasons[line["what"], line["reason"]] += 1
        return sum(line["what"] == "image" for line in lines)

    @property
    def fingerprint(self) -> str:
        """Of the rows' content, whatever their order: the sum of their digests."""
        return f"{self.digests % 2**FINGERPRINT_BITS:032x}"

    def rejected_lines(self) -> str:
        """rejected.jsonl, the same whatever the order in which shards were made."""
        ordered = sorted(self.rejected)
        return "".join(json.dumps(self._line(item), ensure_ascii=False) + "\n" for item in ordered)

    def _line(self, item: Rejected) -> dict[str, str]:
        return {
            "image_id": item.image_id,
            "split": self.shards[item.shard].split,
            "what": item.what,
            "reason": item.reason,
            "detail": item.detail,
        }

    def duplicates(self, work: str) -> dict[int, dict[int, tuple[str, str]]]:
        """Rows to drop, by shard: row -> (reason, detail).

        Of images with one id the one in test stays before one in val, before one in train, before a later one
        of the same split. Of equal pictures with different ids only those in different splits are dropped.
        """
        place = {name: np.concatenate([part[name] for part in self._places]) for name in ("shard", "row")}
        key, content = (np.concatenate([part[name] for part in self._places]) for name in ("key", "content"))
        rank = np.array([RANKS[shard.split] for shard in self.shards])[place["shard"]]
        order = (place["row"], place["shard"], rank)
        dropped: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
        image_ids = functools.lru_cache(maxsize=64)(lambda shard: self._image_ids(work, shard))

        def drop(loser: int, winner: int, reason: str) -> None:
            same = (
                "the same split" if rank[loser] == rank[winner] else self.shards[place["shard"][winner]].split
            )
            detail = f"image {image_ids(place['shard'][winner])[place['row'][winner]]}"
            dropped[int(place["shard"][loser])][int(place["row"][loser])] = (f"{reason} {same}", detail)

        losers, winners = _repeated(key, order)
        for loser, winner in zip(losers, winners, strict=True):
            drop(loser, winner, "same id as an image in")
        alive = np.setdiff1d(np.arange(len(key)), losers)
        again, kept = _repeated(content[alive], tuple(part[alive] for part in order))
        for loser, winner in zip(alive[again], alive[kept], strict=True):
            if rank[loser] > rank[winner]:
                drop(loser, winner, "same picture as an image in")
        return dict(dropped)

    def _image_ids(self, work: str, shard: int) -> list[str]:
        fs, inner = storage.filesystem(shard_path(work, self.shards[shard]))
        with pq.ParquetFile(fs.open_input_file(inner)) as file:
            return list(file.read(columns=["image_id"]).column("image_id").to_pylist())

    def rejected_counts(self) -> dict[str, Any]:
        """How much was left out, by reason with the most frequent first, and one example."""
        number = {what: sum(n for (kind, _), n in self.reasons.items() if kind == what) for what in KINDS}
        example = min(self.rejected, default=None)
        return {
            "images": number["image"],
            "captions": number["caption"],
            "reasons": {f"{what}: {reason}": n for (what, reason), n in self.reasons.most_common()},
            "example": f"{example.image_id} ({example.detail or example.reason})" if example else "",
        }


def _repeated(value: Index, order: tuple[Index, ...]) -> tuple[Index, Index]:
    """Positions whose value came before in the order, each with the first position of that value."""
    positions = np.lexsort((*order, value))
    ordered = value[positions]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    heads = positions[np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))]
    return positions[~first], heads[~first]
