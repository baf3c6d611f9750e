"""Checkpoints below a folder or URI, by one listing of it and their manifests: of runs, and by themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raycap import storage
from raycap.checkpoint.manifest import MANIFEST, WEIGHTS, CheckpointError, Manifest, read_manifest
from raycap.checkpoint.run import CHECKPOINTS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A checkpoint and where it lies."""

    path: str
    run: str
    """Folder of the run it belongs to; "" for a checkpoint by itself."""
    manifest: Manifest

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.path.partition("?")[0].rstrip("/").rpartition("/")[2]


def find_checkpoints(place: str) -> list[Found]:
    """All checkpoints below a folder or URI (itself included), by path; damaged ones are left out with a warning.

    Raises:
        CheckpointError: there is no such folder.
    """
    place = storage.absolute(place)
    files = storage.list_files(place)
    if not files and (storage.size(place) is not None or not storage.exists(place)):
        raise CheckpointError(f"there is no folder {place}; give one that holds runs")
    found = []
    for name in files:
        *folder, last = name.split("/")
        # other manifests (of prepared rows, of features) have no weights beside them
        if last == MANIFEST and "/".join([*folder, WEIGHTS]) in files and not _is_hidden(folder):
            found += _read(place, folder)
    return found


def _is_hidden(folder: list[str]) -> bool:
    return any(part.startswith(".") for part in folder)


def _read(place: str, folder: list[str]) -> list[Found]:
    path = storage.join(place, *folder) if folder else place
    run = ""
    if folder[-2:-1] == [CHECKPOINTS]:
        run = storage.join(place, *folder[:-2]) if folder[:-2] else place
    try:
        return [Found(path, run, read_manifest(path))]
    except CheckpointError as error:
        logger.warning("leaving a damaged checkpoint out: %s", error)
        return []
