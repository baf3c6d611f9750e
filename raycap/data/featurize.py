"""`raycap featurize`: every prepared image goes through the frozen encoder once, and its features are kept.

The folder is keyed by all that features depend on, so the same request finds them, and another never does.
The work is cut into chunks of rows, one file each, written whole or not at all; an interrupted run goes on
with the chunks that have no file yet. Ray is imported inside functions: a command sets its environment first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import raycap
from raycap import storage
from raycap.config import ConfigError, DataConfig, Frozen
from raycap.data.chunks import FOOTER_THREADS, Chunk, list_chunks, read_chunk, row_groups
from raycap.data.manifest import (
    MANIFEST,
    FeatureFile,
    FeatureManifest,
    read_data_manifest,
    read_feature_manifest,
)
from raycap.data.progress import progress, say
from raycap.data.resources import Pool, choose_pool
from raycap.schema import SPLITS
from raycap.vision import EncoderConfig, Preprocessor, VisionEncoder, encoder_fingerprint
from raycap.vision.encoder import find_model

if TYPE_CHECKING:
    from ray.data import Dataset

# Of the feature files; part of the key, so that an interrupted run never goes on in another layout.
LAYOUT = 1
CHUNK_PIXEL_BYTES = 32 << 20  # features of a chunk are up to four times its pixels
CHUNK_ROWS = 256  # at most


class FeaturizeOptions(Frozen):
    """How and where features are made."""

    output: str = "features"
    """Folder (or URI) under which feature folders lie, one for each data, encoder and limit."""
    mirror: bool = False
    """Keep features of training photos' mirror images; an epoch takes half (none whose captions name a side)."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """What encoders compute on; auto takes GPUs that the cluster has or may start, else this machine's own."""
    batch_size: int = Field(default=32, ge=1)
    """Images an encoder takes at a time."""
    num_encoders: int = Field(default=1, ge=1)
    """Encoders side by side, each an actor with the model loaded."""
    gpus_per_encoder: float = Field(default=1.0, gt=0)
    """GPUs, or a part of one, that an encoder on CUDA reserves."""
    cpus_per_encoder: int = Field(default=0, ge=0)
    """CPUs an encoder reserves and computes with; 0: one on a GPU, else this machine's cores shared out."""


class FeaturizeConfig(Frozen):
    """Everything features depend on, and how they are made."""

    data: DataConfig
    encoder: EncoderConfig
    featurize: FeaturizeOptions = FeaturizeOptions()


@dataclass(frozen=True)
class EncoderFacts:
    """What a model needs to know of the encoder whose features it reads."""

    fingerprint: str
    patches: int
    vision_dim: int


def featurize(config: FeaturizeConfig) -> str:
    """Make the features that `config` asks for, or what is missing of them, and give their folder.

    Raises:
        ConfigError: no prepared data, no such encoder, or a device this cluster does not have.
        ValueError: an image that cannot be read, named.
    """
    fingerprint = encoder_fingerprint(config.encoder)
    folder = features_folder(config, fingerprint=fingerprint)
    if read_feature_manifest(folder) is not None:
        say(f"features are already made: {folder}")
        return folder
    preprocess = Preprocessor.load(find_model(config.encoder.name, config.encoder.revision))
    work = plan(config, folder, chunk_rows=chunk_rows_of(preprocess, batch_size=config.featurize.batch_size))
    left = [item for item in work if not item.done]
    if len(left) < len(work):
        say(f"going on with {len(left):,} of {len(work):,} feature files in {folder}")
    encoders = choose_encoders(config.featurize)
    leftovers = other_files(folder, work)
    shapes = set()
    with progress("featurize", total=sum(item.chunk.rows for item in left)) as advance:
        for made in run_graph(left, config, preprocess, fingerprint=fingerprint, encoders=encoders):
            shapes.add((made["patches"], made["vision_dim"]))
            advance(made["rows"])
    for file in leftovers:
        storage.remove(file)
    publish(config, folder, work, facts=facts_of(work, shapes, fingerprint))
    return folder


def features_folder(config: FeaturizeConfig, *, fingerprint: str = "") -> str:
    """Where the features that `config` asks for lie, or would.

    Raises:
        ConfigError: no prepared data, no such encoder.
    """
    data = read_data_manifest(config.data.path)
    parts = {
        "layout": LAYOUT,
        "data": data.fingerprint,
        "encoder": fingerprint or encoder_fingerprint(config.encoder),
        "limit": config.data.limit,
    }
    if config.featurize.mirror:
        parts["mirror"] = True
    if config.data.limit:
        # the first rows are others in another order, which has the same fingerprint
        parts["files"] = data.files
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    return storage.join(storage.absolute(config.featurize.output), key)


