"""The optimizer, its learning rates over the run, and the running average of the weights.

Knows nothing of Ray or of batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from raycap.config import ConfigError
from raycap.models import CaptionModel
from raycap.train.config import OptimConfig


def build_optimizer(
    model: CaptionModel, config: OptimConfig, *, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over the family's parameter groups; each keeps its peak rate under "peak".

    Raises:
        ConfigError: a group without a learning rate, nothing to train, or 8-bit where it cannot be had.
    """
    peaks = {"new": config.lr, "lora": config.lora_lr}
    groups = []
    for name, parameters in model.parameter_groups().items():
        if name not in peaks:
            raise ConfigError(f"the model has a parameter group {name!r}; known groups: {', '.join(peaks)}")
        for decay, chosen in _by_decay(parameters).items():
            groups.append({"params": chosen, "name": name, "peak": peaks[name], "lr": peaks[name]})
            groups[-1]["weight_decay"] = config.weight_decay if decay else 0.0
    if not groups:
        raise ConfigError("the model has no trainable parameters; check the settings of the model block")
    if config.optimizer == "adamw_8bit":
        return _adamw_8bit(groups, betas=config.betas, device=device)
    # the fused kernel is one pass over the weights; it exists for these devices
    fused = device.type in {"cuda", "cpu"}
    return torch.optim.AdamW(groups, betas=config.betas, fused=fused)


def learning_rate_scale(config: OptimConfig, *, before: float, after: float, warmup: float) -> float:
    """Share of the peak rate for a step that takes the run from share `before` to `after` of its images.

    The rate follows images rather than steps, so it is the same for any number of workers, after a resume,
    and where the last batches of an epoch are smaller. `warmup` is a share of the run.
    """
    rising = min(1.0, after / warmup) if warmup > 0 else 1.0
    falling = min(1.0, max(0.0, before - warmup) / max(1.0 - warmup, 1e-9))
    cosine = 0.5 * (1.0 + math.cos(math.pi * falling))
    return rising * (config.floor + (1.0 - config.floor) * cosine)


def set_learning_rates(optimizer: torch.optim.Optimizer, *, scale: float) -> dict[str, float]:
    """Set every group to its peak times `scale`; returns the rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


class WeightAverage:
    """An exponential moving average of the trained weights, warmed up as (1 + steps) / (10 + steps).

    The warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=...)`: early weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after optimizer step number `steps`."""
        if self.average:
            weight = 1.0 - min(self.decay, (1.0 + steps) / (10.0 + steps))
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), weight)

    def raw(self) -> dict[str, Tensor]:
        """The weights that the optimizer moves, by name."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def reset(self, raw: dict[str, Tensor]) -> None:
        """Take the model's weights as the average and put `raw` in their place, as a resume does."""
        if not self.average:
            return
        for name, parameter in self.parameters.items():
            self.average[name].copy_(parameter)
            parameter.copy_(raw[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and the raw weights again outside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.average.items():
            raw = self.parameters[name].clone()
            self.parameters[name].copy_(average)
            average.copy_(raw)


def _by_decay(parameters: list[nn.Parameter]) -> dict[bool, list[nn.Parameter]]:
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    return {decay: chosen for decay, chosen in ((True, matrices), (False, vectors)) if chosen}


def _adamw_8bit(
    groups: list[dict[str, object]], *, betas: tuple[float, float], device: torch.device
) -> torch.optim.Optimizer:
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:  # its native library may not load here
        raise ConfigError(
            f"optim.optimizer=adamw_8bit needs bitsandbytes, which does not load here ({error}); use adamw"
        ) from None
    if device.type not in {"cuda", "cpu"}:
        raise ConfigError(f"optim.optimizer=adamw_8bit runs on cuda and cpu, not on {device.type}; use adamw")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, betas=betas)
    return optimizer
