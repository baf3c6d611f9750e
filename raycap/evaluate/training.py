"""What a checkpoint was trained on, as far as it is still there: captions, and each photo's nearest training photo.

Said of nothing that is absent but why. Ray is imported inside functions: a command sets its environment first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raycap import storage
from raycap.checkpoint import EncoderInfo
from raycap.config import ConfigError, DataConfig
from raycap.data.featurize import FeaturizeConfig, FeaturizeOptions, features_folder
from raycap.data.manifest import read_data_manifest, read_feature_manifest
from raycap.data.splits import read_references
from raycap.engine import moved_encoder
from raycap.metrics.baselines import nearest

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingSet:
    """Where a run's training images lie."""

    data: DataConfig
    featurize: FeaturizeOptions


def find_training(folder: str, data: DataConfig) -> TrainingSet:
    """The run's own data and features by its config.yaml, else the evaluated data and the usual place.

    Args:
        folder: of the checkpoint, RUN/checkpoints/step-...
        data: the evaluated rows.
    """
    import yaml

    run = folder.rpartition("/")[0].removesuffix("/checkpoints")
    try:
        document = yaml.safe_load(storage.read_bytes(storage.join(run, "config.yaml")))
        found = TrainingSet(
            DataConfig.model_validate(document["data"]),
            FeaturizeOptions.model_validate(document.get("featurize") or {}),
        )
        read_data_manifest(found.data.path)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # a checkpoint that was moved away
        return TrainingSet(data, FeaturizeOptions())
    return found


def training_captions(training: TrainingSet) -> list[list[str]]:
    """What people said of the training images; empty where there are none."""
    try:
        found = read_references(training.data.path, "train", limit=training.data.limit)
    except ConfigError:  # rows to evaluate on and none to train on
        return []
    return [reference.captions for reference in found.values()]


def training_features(training: TrainingSet, encoder: EncoderInfo, *, moved_to: str = "") -> FeaturizeConfig:
    """Settings under which the training split's features are found.

    Raises:
        ConfigError: they are not there, or another encoder's.
    """
    config = FeaturizeConfig(
        data=training.data,
        encoder=moved_encoder(encoder.config, moved_to),
        featurize=training.featurize,
    )
    place = features_folder(config, fingerprint=encoder.fingerprint)
    manifest = read_feature_manifest(place)
    if manifest is None or not manifest.counts.get("train"):
        raise ConfigError(
            f"there are no features of training photos at {place}; `raycap featurize` makes them"
        )
    return config


def nearest_captions(config: FeaturizeConfig, queries: Features) -> list[str]:
    """The first caption of the training photo most like each query; queries are mean features (images, vision_dim)."""
    from raycap.data.chunks import chunk_rows
    from raycap.data.loading import feature_chunks, in_order

    captions: list[str] = []
    features: list[Features] = []
    with in_order():
        rows = chunk_rows(feature_chunks(config, "train"), mean_features)
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            captions += batch["caption"].to_pylist()
            features.append(_mean_column(batch))
    known = np.concatenate(features).astype(np.float64)
    return [captions[row] for row in nearest(queries.astype(np.float64), known).tolist()]


def mean_features(batch: pa.Table) -> pa.Table:
    """The first caption and the mean feature of each row of a chunk of feature files."""
    from raycap.data.chunks import read_chunk, the_chunk
    from raycap.data.stages import tensor_column

    rows = read_chunk(the_chunk(batch), columns=["captions", "features"])
    means = tensor_column(rows, "features").astype(np.float32).mean(axis=1)  # (rows, vision_dim)
    first = [captions[0] for captions in rows["captions"].to_pylist()]
    return pa.table({"caption": pa.array(first, pa.string()), "mean": list_column(means)})


def list_column(rows: Sequence[Any] | npt.NDArray[Any]) -> pa.Array:
    """Vectors as a column."""
    return pa.array(list(rows), pa.list_(pa.float32()))


def _mean_column(table: pa.Table) -> Features:
    return np.array(table["mean"].to_pylist(), dtype=np.float32)
