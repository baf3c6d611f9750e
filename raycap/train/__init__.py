"""Training on Ray Train: N workers by DDP over cached features, and runs that go on where they stopped.

Knows a model family only by its contract (raycap/models/base.py): `forward(batch)`, `caption(features)`.
"""

from raycap.train.checks import check_resources
from raycap.train.config import OptimConfig, TrackingConfig, TrainConfig, TrainOptions
from raycap.train.launch import TrainingError, fit, resume, train
from raycap.train.record import read_metrics
from raycap.train.rows import Rows, load_rows

__all__ = [
    "OptimConfig",
    "Rows",
    "TrackingConfig",
    "TrainConfig",
    "TrainOptions",
    "TrainingError",
    "check_resources",
    "fit",
    "load_rows",
    "read_metrics",
    "resume",
    "train",
]