def encoder_facts(config: FeaturizeConfig) -> EncoderFacts:
    """Fingerprint and shape of the features: from their manifest, else from the encoder itself, loaded once.

    Raises:
        ConfigError: no prepared data, no such encoder.
    """
    fingerprint = encoder_fingerprint(config.encoder)
    manifest = read_feature_manifest(features_folder(config, fingerprint=fingerprint))
    if manifest is not None:
        return EncoderFacts(fingerprint, manifest.patches, manifest.vision_dim)
    encoder = VisionEncoder(config.encoder, device="cpu")
    return EncoderFacts(fingerprint, encoder.patches, encoder.vision_dim)


@dataclass(frozen=True)
class WorkItem:
    """One chunk of prepared rows and the feature file it becomes."""

    split: str
    chunk: Chunk
    file: str
    done: bool


def plan(config: FeaturizeConfig, folder: str, *, chunk_rows: int) -> list[WorkItem]:
    """All chunks of all splits, in order, with what is already there.

    A file that an earlier run left is done only where it holds the chunk's images: the data may have been
    prepared again since, the same rows in other files, and its fingerprint does not tell.

    Raises:
        ConfigError: the prepared rows are not those their manifest counts.
    """
    path, limit = storage.absolute(config.data.path), config.data.limit
    counts = read_data_manifest(path).counts
    items = []
    for split in SPLITS:
        chunks = list_chunks(storage.join(path, split), max_rows=chunk_rows, limit=limit)
        expected, found = counts.get(split, 0), sum(chunk.rows for chunk in chunks)
        if found != (min(expected, limit) if limit else expected):
            raise ConfigError(
                f"{path} counts {expected} images of {split} and its files hold {found}; "
                "run `raycap prepare` again"
            )
        there = set(storage.list_names(storage.join(folder, split)))
        names = [f"part-{index:05d}.parquet" for index in range(len(chunks))]
        files = [storage.join(folder, split, name) for name in names]
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            done = pool.map(holds, files, [name in there for name in names], chunks)
            items += [WorkItem(split, *parts) for parts in zip(chunks, files, done, strict=True)]
    return items


def holds(file: str, there: bool, chunk: Chunk) -> bool:
    """Whether a feature file is there and of a chunk's images, in their order."""
    if not there:
        return False
    try:
        sizes = row_groups(file)
    except ValueError:  # damaged, so it is made again
        return False
    if sum(sizes) != chunk.rows:
        return False
    whole = Chunk(file, first=0, last=len(sizes) - 1, offset=0, rows=chunk.rows, start=0)
    made, prepared = (read_chunk(part, columns=["image_id"])["image_id"] for part in (whole, chunk))
    return bool(made.to_pylist() == prepared.to_pylist())


def other_files(folder: str, work: Sequence[WorkItem]) -> list[str]:
    """What does not belong there: left by a run that was killed while writing, or of data in more files."""
    wanted = {item.file for item in work}
    paths = [storage.join(folder, split) for split in SPLITS]
    files = [storage.join(path, name) for path in paths for name in storage.list_names(path)]
    return [file for file in files if file not in wanted]


def chunk_rows_of(preprocess: Preprocessor, *, batch_size: int) -> int:
    """Rows of a chunk, by what their pixels take in memory; whole batches, and at least one."""
    height, width = preprocess.output_size
    rows = min(CHUNK_ROWS, CHUNK_PIXEL_BYTES // (3 * height * width))
    return max(batch_size, rows // batch_size * batch_size)


def choose_encoders(options: FeaturizeOptions) -> Pool:
    """Device and reservations of the encoders.

    Raises:
        ConfigError: more GPUs or CPUs than the cluster has.
    """
    return choose_pool(
        "featurize",
        "encoder",
        device=options.device,
        size=options.num_encoders,
        gpus=options.gpus_per_encoder,
        cpus=options.cpus_per_encoder,
    )


def run_graph(
    work: list[WorkItem],
    config: FeaturizeConfig,
    preprocess: Preprocessor,
    *,
    fingerprint: str,
    encoders: Pool,
) -> Iterator[dict[str, Any]]:
    """Decode, encode and write; gives what was written, chunk by chunk, as each is done.

    Raises:
        ValueError: an image that cannot be read, named.
    """
    if not work:
        return
    from ray.exceptions import RayTaskError

    from raycap.data.stages import chunk_name, write_chunk

    names = {chunk_name(item.chunk): item.file for item in work}
    features = feature_graph(
        [item.chunk for item in work],
        config,
        preprocess,
        fingerprint=fingerprint,
        encoders=encoders,
        names=names,
    )
    written = features.map_batches(write_chunk, batch_size=None, batch_format="pyarrow")
    try:
        for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause).splitlines()[0]) from None  # Ray adds advice of its own
        raise


