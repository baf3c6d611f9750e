"""What must be true before a run starts, each failure one sentence; and how its settings become Ray's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train

from raycap import choosing, metrics, storage
from raycap.config import ConfigError
from raycap.data.loading import required_resources
from raycap.data.manifest import read_data_manifest
from raycap.data.resources import cluster_resources
from raycap.metrics.measure import METEOR, load_meteor
from raycap.train.config import TrainConfig
from raycap.train.tracking import check_tracking
from raycap.vision import choose_device


def check(config: TrainConfig, *, run: str) -> None:
    """Everything that can be known before anything starts.

    Raises:
        ConfigError: what is missing or does not fit, and what to do.
    """
    read_data_manifest(config.data.path)
    config.model.load_tokenizer()
    if config.train.metric not in metrics.NAMES:
        raise ConfigError(f"unknown train.metric {config.train.metric!r}; known: {', '.join(metrics.NAMES)}")
    check_strategy(config.train.strategy)
    check_tracking(config.tracking, run=run)
    check_resources(config, cluster=cluster_resources())


def check_strategy(text: str) -> None:
    """Whether validation measures what the strategy needs.

    Raises:
        ConfigError: it does not, or METEOR's word lists are not to be had.
    """
    measured = (*metrics.NAMES, METEOR, *choosing.LOSSES)
    named = choosing.parse(text).named
    if unmeasured := [name for name in named if name not in measured]:
        raise ConfigError(
            f"train.choose={text} needs {unmeasured[0]}, which validation does not measure; it measures "
            f"{', '.join(measured)}"
        )
    if METEOR in named and (reason := load_meteor().reason):
        raise ConfigError(f"train.choose={text} needs METEOR: {reason}")


def check_resources(config: TrainConfig, *, cluster: dict[str, float]) -> None:
    """Whether the workers, and the data graph beside them, fit the cluster at its largest.

    Raises:
        ConfigError: they do not, and Ray would wait for ever.
    """
    options = config.train
    device = device_on(config, cluster=cluster)
    workers = f"train.num_workers={options.num_workers}"
    gpus, cpus = options.num_workers * options.gpus_per_worker, options.num_workers * options.cpus_per_worker
    if device == "cuda" and gpus > cluster.get("GPU", 0):
        raise ConfigError(
            f"{workers} with train.gpus_per_worker={options.gpus_per_worker:g} need {gpus:g} GPUs "
            f"and the cluster has {cluster.get('GPU', 0):g}; take fewer workers, or train.device=cpu"
        )
    if device == "mps" and options.num_workers > 1:
        raise ConfigError(
            f"{workers} on one Apple GPU: several workers cannot share it; take 1, or train.device=cpu"
        )
    if cpus > cluster.get("CPU", 0):
        raise ConfigError(
            f"{workers} with train.cpus_per_worker={options.cpus_per_worker:g} need {cpus:g} CPUs "
            f"and the cluster has {cluster.get('CPU', 0):g}; take fewer of either"
        )
    beside = required_resources(config.featurize, options.cache)
    taken, wanted = gpus if device == "cuda" else 0.0, beside.get("GPU", 0.0)
    if wanted and taken + wanted > cluster.get("GPU", 0):
        raise ConfigError(
            f"the workers take {taken:g} of {cluster.get('GPU', 0):g} GPUs and train.cache={options.cache} needs "
            f"{wanted:g} beside them to make features while they train; lower featurize.gpus_per_encoder and "
            "train.gpus_per_worker until both fit, or take train.cache=object_store"
        )
    needed = beside.get("CPU", 0.0)
    if cpus + needed > cluster.get("CPU", 0):
        raise ConfigError(
            f"the workers take {cpus:g} of {cluster.get('CPU', 0):g} CPUs and train.cache={options.cache} "
            f"needs {needed:g} beside them to make features while they train; "
            "take fewer workers, or train.cache=object_store"
        )


def worker_device(config: TrainConfig) -> str:
    """What the workers compute on."""
    return device_on(config, cluster=cluster_resources())


def device_on(config: TrainConfig, *, cluster: dict[str, float]) -> str:
    """auto takes CUDA where the cluster has a GPU for every worker, then MPS for one worker, then CPUs."""
    options = config.train
    if options.device != "auto":
        return options.device
    if cluster.get("GPU", 0) >= options.num_workers * options.gpus_per_worker:
        return "cuda"
    here = choose_device("auto")
    return "mps" if here == "mps" and options.num_workers == 1 else "cpu"


def scaling(config: TrainConfig, *, device: str) -> ray.train.ScalingConfig:
    """The workers and what each reserves."""
    options = config.train
    resources: dict[str, Any] = {"CPU": options.cpus_per_worker}
    if device == "cuda":
        resources["GPU"] = options.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=options.num_workers, use_gpu=device == "cuda", resources_per_worker=resources
    )


def backend(config: TrainConfig, *, device: str) -> str:
    """NCCL refuses two ranks on one GPU, gloo takes them."""
    return "nccl" if device == "cuda" and config.train.gpus_per_worker >= 1 else "gloo"


def with_absolute_paths(config: TrainConfig, *, run: str) -> TrainConfig:
    """The config with its local folders made absolute: workers, and later resumes, start elsewhere."""
    document = config.model_dump(mode="json")
    document["train"]["run"] = run
    document["data"]["path"] = storage.absolute(document["data"]["path"])
    document["featurize"]["output"] = storage.absolute(document["featurize"]["output"])
    for block, name in (("encoder", "name"), ("model", "language_model")):
        value = document[block].get(name)  # a folder, or a hub id
        if isinstance(value, str) and Path(value).expanduser().is_dir():
            document[block][name] = storage.absolute(value)
    return TrainConfig.model_validate(document)
