"""What an exported folder says of itself: its form, every file's hash, and what it was seen to say.

`raycap push` holds a folder against this; the folder works without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from raycap import __version__, storage
from raycap.checkpoint import CheckpointError, FileEntry
from raycap.config import Frozen, describe_validation_error
from raycap.decoding import DecodingConfig

RECORD = "raycap_export.json"
CARD = "README.md"  # people edit it, so it is not hashed
Form = Literal["transformers", "adapter"]


class Said(Frozen):
    """Decoding settings, and the token ids of each probe picture's captions under them, the start token first."""

    decoding: DecodingConfig
    tokens: tuple[tuple[int, ...], ...]


class Record(Frozen):
    """See the module."""

    format: Literal[1] = 1
    form: Form
    name: str = ""
    """What the model card calls the folder; `raycap push` puts the repository in its place."""
    raycap: str = __version__
    checkpoint: str
    """Digest of the checkpoint's manifest."""
    takes: Literal["pixels", "features", ""] = ""
    layer: int = -1
    side: int = 0
    """Height of the probe pictures in pixels."""
    said: tuple[Said, ...] = ()
    equal: str = ""
    """How many of those captions were raycap's from file to text."""
    files: dict[str, FileEntry] = Field(default_factory=dict)


def write_record(folder: Path, record: Record) -> None:
    """Write a record that names every file of the folder."""
    files = {name: entry_of(folder / name) for name in names_in(folder)}
    content = record.model_copy(update={"files": files}).model_dump(mode="json")
    storage.write_json(str(folder / RECORD), content)


def read_record(folder: Path) -> Record:
    """The record of an exported folder.

    Raises:
        CheckpointError: none there, or damaged.
    """
    path = folder / RECORD
    try:
        return Record.model_validate(storage.read_json(str(path)))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no export: {RECORD} is missing; make one with raycap export"
        ) from None
    except ValidationError as error:
        raise CheckpointError(f"damaged export: {path}: {describe_validation_error(error)}") from None
    except ValueError as error:
        raise CheckpointError(f"damaged export: {error}") from None


def check_files(folder: Path, record: Record) -> None:
    """Hold every file against the record.

    Raises:
        CheckpointError: the first that is missing, changed, or not named there.
    """
    present = names_in(folder)
    if unknown := sorted(set(present) - set(record.files)):
        raise CheckpointError(
            f"{folder / unknown[0]} is no part of the export; take it away, or export again"
        )
    for name, entry in record.files.items():
        if name not in present:
            raise CheckpointError(f"damaged export: {folder / name} is missing")
        if entry_of(folder / name) != entry:
            raise CheckpointError(f"damaged export: {folder / name} has changed since it was written")


def names_in(folder: Path) -> list[str]:
    """Files of an export that a record names."""
    return [name for name in all_names_in(folder) if not name.startswith(".") and name not in {RECORD, CARD}]


def all_names_in(folder: Path) -> list[str]:
    """Every file of a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def entry_of(path: Path) -> FileEntry:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
