"""What the ranks say to each other: sums, and small objects. One process alone needs no group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This process's number; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: torch.Tensor) -> list[float]:
    """The elementwise sum of a vector over all ranks, as floats; every rank must call it."""
    if world_size() == 1:
        return [float(value) for value in values.tolist()]
    total = values.to(device_of_group(), torch.float64)  # so that token counts stay exact
    dist.all_reduce(total)
    return [float(value) for value in total.tolist()]


def device_of_group() -> torch.device:
    """Where tensors must lie that the ranks exchange: NCCL takes this rank's own GPU only, gloo the CPU."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())  # Ray Train has set it to this rank's
    return torch.device("cpu")


def gather(value: T) -> list[T]:
    """Every rank's object on every rank, by rank. For small things: they are pickled, over trusted links.

    torch moves the bytes to the current GPU itself where the group is NCCL's.
    """
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return [found for found in values if found is not None]


def first_error(errors: Sequence[str]) -> str:
    """The first sentence that is not empty, "" when all went well."""
    return next((error for error in errors if error), "")
