"""The user's own images: a folder with metadata.jsonl or metadata.csv, as Hugging Face's imagefolder has it.

A line has `file_name` and a caption in `text` (or caption, captions, ...): one text, or in JSON a list of
texts; lines for one image add up. Splits are sub-folders (train, validation, ...) or a `split` column.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

from raycap import storage
from raycap.config import ConfigError
from raycap.datasets.base import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    FolderOfFiles,
    Grouped,
    RawRecord,
    bad_line,
    missing,
    read_lines,
)

log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption", "captions", "texts", "sentence", "sentences", "description")


class FolderSource(FolderOfFiles):
    """A folder of images with a metadata file."""

    kind: Literal["folder"] = "folder"
    caption_column: str = ""
    """Column of the captions; empty takes the first there is of text, caption, captions, ..."""

    def records(self) -> Iterator[RawRecord]:
        places = [""] + [name for name in storage.list_names(self.path) if name in SPLIT_NAMES]
        files = [
            (place, name)
            for place in places
            for name in METADATA
            if storage.exists(storage.join(self.path, *filter(None, [place]), name))
        ]
        if not files:
            raise missing(self.path, wanted=" or ".join(METADATA) + ", there or in train, validation, test")
        for place, name in files:
            yield from self._file_records(place, name)

    def _file_records(self, place: str, name: str) -> Iterator[RawRecord]:
        folder = storage.join(self.path, place) if place else self.path
        path = storage.join(folder, name)
        rows = read_jsonl(path) if name.endswith(".jsonl") else read_csv(path)
        grouped, splits = Grouped(), dict[str, str]()
        column = self.caption_column
        for number, row, problem in rows:
            file = str(row.get("file_name") or "")
            if problem or not file:
                yield bad_line(name, number, problem or "no file_name")
                continue
            column = column or _find_column(row, path)
            _add_captions(
                grouped, file, row.get(column), problem=f"line {number} of {name} has no {column!r}"
            )
            splits[file] = str(row.get("split") or "")
        self._warn_of_unlisted(folder, grouped)
        for file in grouped.captions:
            yield _record(self.path, place, file, grouped, splits.get(file, ""))

    def _warn_of_unlisted(self, folder: str, grouped: Grouped) -> None:
        images = [name for name in storage.list_names(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
        if unlisted := [name for name in images if name not in grouped.captions]:
            log.warning(
                "%d images in %s have no line in the metadata and are left out, e.g. %s",
                len(unlisted),
                folder,
                unlisted[0],
            )


def _find_column(row: dict[str, Any], path: str) -> str:
    for name in CAPTION_COLUMNS:
        if name in row:
            return name
    raise ConfigError(
        f"{path} has the columns {', '.join(row)}, none of which is {', '.join(CAPTION_COLUMNS)}; "
        "name the captions' column in source.caption_column"
    )


def _add_captions(grouped: Grouped, file: str, value: Any, *, problem: str) -> None:
    if value is None:
        grouped.add_problem(file, problem)
        return
    grouped.captions.setdefault(file, [])  # an empty list of captions is no reason to forget the image
    for caption in value if isinstance(value, list) else [value]:
        grouped.add(file, caption)


def _record(root: str, place: str, file: str, grouped: Grouped, split: str) -> RawRecord:
    """A record named by its path below the source, since 0001.jpg may stand in train and in test."""
    image_id = f"{place}/{file}" if place else file
    parts = image_id.split("/")
    if image_id.startswith("/") or ".." in parts:
        return RawRecord(image_id, "", "", [], problems=["file_name leads out of the folder"])
    if split and split not in SPLIT_NAMES:
        return RawRecord(image_id, "", "", [], problems=[f"unknown split {split!r}"])
    split = SPLIT_NAMES.get(split or place or parts[0], "")
    problems = grouped.problems.get(file, [])
    return RawRecord(image_id, split, storage.join(root, *parts), grouped.captions[file], problems=problems)


def read_jsonl(path: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Objects of a JSON-lines file by line number, or an empty one and what is wrong with the line."""
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, {}, f"not JSON: {error}"
            continue
        if isinstance(row, dict):
            yield number, row, ""
        else:
            yield number, {}, f"a JSON {type(row).__name__}, not an object"


def read_csv(path: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Rows of a CSV file with a header, by column name."""
    reader = csv.DictReader(line + "\n" for _, line in read_lines(path))
    try:
        for row in reader:
            yield reader.line_num, {name: cell for name, cell in row.items() if name}, ""
    except csv.Error as error:  # in the main a quote that is never closed
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from None
