"""What a run reads: training and validation rows as Ray datasets, and the photos to follow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import ray.data

from raycap.checkpoint import EncoderInfo
from raycap.config import ConfigError
from raycap.data.featurize import FeaturizeConfig, encoder_facts, featurize
from raycap.data.loading import (
    open_rows,
    shuffled_blocks,
    streamed_features,
    training_rows,
    without,
)
from raycap.data.manifest import read_data_manifest
from raycap.data.splits import Reference, read_references
from raycap.pages import thumbnail
from raycap.schema import image_key
from raycap.train.config import TrainConfig
from raycap.train.report import Sample
from raycap.vision import decode_image

BLOCKS_PER_WORKER = 4  # shards differ by less than a block
SAMPLES_FROM = 200  # the samples come from this many validation images, so that few photos are read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """What a run reads. Sweeps share one between their trials."""

    train: ray.data.Dataset
    val: ray.data.Dataset | None
    without: Callable[[Collection[int]], ray.data.Dataset]
    """The training rows but for those with these image keys; crosses to Ray Train's controller."""
    num_images: int
    encoder: EncoderInfo
    references: Mapping[int, Sequence[str]]
    samples: Sequence[Sample]
    vocabulary: Sequence[int]
    """The token ids that the training captions use."""


def load_rows(config: TrainConfig) -> Rows:
    """Open the prepared data with its features, which are made where they are missing.

    Raises:
        ConfigError: no prepared data, or no training images in it.
    """
    stage = FeaturizeConfig(data=config.data, encoder=config.encoder, featurize=config.featurize)
    if config.train.cache != "none":
        featurize(stage)
    facts = encoder_facts(stage)
    encoder = EncoderInfo(
        config=config.encoder,
        fingerprint=facts.fingerprint,
        vision_dim=facts.vision_dim,
        patches=facts.patches,
    )
    counts = read_data_manifest(config.data.path).counts
    if not counts.get("train"):
        raise ConfigError(
            f"{config.data.path} has no training images; see its manifest.json, or prepare other data"
        )
    limit = config.data.limit or counts["train"]
    references: dict[int, Reference] = {}
    if counts.get("val"):
        references = read_references(config.data.path, "val", limit=config.data.limit)
    else:
        logger.warning("%s has no validation images: no checkpoint can be the best one", config.data.path)
    train = training_dataset(config)
    return Rows(
        train=train,
        val=whole_dataset(config, "val") if references else None,
        # from a stream, rows are dropped before the encoder sees them
        without=partial(_skipping, stage, _shuffle_seed(config))
        if config.train.cache == "none"
        else partial(without, train),
        num_images=min(limit, counts["train"]),
        encoder=encoder,
        references={key: list(reference.captions) for key, reference in references.items()},
        samples=choose_samples(config, references),
        vocabulary=caption_vocabulary(config),
    )


def caption_vocabulary(config: TrainConfig) -> list[int]:
    """The token ids that the training captions use."""
    found = read_references(config.data.path, "train", limit=config.data.limit)
    captions = [caption for reference in found.values() for caption in reference.captions]
    return config.model.load_tokenizer().vocabulary(captions, max_tokens=config.train.max_tokens)


def training_dataset(config: TrainConfig) -> ray.data.Dataset:
    """The training rows, their blocks in another order every epoch."""
    if config.train.cache == "object_store":
        return shuffled_blocks(whole_dataset(config, "train"), seed=_shuffle_seed(config))
    return _reader(config, "train")()


def whole_dataset(config: TrainConfig, split: str) -> ray.data.Dataset:
    """The rows of a split; in memory in blocks enough to share out among the workers."""
    dataset = _reader(config, split, shuffled=False)()
    if config.train.cache != "object_store":
        return dataset
    enough = BLOCKS_PER_WORKER * config.train.num_workers
    if dataset.num_blocks() >= enough or config.train.num_workers == 1:
        return dataset
    return dataset.repartition(min(enough, dataset.count())).materialize()


def training_feature_rows(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Every training row once, in order, for a family's `finish`; called in a worker."""
    cache: Literal["disk", "none"] = "none" if config.train.cache == "none" else "disk"
    rows = training_rows(
        "train", data=config.data, encoder=config.encoder, featurize=config.featurize, cache=cache
    )
    yield from rows.iter_rows()


def choose_samples(config: TrainConfig, references: Mapping[int, Reference]) -> list[Sample]:
    """Photos spread over the first validation images; the same ones whenever the run is resumed."""
    wanted = config.train.num_samples
    if not wanted or not references:
        return []
    searched = min(SAMPLES_FROM, config.data.limit or SAMPLES_FROM, len(references))
    rows = open_rows(config.data.path, "val", columns=["image_id", "image"], limit=searched).take_all()
    rows.sort(key=lambda row: str(row["image_id"]))
    chosen = rows[:: max(1, len(rows) // wanted)][:wanted]
    return [
        Sample(
            key=image_key(row["image_id"]),
            image_id=row["image_id"],
            photo=thumbnail(decode_image(row["image"])),
            references=list(references[image_key(row["image_id"])].captions),
        )
        for row in chosen
    ]


def _reader(config: TrainConfig, split: str, *, shuffled: bool = True) -> Callable[..., ray.data.Dataset]:
    return partial(
        training_rows,
        split,
        data=config.data,
        encoder=config.encoder,
        featurize=config.featurize,
        cache=config.train.cache,
        shuffle_seed=_shuffle_seed(config) if shuffled else None,
    )


def _shuffle_seed(config: TrainConfig) -> int | None:
    return config.train.seed if config.train.shuffle_images else None


def _skipping(stage: FeaturizeConfig, shuffle_seed: int | None, seen: Collection[int]) -> ray.data.Dataset:
    return streamed_features(stage, "train", shuffle_seed=shuffle_seed, skip=frozenset(seen))