def feature_graph(
    chunks: list[Chunk],
    config: FeaturizeConfig,
    preprocess: Preprocessor,
    *,
    fingerprint: str,
    encoders: Pool,
    names: dict[str, str],
    skip: frozenset[int] = frozenset(),
    shuffle_seed: int | None = None,
) -> Dataset:
    """The streaming graph from prepared chunks to features: CPU tasks decode, a pool of actors encodes."""
    import ray.data
    from ray.data import ActorPoolStrategy

    from raycap.data.chunks import chunk_rows
    from raycap.data.stages import EncodeChunk, decode_chunk

    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = None  # a chunk stays one block from end to end
    context.raise_original_map_exception = True  # so that an image's name reaches the user
    with ray.data.DataContext.current(context):
        pixels = chunk_rows(
            chunks,
            decode_chunk,
            shuffle_seed=shuffle_seed,
            num_cpus=1,
            # No limit but the chunks; a number unlike the pool's keeps Ray from fusing the two stages.
            tasks=max(1, len(chunks) - (len(chunks) == encoders.size)),
            preprocess=preprocess,
            names=names,
            skip=skip,
        )
        return pixels.map_batches(
            EncodeChunk,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=encoders.cpus,
            num_gpus=encoders.gpus or None,
            compute=ActorPoolStrategy(size=encoders.size),
            fn_constructor_kwargs={
                "encoder": located(config.encoder).model_dump(mode="json"),
                "fingerprint": fingerprint,
                "device": encoders.device,
                "batch_size": config.featurize.batch_size,
                "mirror": config.featurize.mirror,
                "threads": encoders.cpus,
            },
        )


def located(encoder: EncoderConfig) -> EncoderConfig:
    """The same encoder with a local folder made absolute: workers have another working directory."""
    folder = Path(encoder.name).expanduser()
    name = str(folder.absolute()) if folder.is_dir() else encoder.name
    return EncoderConfig.model_validate({**encoder.model_dump(), "name": name})


def facts_of(work: list[WorkItem], shapes: set[tuple[int, int]], fingerprint: str) -> EncoderFacts:
    """Shape of the features, read from a file where this run made none.

    Raises:
        ConfigError: no images at all.
    """
    if not work:
        raise ConfigError("there are no prepared images to encode")
    if not shapes:
        from raycap.data.stages import tensor_column

        first = Chunk(work[0].file, 0, 0, 0, row_groups(work[0].file)[0], 0)
        shapes = {tensor_column(read_chunk(first, columns=["features"]), "features").shape[1:]}
    ((patches, vision_dim),) = shapes
    return EncoderFacts(fingerprint, patches, vision_dim)


def publish(config: FeaturizeConfig, folder: str, work: list[WorkItem], *, facts: EncoderFacts) -> None:
    """Write the manifest, which makes the folder whole."""
    files: dict[str, list[FeatureFile]] = {split: [] for split in SPLITS}
    for item in work:
        files[item.split].append(FeatureFile(name=item.file.rsplit("/", 1)[1], rows=item.chunk.rows))
    manifest = FeatureManifest(
        raycap=raycap.__version__,
        data=storage.absolute(config.data.path),
        data_fingerprint=read_data_manifest(config.data.path).fingerprint,
        limit=config.data.limit,
        encoder=located(config.encoder).model_dump(mode="json"),
        encoder_fingerprint=facts.fingerprint,
        patches=facts.patches,
        vision_dim=facts.vision_dim,
        counts={split: sum(file.rows for file in entries) for split, entries in files.items()},
        files=files,
    )
    storage.write_json(storage.join(folder, MANIFEST), manifest.model_dump(mode="json"))
