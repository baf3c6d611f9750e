"""What training and evaluation read: prepared rows, features (kept or made on the way), batches of them.

Imports Ray: import this after `raycap.data.start_ray` has set its environment.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import ray.data
import ray.train
import torch
from ray.data.collate_fn import NumpyBatchCollateFn

from raycap import storage
from raycap.config import ConfigError, DataConfig
from raycap.data.chunks import Chunk, chunk_rows, drop_rows, image_keys, read_rows
from raycap.data.featurize import (
    FeaturizeConfig,
    FeaturizeOptions,
    choose_encoders,
    chunk_rows_of,
    feature_graph,
    features_folder,
)
from raycap.data.manifest import read_feature_manifest
from raycap.data.splits import split_chunks
from raycap.data.stages import MIRRORED, ROWS_PER_GROUP
from raycap.schema import CaptionBatch
from raycap.text import CaptionTokenizer, pack
from raycap.vision import EncoderConfig, Preprocessor, encoder_fingerprint
from raycap.vision.encoder import find_model

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

Cache = Literal["object_store", "disk", "none"]
ROWS_PER_READ = 128  # of prepared rows
FEATURE_COLUMNS = ("image_id", "split", "features", "captions")
SIDES = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)
KEY_BITS = 63  # of an image key that choose between a photo and its mirror image, one an epoch


def open_rows(path: str, split: str, *, columns: Sequence[str] | None = None, limit: int = 0) -> Dataset:
    """Prepared rows of a split, in order: ImageRow, or the columns asked for.

    Raises:
        ConfigError: no prepared rows there, or none of that split.
    """
    chunks = split_chunks(path, split, limit=limit, max_rows=ROWS_PER_READ)
    with in_order():
        return chunk_rows(chunks, read_rows, columns=None if columns is None else list(columns))


def training_rows(
    split: str,
    *,
    data: DataConfig,
    encoder: EncoderConfig,
    featurize: FeaturizeOptions,
    cache: Cache,
    shuffle_seed: int | None = None,
) -> Dataset:
    """Rows of features and captions (FeatureRow) in small blocks, mirrored features beside them where there are.

    Args:
        split: to read.
        data: prepared rows.
        encoder: whose features.
        featurize: where they are kept, and how they are made.
        cache: object_store holds them in Ray's memory from now on; disk reads the feature files at each pass; none
            decodes and encodes at each pass, in one streaming graph.
        shuffle_seed: another order of the blocks at each pass; None keeps that of the data.

    Raises:
        ConfigError: no such data or encoder, or features that are not made yet.
    """
    config = FeaturizeConfig(data=data, encoder=encoder, featurize=featurize)
    if cache == "none":
        return streamed_features(config, split, shuffle_seed=shuffle_seed)
    with in_order():
        rows = chunk_rows(
            feature_chunks(config, split),
            read_rows,
            shuffle_seed=shuffle_seed if cache == "disk" else None,
            columns=[*FEATURE_COLUMNS, *([MIRRORED] if featurize.mirror and split == "train" else [])],
        )
        if cache == "disk":
            return rows
        return shuffled_blocks(rows.materialize(), seed=shuffle_seed)


def shuffled_blocks(dataset: Dataset, *, seed: int | None) -> Dataset:
    """A materialised dataset that gives its blocks in another order at each pass."""
    if seed is None:
        return dataset
    return dataset.randomize_block_order(seed=ray.data.RandomSeedConfig(seed, reseed_after_execution=True))


def streamed_features(
    config: FeaturizeConfig, split: str, *, shuffle_seed: int | None, skip: frozenset[int] = frozenset()
) -> Dataset:
    """Decode -> encode as a graph that runs anew at each pass, without the image keys to skip."""
    preprocess = Preprocessor.load(find_model(config.encoder.name, config.encoder.revision))
    rows = min(ROWS_PER_GROUP, chunk_rows_of(preprocess, batch_size=config.featurize.batch_size))
    with in_order():
        return feature_graph(
            split_chunks(config.data.path, split, limit=config.data.limit, max_rows=rows),
            config,
            preprocess,
            fingerprint=encoder_fingerprint(config.encoder),
            encoders=choose_encoders(config.featurize),
            names={},
            skip=skip,
            shuffle_seed=shuffle_seed,
        )


def feature_chunks(config: FeaturizeConfig, split: str) -> list[Chunk]:
    """The row groups of a split's feature files, from the manifest alone.

    Raises:
        ConfigError: the features are not made yet, or have no image of that split.
    """
    folder = features_folder(config)
    manifest = read_feature_manifest(folder)
    if manifest is None:
        raise ConfigError(f"no features at {folder}; run `raycap featurize` with the same settings first")
    chunks = [
        Chunk(
            storage.join(folder, split, file.name),
            start // ROWS_PER_GROUP,
            start // ROWS_PER_GROUP,
            0,
            rows,
            start,
        )
        for file in manifest.files.get(split, [])
        for start in range(0, file.rows, ROWS_PER_GROUP)
        for rows in [min(ROWS_PER_GROUP, file.rows - start)]
    ]
    if not chunks:
        raise ConfigError(f"no features of split {split!r} at {folder}: the prepared data has no such images")
    return chunks


def without(dataset: Dataset, seen: Collection[int] | np.ndarray[Any, Any]) -> Dataset:
    """The rows whose image key is not among `seen`, found lazily, by tasks that reserve no CPU."""
    keys = np.asarray(seen if isinstance(seen, np.ndarray) else list(seen), dtype=np.int64)
    return dataset.map_batches(
        drop_rows,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=4),
        fn_kwargs={"seen": keys},
    )


def required_resources(featurize: FeaturizeOptions, cache: Cache) -> dict[str, float]:
    """CPUs and GPUs that reading needs beside the training workers: none from a cache, else encoders and a decoder."""
    if cache != "none":
        return {}
    encoders = choose_encoders(featurize)
    return {"CPU": float(encoders.cpus * encoders.size + 1), "GPU": encoders.gpus * encoders.size}


class CaptionCollate(NumpyBatchCollateFn):  # type: ignore[misc]
    """Rows of features and captions -> schema.CaptionBatch, tensors only, in ordinary memory.

    Where rows have mirrored features, a bit of the image's key says for each epoch which of the two it takes: half
    of the images each, others in every epoch, and the same ones after a resume. Images whose captions tell left
    from right are never mirrored.
    """

    def __init__(self, tokenizer: CaptionTokenizer, *, max_tokens: int, epoch: int = 0) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.epoch = epoch

    def at(self, epoch: int) -> CaptionCollate:
        """The same for another epoch."""
        return CaptionCollate(self.tokenizer, max_tokens=self.max_tokens, epoch=epoch)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> CaptionBatch:
        """Tokenize and pack; tokens beyond max_tokens of a caption are cut."""
        captions = [[str(text) for text in texts] for texts in batch["captions"]]
        flat = [text for texts in captions for text in texts]
        targets = iter(self.tokenizer.targets(flat, max_tokens=self.max_tokens))
        packed = pack(
            [[next(targets) for _ in texts] for texts in captions],
            start_id=self.tokenizer.start_id,
            end_id=self.tokenizer.end_id,
        )
        keys = image_keys(list(batch["image_id"]))  # (batch,)
        features = batch["features"]
        if MIRRORED in batch:
            chosen = (keys >> (self.epoch % KEY_BITS)) & 1  # (batch,)
            mirrored = chosen.astype(bool) & ~np.array([names_a_side(texts) for texts in captions])
            features = np.where(mirrored[:, None, None], batch[MIRRORED], features)
        if not features.flags.writeable:  # a block of Ray's store, which torch cannot share
            features = features.copy()
        tensors = {name: torch.from_numpy(array) for name, array in packed.items()}
        tensors["features"] = torch.from_numpy(features)  # (batch, patches, vision_dim)
        tensors["image_key"] = torch.from_numpy(keys)
        return cast(CaptionBatch, tensors)


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether captions tell left from right, and so would be false of the mirror image."""
    return any(SIDES.search(caption) for caption in captions)


class WholeSplit(ray.train.DataConfig):  # type: ignore[misc]
    """Splits every dataset among the workers without dropping a row.

    Ray's own DataConfig makes the shards equal and drops what is left over. Here a block goes to whoever has the
    fewest rows so far, so shards differ by less than a block; a worker that runs out early must keep step.
    """

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **_: Any,
    ) -> list[dict[str, DataIterator]]:
        """One iterator for each dataset and worker."""
        shards: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            parts = dataset.streaming_split(world_size, equal=False, locality_hints=worker_node_ids)
            for shard, part in zip(shards, parts, strict=True):
                shard[name] = part
        return shards


@contextmanager
def in_order() -> Iterator[None]:
    """Datasets made inside keep the order of their rows (Ray's default gives blocks as they are done)."""
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    with ray.data.DataContext.current(context):
        yield
