"""What a cluster has to give, so that stages ask for no more; Ray is imported when asked."""

from __future__ import annotations

from dataclasses import dataclass

from raycap.config import ConfigError
from raycap.data import usable_cores
from raycap.vision import choose_device


@dataclass(frozen=True)
class Pool:
    """Models side by side on a cluster: on what device, how many, and what each reserves."""

    device: str
    size: int
    gpus: float
    cpus: int


def cluster_resources() -> dict[str, float]:
    """CPUs, GPUs and the rest: what the cluster has, or may grow to where an autoscaler runs."""
    import ray
    import ray._private.state

    # private, but what Ray Train itself asks; there is no public way to know an autoscaler's limits
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    present = ray.cluster_resources()
    return {name: max(float(limits.get(name, 0)), present.get(name, 0.0)) for name in {*limits, *present}}


def choose_pool(block: str, model: str, *, device: str, size: int, gpus: float, cpus: int) -> Pool:
    """Device and reservations of `size` models on the cluster at its largest, a CPU left to decode images.

    Args:
        block: of the settings, for messages: featurize or evaluate.
        model: what there are several of, for messages: encoder or engine.
        device: auto takes GPUs where the cluster has them or may start them, else this machine's own.
        size: how many.
        gpus: what each reserves on CUDA.
        cpus: what each reserves; 0 takes one on a GPU, else this machine's cores shared out.

    Raises:
        ConfigError: more GPUs or CPUs than there are.
    """
    total = cluster_resources()
    if device == "auto":
        device = "cuda" if total.get("GPU", 0) >= gpus else choose_device("auto")
    if device == "cuda" and total.get("GPU", 0) < gpus:
        raise ConfigError(
            f"an {model} on CUDA takes {block}.gpus_per_{model}={gpus:g} GPUs and the cluster has "
            f"{total.get('GPU', 0):g}; lower it, or take {block}.device=cpu"
        )
    if device == "cuda":
        return Pool(device, size, gpus, cpus or 1)
    present = int(total.get("CPU", 1))
    share = min(usable_cores(), max(1, present - 1)) // size
    wanted = cpus or max(1, share)
    if wanted * size >= present:
        raise ConfigError(
            f"{size} {model}s of {wanted} CPUs leave none of the cluster's {present} to decode images; "
            f"lower {block}.num_{model}s or {block}.cpus_per_{model}"
        )
    return Pool(device, size, 0.0, wanted)
