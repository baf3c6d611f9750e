"""Training on Ray Train: N workers by DDP over cached features, and runs that go on where they stopped.

Knows a model family only by its contract (raycap/models/base.py): `forward(batch)`, `caption(features)`.
Ray is imported when a run starts, after `raycap.data.start_ray` has set its environment. Sweeps use
`raycap.train.launch.start` over `raycap.train.rows.load_rows`.
"""

from raycap.train.config import OptimConfig, TrackingConfig, TrainConfig, TrainOptions

__all__ = ["OptimConfig", "TrackingConfig", "TrainConfig", "TrainOptions", "resume", "train"]


def train(config: TrainConfig) -> str:
    """Train from the start, making features first where they are missing; returns the run folder.

    Raises:
        ConfigError: something is missing or does not fit, found before anything starts.
        TrainingError: training itself had to stop (a loss that is not finite, workers lost too often).
    """
    from raycap.train import launch

    return launch.train(config)


def resume(run: str) -> str:
    """Continue a run from its newest whole checkpoint, with its own settings; returns the run folder.

    Raises:
        ConfigError: no run there.
        TrainingError: as `train`.
    """
    from raycap.train import launch

    return launch.resume(run)
