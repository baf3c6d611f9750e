"""How many trials a cluster holds side by side.

A trial's workers are placed by Ray Train, of which Ray Tune knows nothing: too many trials at once would each hold a
part of what they need and wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ray
import ray._private.state

from raycap.config import ConfigError
from raycap.data import usable_cores
from raycap.train import TrainConfig
from raycap.train.checks import worker_device
from raycap.tune.config import SweepConfig

ROUNDING = 1e-6  # of fractions of a GPU


def concurrent_trials(config: SweepConfig, largest: TrainConfig) -> int:
    """As many as fit, or as many as `tune.max_concurrent` asks for.

    Raises:
        ConfigError: more are asked for than fit, or not one fits.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = trials_that_fit(largest, nodes, on_gpu=worker_device(largest) == "cuda")
    wanted = config.tune.max_concurrent
    if grows():
        return wanted or max(1, fit)
    if not fit:
        raise ConfigError(
            f"no trial fits the cluster: train.num_workers={largest.train.num_workers} of "
            f"train.cpus_per_worker={largest.train.cpus_per_worker:g} each"
            f"{', and a CPU to read files' if largest.train.cache == 'disk' else ''}; take fewer of either"
        )
    if wanted > fit:
        raise ConfigError(
            f"tune.max_concurrent={wanted} trials do not fit the cluster at once, which would make them wait for each "
            f"other for ever; it holds {fit} (train.num_workers={largest.train.num_workers}, "
            f"train.cpus_per_worker={largest.train.cpus_per_worker:g}); leave it at 0"
        )
    return wanted or (
        fit if "RAY_ADDRESS" in os.environ else trials_on_cores(largest, fit, cores=usable_cores())
    )


def trials_on_cores(config: TrainConfig, fit: int, *, cores: int) -> int:
    """Of the trials that fit Ray on this machine, as many as its cores hold: a small one claims more than it has.

    Two trials of two threads each on two cores took four times as long as one after the other.
    """
    options = config.train
    return max(1, min(fit, int((cores + ROUNDING) // (options.num_workers * options.cpus_per_worker))))


def trials_that_fit(config: TrainConfig, nodes: Sequence[Mapping[str, float]], *, on_gpu: bool) -> int:
    """Trials whose workers all find room, a CPU left to read files where features come from a disk."""
    options = config.train
    slots = 0
    spare = 1.0 if options.cache == "disk" else 0.0
    for node in sorted(nodes, key=lambda node: -node.get("CPU", 0.0)):
        cpus = node.get("CPU", 0.0) - spare
        spare = 0.0
        fits = (cpus + ROUNDING) // options.cpus_per_worker
        if on_gpu:
            fits = min(fits, gpu_slots(node.get("GPU", 0.0), options.gpus_per_worker))
        slots += max(0, int(fits))
    return slots // options.num_workers


def gpu_slots(gpus: float, share: float) -> int:
    """Workers on a node's GPUs; a part of a GPU is a part of one, never of two."""
    if share < 1:
        return int(gpus) * int((1 + ROUNDING) / share)
    return int((gpus + ROUNDING) // share)


def grows() -> bool:
    """Whether an autoscaler may add nodes."""
    # private, but what Ray Train itself asks; there is no public way to know
    return bool(ray._private.state.state.get_max_resources_from_cluster_config())
