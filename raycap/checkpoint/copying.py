"""A checkpoint copied whole to another place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from raycap import storage
from raycap.checkpoint.manifest import MANIFEST, Manifest, verify
from raycap.checkpoint.run import resolve


def copy(path: str, target: str) -> Manifest:
    """Copy a checkpoint (anything `resolve` takes) to `target`, replacing what is there, and verify the copy.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
    """
    folder, target = resolve(path), storage.absolute(target)
    manifest = verify(folder)
    local = storage.is_local(target)
    parent = Path(storage.filesystem(target)[1]).parent if local else None
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".checkpoint-", suffix=".tmp", dir=parent))
    aside.chmod(0o755)
    try:
        for name in (*manifest.files, MANIFEST):
            file = aside / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.read_bytes(storage.join(folder, *name.split("/"))))
        storage.publish_folder(aside, target, last=MANIFEST)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # there is one only where something went wrong
    return verify(target)
