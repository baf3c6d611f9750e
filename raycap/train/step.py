"""One optimizer step over all ranks: the sum of their losses over the number of their tokens.

Knows nothing of data or of files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raycap.schema import CaptionBatch, StepOutput
from raycap.train.collective import sum_over_ranks, world_size


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not finite; the message names the step."""


@dataclass(frozen=True)
class StepTotals:
    """What one optimizer step saw, over all ranks."""

    loss_sum: float
    count: float
    images: int
    gradient_norm: float = 0.0
    logs: dict[str, Tensor] = field(default_factory=dict)  # this rank's, still on the device


def backward_window(
    model: nn.Module, window: Sequence[CaptionBatch], *, empty: CaptionBatch, precision: str
) -> StepTotals:
    """Gradients of the summed loss of every rank's window, averaged over ranks by DDP; returns the totals.

    A rank without a batch takes part with `empty` times zero. Every rank must call it.
    """
    weight = 1.0 if window else 0.0
    batches = list(window) or [empty]
    sums: list[Tensor] = []
    output = StepOutput(loss_sum=torch.zeros(()), count=torch.zeros(()))
    for number, batch in enumerate(batches, start=1):
        with _gradient_sync(model, wanted=number == len(batches)):
            with autocast(batch["features"].device, precision):
                output = model(batch)
            (output.loss_sum * weight).backward()
        sums.append(torch.stack([output.loss_sum.detach().float(), output.count.detach().float()]) * weight)
    images = sum(len(batch["image_key"]) for batch in window)
    loss_and_count = torch.stack(sums).sum(dim=0)  # (2,)
    loss_sum, count, all_images = sum_over_ranks(
        torch.cat([loss_and_count, loss_and_count.new_tensor([images])])
    )
    return StepTotals(loss_sum=loss_sum, count=count, images=int(all_images), logs=output.logs)


def scale_and_clip(parameters: Sequence[nn.Parameter], *, count: float, clip_norm: float) -> float:
    """Turn DDP's mean over ranks of summed losses into the mean over all tokens; clip; returns the norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(gradients, world_size() / max(count, 1.0))
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return float(norm)


def check_finite(totals: StepTotals, *, norm: float, step: int) -> None:
    """Stop a run that has lost its footing, before the optimizer takes the step.

    Raises:
        NonFiniteError: naming the step.
    """
    if not math.isfinite(totals.loss_sum):
        raise NonFiniteError(f"the loss of step {step} is not finite ({totals.loss_sum})")
    if not math.isfinite(norm):
        raise NonFiniteError(
            f"the gradient of step {step} is not finite (its norm is {norm}, the loss still is)"
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 where it is safe, under torch's own rules; float32 changes nothing."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def step_seed(seed: int, *, epoch: int, step: int, rank: int) -> int:
    """Seed of dropout in one step of one rank: the same after a resume, different everywhere else."""
    text = f"{seed} {epoch} {step} {rank}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _gradient_sync(model: nn.Module, *, wanted: bool) -> AbstractContextManager[Any]:
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
