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


def resume(sweep: str, **changes: int) -> str:
    """Continue a sweep that was killed, or go on with one that is over; returns its folder.

    Args:
        sweep: its folder, whose settings it keeps.
        changes: but for these of its tune block: trials and max_concurrent may differ from now on.

    Raises:
        ConfigError: no sweep there, or one that does not fit its trials.
        SweepError: as `tune`.
    """
    from raycap.tune import launch

    return launch.resume(sweep, **changes)
