"""Paths and URIs through PyArrow's filesystems, with writes that are whole or absent.

Everything raycap keeps is written here, so that one place decides what "atomic" means: on a local disk a file or
folder is written aside, synced and renamed; on an object store a single object appears whole, and a folder counts
as whole only once its manifest, written last, is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs


def absolute(path: str) -> str:
    """A URI unchanged; a local path made absolute (Ray's workers have another working directory)."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The PyArrow filesystem of a path or URI, and the path within it.

    Raises:
        ValueError: a URI whose scheme PyArrow does not know.
    """
    try:
        fs, inner = pafs.FileSystem.from_uri(absolute(path))
    except Exception as error:  # PyArrow raises ArrowInvalid, OSError or its own by scheme
        raise ValueError(
            f"cannot open {path}: {error}; give a local path or an s3://, gs://, hdfs:// URI"
        ) from None
    return fs, inner


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's disks."""
    return isinstance(filesystem(path)[0], pafs.LocalFileSystem)


def join(path: str, *names: str) -> str:
    """Path or URI of something below `path`."""
    return "/".join([path.rstrip("/"), *names])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    fs, inner = filesystem(path)
    return bool(fs.get_file_info(inner).type != pafs.FileType.NotFound)


def size(path: str) -> int | None:
    """Bytes of a file; None where there is no such file."""
    fs, inner = filesystem(path)
    info = fs.get_file_info(inner)
    return int(info.size) if info.type == pafs.FileType.File else None


def list_names(path: str) -> list[str]:
    """Names directly below a folder, sorted; empty where the folder is absent."""
    fs, inner = filesystem(path)
    selector = pafs.FileSelector(inner, allow_not_found=True)
    return sorted(info.base_name for info in fs.get_file_info(selector))


def read_bytes(path: str) -> bytes:
    """Contents of a file.

    Raises:
        FileNotFoundError: no such file.
    """
    fs, inner = filesystem(path)
    with fs.open_input_stream(inner) as stream:
        return bytes(stream.read())


def read_json(path: str) -> Any:
    """Contents of a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole: readers see the old content or the new, never a part."""
    fs, inner = filesystem(path)
    parent = inner.rsplit("/", 1)[0]
    fs.create_dir(parent, recursive=True)
    if not isinstance(fs, pafs.LocalFileSystem):
        with fs.open_output_stream(inner) as stream:
            stream.write(content)
        return
    aside = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, inner)
    _sync_folder(parent)


def write_json(path: str, value: Any) -> None:
    """Write a JSON file whole."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def publish_folder(local: Path, path: str, *, last: str) -> None:
    """Make a finished local folder appear at `path`, whole, replacing what was there; `local` is consumed.

    Locally it is synced and renamed (so `local` should lie on the same disk). Elsewhere its files are uploaded
    with the file named `last` (the manifest) after all others.
    """
    fs, inner = filesystem(path)
    files = sorted((file for file in local.rglob("*") if file.is_file()), key=lambda file: file.name == last)
    if isinstance(fs, pafs.LocalFileSystem):
        for file in files:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        target = Path(inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            doomed = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
            target.rename(doomed)
            local.rename(target)
            shutil.rmtree(doomed)
        else:
            local.rename(target)
        _sync_folder(str(target.parent))
        return
    remove(path)
    for file in files:
        write_bytes(join(path, file.relative_to(local).as_posix()), file.read_bytes())
    shutil.rmtree(local)


def remove(path: str) -> None:
    """Delete a file or folder; nothing happens where it is absent."""
    fs, inner = filesystem(path)
    kind = fs.get_file_info(inner).type
    if kind == pafs.FileType.Directory:
        fs.delete_dir(inner)
    elif kind == pafs.FileType.File:
        fs.delete_file(inner)


def sha256(path: str) -> str:
    """Hex digest of a file, read in pieces."""
    fs, inner = filesystem(path)
    digest = hashlib.sha256()
    with fs.open_input_stream(inner) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
