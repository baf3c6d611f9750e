"""Where rows are written until they are whole, and how a folder that is whole is known again.

On a local disk everything is written to a folder aside that is renamed at the end. Elsewhere there is no
renaming: rows are written in place, and the folder counts as whole once its manifest, written last, is there.
Either way an interrupted run leaves nothing that reads as whole, and the next run clears what it left.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycap import storage
from raycap.config import ConfigError
from raycap.data.manifest import MANIFEST

log = logging.getLogger(__name__)

KIND = "raycap rows"
MARKER = "preparing.json"  # says, where writing happens in place, that the folder is ours
LOCK = ".lock"
LOCKED_AFTER_S = 60.0  # a folder without a lock is one being made just now, or litter
MAX_SHOWN = 3


@contextmanager
def workspace(path: str) -> Iterator[str]:
    """A folder to write rows and their manifest into; it becomes `path` when the block ends without an error.

    Raises:
        ConfigError: another process is writing to the same path.
    """
    with _aside(path) if storage.is_local(path) else _in_place(path) as work:
        yield work


@contextmanager
def _aside(path: str) -> Iterator[str]:
    target = Path(storage.filesystem(path)[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(target)
    work = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.preparing")
    work.mkdir()
    try:
        with open(work / LOCK, "w") as lock:  # released by the system when this process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(work)
        (work / LOCK).unlink()
        storage.publish_folder(work, path, last=MANIFEST)
    finally:
        _discard(work)


def _discard(work: Path) -> None:
    """Remove a folder in which tasks may still be writing: under another name they do not find it."""
    if work.exists():
        doomed = work.with_name(work.name.replace(".preparing", "-.preparing"))
        work.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _clear_leftovers(target: Path) -> None:
    for folder in target.parent.glob(f".{target.name}.*.preparing"):
        if not (folder / LOCK).exists():
            if time.time() - folder.stat().st_mtime > LOCKED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with open(folder / LOCK) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process is preparing {target}; wait for it, or give another data.path"
                ) from None
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _in_place(path: str) -> Iterator[str]:
    storage.remove(storage.join(path, MANIFEST))  # first: from here on nothing reads as whole
    storage.remove(path)
    storage.write_json(storage.join(path, MARKER), {"kind": KIND})
    try:
        yield path
    except BaseException:
        storage.remove(storage.join(path, MANIFEST))
        storage.remove(path)
        # A task that could not be stopped may still write; the marker lets the next run clear that.
        storage.write_json(storage.join(path, MARKER), {"kind": KIND})
        raise
    storage.remove(storage.join(path, MARKER))


def remove_litter(work: str, *, keep: Collection[str]) -> None:
    """Remove what killed workers left half written in the splits' folders."""
    for name in storage.list_files(work):
        if "/" in name and name not in keep:
            storage.remove(storage.join(work, *name.split("/")))


def find_finished(path: str, request: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of a folder that answers a request already, or None where rows are to be written.

    With `overwrite` no folder answers: the source's files may have changed under the same settings.

    Raises:
        ConfigError: the folder holds rows of another request, or anything else.
    """
    names = storage.list_names(path)
    if not names or (MARKER in names and MANIFEST not in names):
        return None
    manifest = _read_manifest(path)
    if manifest is None:
        raise ConfigError(
            f"{path} holds other files ({', '.join(names[:5])}); give a data.path that is new, or empty"
        )
    if overwrite:
        return None
    if differing := differences(manifest["request"], request):
        more = f"; and {len(differing) - MAX_SHOWN} more" if len(differing) > MAX_SHOWN else ""
        raise ConfigError(
            f"{path} holds rows prepared with other settings ({'; '.join(differing[:MAX_SHOWN])}{more}); "
            "give another data.path, or --prepare.overwrite to replace them"
        )
    if damaged := _damaged_file(path, manifest):
        log.warning("%s: %s is missing or cut short; preparing again", path, damaged)
        return None
    return manifest


def _read_manifest(path: str) -> dict[str, Any] | None:
    try:
        manifest = storage.read_json(storage.join(path, MANIFEST))
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def _damaged_file(path: str, manifest: Mapping[str, Any]) -> str:
    """First file of a manifest that is not there at its size, or ""."""
    sizes = storage.list_files(path)
    return next((name for name, size in manifest["files"].items() if sizes.get(name) != size), "")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that differ, most telling first: `source.kind was "shapes", is "coco"`."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    names = sorted(before.keys() | after.keys(), key=lambda name: (not name.endswith(".kind"), name))
    return [
        f"{name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(item)
