"""`raycap explore`: the prepared rows before training, as one HTML report.

Reads what `raycap prepare` left, once, chunk by chunk; neither Ray nor torch is needed but for counting tokens.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raycap import storage
from raycap.config import ConfigError, DataConfig, Frozen
from raycap.data.chunks import Chunk
from raycap.data.manifest import read_data_manifest
from raycap.data.progress import say
from raycap.data.splits import split_chunks
from raycap.explore import findings, oddities, report, sheets, similar, survey, words
from raycap.explore.contents import Contents
from raycap.schema import SPLITS

ROWS_PER_READ = 128

__all__ = ["ExploreConfig", "ExploreOptions", "explore"]


class ExploreOptions(Frozen):
    """What the report covers, and where it goes."""

    output: str = "explore.html"
    """File (or URI) of the report."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Split to look at; all also finds photos that lie in two splits."""
    samples: int = Field(default=24, ge=0, le=500)
    """Photos to show with all their captions."""
    seed: int = Field(default=0, ge=0)
    """Chooses the samples."""
    tokenizer: str = ""
    """Folder or hub name of the tokenizer to count tokens with; a preset's own where one is named."""
    max_tokens: int = Field(default=40, ge=1)
    """What train.max_tokens is or shall be: longer captions are counted."""


class ExploreConfig(Frozen):
    """Which rows, and what of them."""

    data: DataConfig
    explore: ExploreOptions = ExploreOptions()


def explore(config: ExploreConfig) -> str:
    """Write the report; returns its path.

    Raises:
        ConfigError: no prepared rows, or none of the split.
        ValueError: a damaged file of rows.
    """
    options = config.explore
    manifest = read_data_manifest(config.data.path)
    chunks = choose_chunks(config.data, options.split, manifest.counts)
    rows = survey.survey_rows(chunks)
    vocabulary = words.count_words(rows.captions)
    tokens, without_tokens = count_tokens(rows.captions, options.tokenizer)
    say("comparing captions and photos")
    texts = similar.different_texts(rows)
    contents = Contents(
        path=storage.absolute(config.data.path),
        limit=config.data.limit,
        options=options.model_dump(),
        manifest=manifest.model_extra or {},
        survey=rows,
        vocabulary=vocabulary,
        tokens=tokens,
        without_tokens=without_tokens,
        texts=texts,
        near_captions=similar.near_captions(texts),
        near_photos=similar.near_photos(rows.looks),
        oddities=oddities.find_oddities(rows, texts),
    )
    verdicts = findings.find(
        rows,
        vocabulary,
        photos=contents.near_photos,
        oddities=contents.oddities,
        tokens=tokens,
        max_tokens=options.max_tokens,
    )
    photos = survey.fetch_photos(chunks, sheets.shown_photos(contents))
    output = storage.absolute(options.output)
    storage.write_bytes(output, report.explore_page(contents, verdicts, photos).encode())
    return output


def choose_chunks(data: DataConfig, split: str, counts: dict[str, int]) -> list[Chunk]:
    """Chunks of a split, or of all that have images.

    Raises:
        ConfigError: none there.
    """
    chosen = [name for name in SPLITS if counts.get(name)] if split == "all" else [split]
    if not chosen:
        raise ConfigError(
            f"no images at {data.path}: its manifest counts none in any split; prepare it again"
        )
    return [
        chunk
        for name in chosen
        for chunk in split_chunks(data.path, name, limit=data.limit, max_rows=ROWS_PER_READ)
    ]


def count_tokens(captions: list[str], tokenizer: str) -> tuple[words.Counts | None, str]:
    """Tokens of every caption; or none, and why: a preset's tokenizer may be out of reach here."""
    if not tokenizer:
        return None, "no tokenizer named: give --tokenizer, or a preset"
    try:
        return words.count_tokens(captions, tokenizer), ""
    except ConfigError as error:
        say(f"tokens are not counted: {error}")
        return None, str(error)
