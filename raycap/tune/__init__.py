"""Sweeps: Ray Tune over the same `train()`, trials that share one feature cache, and a report of what mattered.

Knows training by `raycap.train` alone; data is prepared and encoded there, once, before the first trial. Ray is
imported when a sweep starts, after `raycap.data.start_ray` has set its environment.
"""

from raycap.tune.config import SweepConfig, TuneOptions

__all__ = ["SweepConfig", "TuneOptions", "resume", "tune"]


def tune(config: SweepConfig) -> str:
    """Run a sweep; returns its folder: trials, sweep.json, sweep.html and best, a checkpoint to serve.

    Raises:
        ConfigError: something is missing or does not fit, found before anything starts.
        SweepError: not one trial came to a checkpoint.
    """
    from raycap.tune import launch

    return launch.tune(config)


def resume(sweep: str) -> str:
    """Continue a sweep that was killed, with its own settings; returns its folder.

    Raises:
        ConfigError: no sweep there.
        SweepError: as `tune`.
    """
    from raycap.tune import launch

    return launch.resume(sweep)
