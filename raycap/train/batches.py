"""From a worker's shard to the windows of batches that one optimizer step takes.

Knows nothing of the model. A shard is anything with Ray Data's `iter_torch_batches`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch

from raycap.schema import CaptionBatch
from raycap.text import pack
from raycap.train.config import TrainOptions

SHUFFLE_SEED = "order"


class Shard(Protocol):
    """A worker's share of a dataset, which can be iterated once an epoch."""

    def iter_torch_batches(self, **options: Any) -> Iterator[Any]:
        """Batches of the share, collated."""


def training_batches(
    shard: Shard,
    collate: Callable[..., Any],
    options: TrainOptions,
    *,
    epoch: int,
    rank: int,
    device: torch.device,
) -> Iterator[CaptionBatch]:
    """One epoch of a worker's share in a random order, in batches of about equal length."""
    pools = shard.iter_torch_batches(
        batch_size=options.batch_size * options.bucket_batches,
        collate_fn=collate,
        local_shuffle_buffer_size=options.shuffle_images or None,
        local_shuffle_seed=options.seed + epoch if options.shuffle_images else None,
        device=device,
    )
    order = random.Random(f"{SHUFFLE_SEED} {options.seed} {epoch} {rank}")
    for pool in pools:
        if options.bucket_batches == 1:
            yield cast(CaptionBatch, pool)
        else:
            yield from regroup(cast(CaptionBatch, pool), size=options.batch_size, order=order)


def plain_batches(
    shard: Shard, collate: Callable[..., Any], *, batch_size: int, device: torch.device
) -> Iterator[CaptionBatch]:
    """A worker's share as it comes, for validation."""
    for batch in shard.iter_torch_batches(batch_size=batch_size, collate_fn=collate, device=device):
        yield cast(CaptionBatch, batch)


def regroup(pool: CaptionBatch, *, size: int, order: random.Random) -> list[CaptionBatch]:
    """Cut a pool into batches of rows of similar length, each trimmed to its longest row, in random order."""
    lengths = (pool["caption_index"] >= 0).sum(dim=1)  # (rows,)
    by_length = lengths.argsort(stable=True)
    widths = lengths[by_length].tolist()  # one wait for the device in a whole pool
    batches = []
    for begin in range(0, len(widths), size):
        rows = by_length[begin : begin + size]
        batches.append(_take(pool, rows, width=max(1, widths[begin : begin + size][-1])))
    order.shuffle(batches)
    return batches


def windows(batches: Iterator[CaptionBatch], *, size: int) -> Iterator[list[CaptionBatch]]:
    """Groups of `size` batches, the last perhaps smaller, and then empty ones for ever.

    A rank that has run out keeps stepping with empty windows until all ranks have.
    """
    window: list[CaptionBatch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    yield window
    while True:
        yield []


def empty_batch(
    *, patches: int, vision_dim: int, start_id: int, end_id: int, device: torch.device
) -> CaptionBatch:
    """One image of zeros with one empty caption: what a rank without data feeds, times zero."""
    packed = pack([[[end_id]]], start_id=start_id, end_id=end_id)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in packed.items()}
    features = torch.zeros(1, patches, vision_dim, dtype=torch.float16, device=device)
    image_key = torch.zeros(1, dtype=torch.int64, device=device)
    return cast(CaptionBatch, {"features": features, "image_key": image_key, **tensors})


def _take(pool: CaptionBatch, rows: torch.Tensor, *, width: int) -> CaptionBatch:
    whole = {"features", "image_key"}
    taken = {
        name: tensor[rows] if name in whole else tensor[rows, :width]  # type: ignore[index]
        for name, tensor in pool.items()
    }
    return cast(CaptionBatch, taken)
