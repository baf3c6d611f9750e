"""Ray Data stages (prepare, featurize, loading), and the one place that starts Ray.

Nothing is imported here but the standard library, so that Ray sees the environment `start_ray` sets.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

MIN_CPUS = 4  # two training workers, a controller and Ray Data's tasks; fewer and they wait for each other
SMALL_MACHINE_CORES = 8
FORWARDED = ("RAYCAP_", "HF_", "WANDB_")


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (in a job Ray sets it), or start one on this machine.

    Does nothing where Ray is already running in this process. RAYCAP_DEBUG=1 keeps Ray's own messages.
    """
    remote = "RAY_ADDRESS" in os.environ
    for name, value in environment_defaults(cores=usable_cores(), remote=remote).items():
        os.environ.setdefault(name, value)  # workers see only what is set before ray.init

    import ray
    import ray.data

    quiet = not os.environ.get("RAYCAP_DEBUG")
    if quiet:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "progress bars disabled"
        context = ray.data.DataContext.get_current()
        context.print_on_execution_start = False
        context.enable_progress_bars = False  # each command shows its own, with the time left
    if ray.is_initialized():
        return
    level = logging.WARNING if quiet else logging.INFO
    if remote:
        ray.init(logging_level=level, log_to_driver=not quiet, **driver_environment())
        return
    ray.init(
        address="local",
        num_cpus=max(usable_cores(), MIN_CPUS),
        include_dashboard=True,  # Tune and the Jobs API need it
        logging_level=level,
        log_to_driver=not quiet,  # workers' own lines are in Ray's log files; raycap's progress comes another way
    )


def environment_defaults(*, cores: int, remote: bool) -> dict[str, str]:
    """What Ray reads from the environment, for a user who has set nothing."""
    defaults = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not remote:
        # A cluster of this process alone. Otherwise Ray writes a token into the home folder, and every Ray
        # started there afterwards silently asks for it.
        defaults["RAY_AUTH_MODE"] = "disabled"
        if cores <= SMALL_MACHINE_CORES:
            defaults["RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"] = "1"  # 32 actors start in seconds, not at once
    return defaults


def forwarded_environment() -> dict[str, str]:
    """Settings that the user made in the driver's environment and the workers need."""
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    if os.environ.get("RAYCAP_PLUGINS") and os.environ.get("PYTHONPATH"):
        forwarded["PYTHONPATH"] = os.environ["PYTHONPATH"]  # plugins are imported by name
    return forwarded


def driver_environment() -> dict[str, Any]:
    """What a driver outside the cluster tells ray.init; a submitted job has a runtime environment already."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    return {"runtime_env": {"env_vars": forwarded_environment()}}


def usable_cores() -> int:
    """Cores this process may use: its CPU affinity, and the container's quota where there is one."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores
