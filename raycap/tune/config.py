"""What a sweep is made of: a whole training config, and how its settings are varied."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from raycap.config import Frozen
from raycap.train import TrainConfig

PBT = (
    "tune.algorithm=pbt does nothing over Ray Train in Ray 2.60 (no trial ever takes over another's weights, and no "
    "error says so); take optuna, with tune.scheduler=asha to end poor trials early"
)


class TuneOptions(Frozen):
    """The sweep: what varies, how values are chosen, and which trials are ended early."""

    run: str
    """Folder (or URI) of the sweep: trials, sweep.json, sweep.html, and best, the checkpoint to serve."""
    space: dict[str, Any] = Field(default={})
    """What varies, by dotted setting: choice 4 8 16, grid 16 32, uniform 0 0.3, loguniform 1e-4 1e-2, int 1 8."""
    algorithm: Literal["random", "grid", "optuna"] = "optuna"
    """optuna (TPE) learns from earlier trials; random draws each anew; grid tries all combinations of listed values."""
    trials: int = Field(default=12, ge=1)
    """Trials in all, the preset's own among them; no combination is tried twice, and grid tries all there are."""
    baseline: bool = True
    """The first trial is the preset as it is, run to its end, for the others to be held against."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha ends a trial that is behind after an epoch, by the first metric that train.choose names, or train.metric;
    none lets all run to their end."""
    grace_epochs: int = Field(default=1, ge=1)
    """asha: epochs before a trial may be ended."""
    reduction: int = Field(default=3, ge=2)
    """asha: one in so many trials goes on at each of its rungs (grace_epochs, times this, times this again, ...)."""
    max_concurrent: int = Field(default=0, ge=0)
    """Trials side by side; 0 takes as many as the cluster's CPUs and GPUs hold at once."""
    seed: int = Field(default=0, ge=0)
    """Of what is drawn; the trials' own seed is train.seed."""

    @field_validator("algorithm", mode="before")
    @classmethod
    def _no_pbt(cls, value: Any) -> Any:
        if value == "pbt":
            raise ValueError(PBT)
        return value


class SweepConfig(TrainConfig):
    """A training config and how it is varied."""

    tune: TuneOptions
