"""`raycap prepare`: raw images and captions -> Parquet rows by split, whole or absent.

The driver lists the source into plans, one a shard; Ray Data tasks make a shard each and tell what became of
its records; then images that stand in two splits are dropped and the folder is published, its manifest last.
Importing this loads neither Ray nor torch, so that the command line answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from raycap import __version__, storage
from raycap.config import ConfigError, DataConfig, Frozen
from raycap.data import start_ray
from raycap.data.manifest import MANIFEST
from raycap.data.plan import PLANS, Shard, plan_path, shard_path, with_split, write_plans
from raycap.data.progress import progress, say
from raycap.data.workspace import KIND, find_finished, remove_litter, workspace
from raycap.datasets import SourceConfig

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import ray.data

    from raycap.data.outcome import Outcome

FORMAT = 1  # raise it when the same request would give other rows
REJECTED = "rejected.jsonl"


class PrepareOptions(Frozen):
    """How rows are made, whatever the source."""

    short_side: int = Field(default=0, ge=0)
    """Reduce larger images to this short side in pixels; 0 keeps every image as it is."""
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Fail when more than this share of the images, or of the captions, cannot be used."""
    max_caption_characters: int = Field(default=1000, ge=1)
    """Longer captions are left out."""
    rows_per_shard: int = Field(default=512, ge=1)
    """Images in a Parquet file; a task makes one file."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split by image, for sources that have no split."""
    val_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the images to validate on, for sources that have no split."""
    test_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the images to test on, for sources that have no split."""
    overwrite: bool = False
    """Prepare again and replace the rows that are there, of these settings or of others."""

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on"
            )
        return self


class PrepareConfig(Frozen):
    """Everything `raycap prepare` needs."""

    source: SourceConfig
    data: DataConfig
    prepare: PrepareOptions = PrepareOptions()


class BadDataError(ValueError):
    """Too much of the source cannot be used."""


def prepare(config: PrepareConfig) -> str:
    """Write the rows of a source, and return their folder; at once where they are already there.

    Raises:
        ConfigError: files of the source are missing, or the folder holds something else.
        BadDataError: more than `max_bad_share` of the images or captions cannot be used.
    """
    path = storage.absolute(config.data.path)
    request = describe_request(config)
    if finished := find_finished(path, request, overwrite=config.prepare.overwrite):
        check_share(
            finished["read"],
            finished["rejected"],
            limit=config.prepare.max_bad_share,
            listed=storage.join(path, REJECTED),
        )
        say(f"{path} is already prepared: {describe_counts(finished)}")
        return path
    with workspace(path) as work:
        shards = plan_shards(config, work)
        start_ray()  # only now: a finished folder, or a source that is not there, is answered at once
        outcome = make_shards(config, work, shards)
        drop_duplicates(outcome, work)
        manifest = describe(outcome, work, request)
        check_outcome(config, outcome, manifest["read"])
        storage.remove(storage.join(work, PLANS))
        remove_litter(work, keep=manifest["files"])
        storage.write_bytes(storage.join(work, REJECTED), outcome.rejected_lines().encode())
        storage.write_json(storage.join(work, MANIFEST), manifest)
    storage.remove(rejected_beside(path))
    say(f"prepared {describe_counts(manifest)} in {path}")
    say_rejected(manifest["rejected"], path)
    return path


def describe_request(config: PrepareConfig) -> dict[str, Any]:
    """What the rows follow from: another request on a finished folder is an error."""
    options = config.prepare.model_dump(mode="json", exclude={"overwrite", "max_bad_share"})
    return {
        "format": FORMAT,
        "source": config.source.model_dump(mode="json"),
        "data": {"limit": config.data.limit},
        "prepare": options,
    }


def plan_shards(config: PrepareConfig, work: str) -> list[Shard]:
    """List the source.

    Raises:
        ConfigError: files of the source are missing, or list no image.
    """
    options = config.prepare
    records = with_split(
        config.source.records(), seed=options.seed, val_share=options.val_share, test_share=options.test_share
    )
    shards = write_plans(records, work, rows_per_shard=options.rows_per_shard, limit=config.data.limit)
    if not shards:
        raise ConfigError(f"the source lists no images: {config.source!r}")
    return shards


def make_shards(config: PrepareConfig, work: str, shards: list[Shard]) -> Outcome:
    """Make every planned shard, in Ray Data tasks of one shard each.

    Raises:
        BadDataError: so many images are bad already that no more need to be read.
    """
    import ray.data

    from raycap.data.outcome import Outcome

    settings = config.model_dump(mode="json")
    dataset = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
        make_shard_batch,
        batch_size=None,
        fn_kwargs={"settings": settings, "work": work, "shards": shards},
    )
    outcome = Outcome(shards)
    with progress("preparing images", total=outcome.planned) as advance, results_of(dataset) as tables:
        for results in tables:
            advance(outcome.add(results))
            check_outcome(config, outcome, {"images": outcome.planned}, stopped=True)
    return outcome


def results_of(dataset: ray.data.Dataset) -> closing[Generator[pa.Table, None, None]]:
    """What the tasks tell, as they end; leaving early stops the tasks, so that none writes afterwards."""
    tables: Generator[pa.Table, None, None] = iter(
        dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    )
    return closing(tables)


