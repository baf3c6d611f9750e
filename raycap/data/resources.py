"""What a cluster has to give, so that stages ask for no more; Ray is imported when asked."""

from __future__ import annotations


def cluster_resources() -> dict[str, float]:
    """CPUs, GPUs and the rest: what the cluster has, or may grow to where an autoscaler runs."""
    import ray
    import ray._private.state

    # private, but what Ray Train itself asks; there is no public way to know an autoscaler's limits
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    present = ray.cluster_resources()
    return {name: max(float(limits.get(name, 0)), present.get(name, 0.0)) for name in {*limits, *present}}
