"""Files of captions as rows: JSON, JSON lines and CSV, told apart by their suffix, each row with its place.

Knows nothing of what a row must hold.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycap.config import ConfigError

SUFFIXES = (".json", ".jsonl", ".csv")
SAID = ("caption", "candidate")


class ScoreInputError(ValueError):
    """A file of captions that cannot be scored; the message names the file and the image or line."""


@dataclass(frozen=True)
class Row:
    """One entry of a file, and where it stands."""

    where: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Lines:
    """The rows of a file that has one a line."""

    rows: list[Row]


def listed(path: str, content: object) -> list[Row]:
    """The rows of what `read_content` gave.

    Raises:
        ScoreInputError: it is no list of objects.
    """
    if isinstance(content, Lines):
        return content.rows
    if isinstance(content, dict) and "annotations" in content:
        raise ScoreInputError(f"{path} holds annotations, not captions to score; give it as --references")
    if not isinstance(content, list):
        raise ScoreInputError(f"{path} must hold a list of objects with image_id and caption")
    return [_row(f"{path}, entry {number}", entry) for number, entry in enumerate(content)]


def _row(where: str, entry: object) -> Row:
    if not isinstance(entry, dict):
        raise ScoreInputError(f"{where} must be an object with image_id and caption and is {entry!r:.80}")
    return Row(where, entry)


def read_content(path: str) -> Any:
    """The contents of a file by its suffix: JSON's value, or Lines."""
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), "")
    if not suffix:
        raise ConfigError(f"{path}: captions are read from {', '.join(SUFFIXES)} files")
    text = read_text(path)
    if not text.strip():
        raise ScoreInputError(f"{path} is empty")
    if suffix == ".csv":
        return Lines(_csv_rows(path, text))
    if suffix == ".json":
        return _json(path, text)
    lines = [
        (f"{path}, line {number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    return Lines([_row(where, _json(where, line)) for where, line in lines])


def read_text(path: str) -> str:
    """A file's text.

    Raises:
        ScoreInputError: no such file, or not UTF-8.
    """
    try:
        if "://" in path:
            from raycap import storage  # loads PyArrow

            data = storage.read_bytes(path)
        else:
            with open(path, "rb") as stream:
                data = stream.read()
    except FileNotFoundError:
        raise ScoreInputError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ScoreInputError(f"{path} is a folder; give a file of captions") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoreInputError(f"{path} is not UTF-8 text: {error}") from None


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ScoreInputError(f"{where} is not valid JSON: {error}") from None
    except ValueError:  # Python's limit of 4,300 digits
        raise ScoreInputError(
            f"{where} holds a number of too many digits to be read; write such an id as text, in quotes"
        ) from None
    except RecursionError:
        raise ScoreInputError(f"{where} is nested too deeply to be captions") from None


def _csv_rows(path: str, text: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader)]
        if len(set(header)) != len(header) or "image_id" not in header:
            raise ScoreInputError(
                f"{path}: the first line must name the columns, image_id among them, each once, with commas between, "
                f"and is {','.join(header)!r:.200}"
            )
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise ScoreInputError(f"{where} has {len(cells)} cells for {len(header)} columns")
            rows.append(Row(where, _with_references(dict(zip(header, cells, strict=True)))))
    except csv.Error as error:
        raise ScoreInputError(f"{path}, line {reader.line_num} is not valid CSV: {error}") from None
    if not rows:
        raise ScoreInputError(f"{path} holds no captions")
    return rows


def _with_references(cells: dict[str, str]) -> dict[str, Any]:
    """Columns reference, reference_1, ... beside a caption as one list, empty cells left out."""
    several = [name for name in cells if name.startswith("reference")]
    if not several or not any(name in cells for name in SAID):
        return dict(cells)
    kept: dict[str, Any] = {name: cell for name, cell in cells.items() if name not in several}
    kept["references"] = [cells[name] for name in several if cells[name].strip()]
    return kept