def make_shard_batch(
    batch: Mapping[str, np.ndarray[Any, Any]], *, settings: dict[str, Any], work: str, shards: list[Shard]
) -> Iterator[pa.Table]:
    """A task: make the shards whose numbers are in the batch."""
    from raycap.data.shards import make_shard

    config = PrepareConfig.model_validate(settings)
    for number in batch["id"].tolist():
        yield make_shard(
            plan_path(work, shards[number]),
            shard_path(work, shards[number]),
            shard=number,
            source=config.source,
            short_side=config.prepare.short_side,
            max_characters=config.prepare.max_caption_characters,
        )


def drop_duplicates(outcome: Outcome, work: str) -> None:
    """Write the shards that hold images of another split anew without them, in Ray Data tasks."""
    import ray.data

    dropped = outcome.duplicates(work)
    if not dropped:
        return
    items = [{"shard": shard, "rows": json.dumps(rows)} for shard, rows in dropped.items()]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        drop_batch, batch_size=None, fn_kwargs={"work": work, "shards": outcome.shards}
    )
    total = sum(map(len, dropped.values()))
    with progress("dropping images of two splits", total=total) as advance, results_of(dataset) as tables:
        for results in tables:
            advance(outcome.remove(results))
    for shard in dropped:  # only now, so that a task that is run again finds what it needs
        storage.remove(shard_path(work, outcome.shards[shard]))


def drop_batch(
    batch: Mapping[str, np.ndarray[Any, Any]], *, work: str, shards: list[Shard]
) -> Iterator[pa.Table]:
    """A task: write the shards in the batch without the rows that are to be dropped."""
    from raycap.data.shards import write_without

    for number, rows in zip(batch["shard"].tolist(), batch["rows"].tolist(), strict=True):
        yield write_without(
            shard_path(work, shards[number]),
            shard_path(work, shards[number], suffix="-unique"),
            dropped={int(row): tuple(why) for row, why in json.loads(rows).items()},
            shard=number,
        )


def check_outcome(
    config: PrepareConfig, outcome: Outcome, read: Mapping[str, int], *, stopped: bool = False
) -> None:
    """See that the source is good enough; else what was rejected is listed beside the folder, which stays absent.

    Raises:
        BadDataError: more than `max_bad_share` of the images, or of the captions, cannot be used.
    """
    listed = rejected_beside(storage.absolute(config.data.path))
    limit = config.prepare.max_bad_share
    try:
        check_share(read, outcome.rejected_counts(), limit=limit, listed=listed, stopped=stopped)
    except BadDataError:
        storage.write_bytes(listed, outcome.rejected_lines().encode())
        raise


def rejected_beside(path: str) -> str:
    """Where the rejected records are listed when no rows are kept; options of a URI stay at its end."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    return f"{base.rstrip('/')}.{REJECTED}{mark}{query}"


def check_share(
    read: Mapping[str, int],
    rejected: Mapping[str, Any],
    *,
    limit: float,
    listed: str,
    stopped: bool = False,
) -> None:
    """See that the source is good enough, or say where what was rejected is `listed`.

    Raises:
        BadDataError: more than `limit` of the images, or of the captions, cannot be used.
    """
    for what, count in read.items():
        if rejected[what] > limit * count:
            kind = what.removesuffix("s") + ": "
            reasons = {
                reason: number for reason, number in rejected["reasons"].items() if reason.startswith(kind)
            }
            told = ", ".join(
                f"{reason.removeprefix(kind)} ({number:,})" for reason, number in reasons.items()
            )
            raise BadDataError(
                f"{rejected[what]:,} of {count:,} {what} cannot be used{' (stopped there)' if stopped else ''}, "
                f"over prepare.max_bad_share {limit:g}: {told}; for example {rejected['example']}; "
                f"each is listed in {listed}"
            )


def describe(outcome: Outcome, work: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of finished rows."""
    from raycap.schema import SPLITS

    rejected = outcome.rejected_counts()
    files = storage.list_files(work)
    return {
        "kind": KIND,
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": outcome.fingerprint,
        "source": request["source"],
        "counts": {split: outcome.images[split] for split in SPLITS},
        "captions": {split: outcome.captions[split] for split in SPLITS},
        "read": {
            "images": outcome.planned,
            "captions": outcome.captions.total() + rejected["captions"],
        },
        "rejected": rejected,
        "files": {name: size for name, size in files.items() if name.endswith(".parquet")},
        "request": request,
    }


def describe_counts(manifest: Mapping[str, Any]) -> str:
    """`2,400 images with 12,000 captions (train 2,000, val 200, test 200)`."""
    images, captions = sum(manifest["counts"].values()), sum(manifest["captions"].values())
    by_split = ", ".join(f"{split} {number:,}" for split, number in manifest["counts"].items())
    return f"{counted(images, 'image')} with {counted(captions, 'caption')} ({by_split})"


def counted(number: int, noun: str) -> str:
    """`1 image`, `2,400 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say_rejected(rejected: Mapping[str, Any], path: str) -> None:
    """Sum up what was left out."""
    if rejected["reasons"]:
        say(
            f"left out {counted(rejected['images'], 'image')} and {counted(rejected['captions'], 'caption')}, "
            f"listed in {storage.join(path, REJECTED)}:"
        )
    for reason, number in rejected["reasons"].items():
        say(f"{number:>8,}  {reason}")
