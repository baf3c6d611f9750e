"""What a resume needs besides the model: where the run stood, which images it has seen, the optimizer.

Becomes a checkpoint's training state: flat names to tensors, and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycap.checkpoint import TrainingState
from raycap.train.collective import gather
from raycap.train.optim import WeightAverage

COUNTERS = ("epoch", "step", "loss_sum", "count")


@dataclass
class Progress:
    """Where a run stands. Every rank holds the same but for `consumed`, which is its own."""

    epoch: int = 0  # the epoch in progress, from 0
    step: int = 0  # optimizer steps done
    images: int = 0  # images of this epoch seen by all ranks together
    seen: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Keys of this epoch's images that an earlier attempt has seen."""
    consumed: list[Tensor] = field(default_factory=list)
    """Keys that this rank has trained on since, by batch."""
    loss_sum: float = 0.0  # over this epoch's tokens so far
    count: float = 0.0

    def count_step(self, keys: Sequence[Tensor], *, images: int, loss_sum: float, count: float) -> None:
        """An optimizer step is done: this rank's `keys`, and the totals over all ranks."""
        self.step += 1
        self.images += images
        self.loss_sum += loss_sum
        self.count += count
        self.consumed += keys

    def next_epoch(self) -> float:
        """Begin the next epoch, with nothing seen; returns the mean loss per token of the one that ends."""
        mean = self.loss_sum / max(self.count, 1.0)
        self.epoch += 1
        self.images, self.loss_sum, self.count = 0, 0.0, 0.0
        self.seen = np.empty(0, dtype=np.int64)
        self.consumed = []
        return mean

    def seen_by_all(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Keys of this epoch's images that any rank has seen; every rank must call it."""
        own = torch.cat(self.consumed).cpu().numpy() if self.consumed else np.empty(0, dtype=np.int64)
        return np.concatenate([self.seen, *gather(own)])


def pack_state(
    progress: Progress,
    seen: np.ndarray[Any, np.dtype[np.int64]],
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
) -> TrainingState:
    """Everything a resume needs, as flat tensors and JSON."""
    tensors, numbers = flatten(optimizer.state_dict()["state"])
    packed = {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
    if average.average:
        packed |= {f"raw.{name}": tensor.cpu().clone() for name, tensor in average.raw().items()}
    packed["seen"] = torch.from_numpy(seen)
    counters = {name: getattr(progress, name) for name in COUNTERS}
    values = {**counters, "images": len(seen), "optimizer": numbers}
    return TrainingState(tensors=packed, values=values)


def unpack_state(
    state: TrainingState, *, optimizer: torch.optim.Optimizer, average: WeightAverage
) -> Progress:
    """Put a training state back; the model already holds the checkpoint's weights."""
    moments = _below("optimizer.", state.tensors)
    optimizer.load_state_dict(
        {
            "state": unflatten(moments, state.values["optimizer"]),
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    average.reset(_below("raw.", state.tensors))
    seen = state.tensors["seen"].numpy()
    return Progress(seen=seen, **{name: state.values[name] for name in (*COUNTERS, "images")})


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, float]]:
    """Leaves of nested mappings by their path ("0/exp_avg"): tensors (copied to the CPU) and numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            below = flatten(value, f"{prefix}{key}/")
            tensors |= below[0]
            numbers |= below[1]
        elif isinstance(value, Tensor):
            # a copy: 8-bit optimizers share one map between all weights, and safetensors refuses shared memory
            tensors[f"{prefix}{key}"] = value.detach().cpu().clone()
        else:
            numbers[f"{prefix}{key}"] = value
    return tensors, numbers


def unflatten(tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> dict[Any, Any]:
    """What flatten took apart; path parts that are digits become numbers again."""
    tree: dict[Any, Any] = {}
    for path, value in {**tensors, **numbers}.items():
        *parents, leaf = (int(part) if part.isdigit() else part for part in path.split("/"))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
