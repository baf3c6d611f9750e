"""Paths and URIs through PyArrow's filesystems, with writes that are whole or absent.

Everything raycap keeps is written here, so that one place decides what "atomic" means: on a local disk a file
or folder is written aside, synced and renamed; on an object store a single object appears whole, and a folder
counts as whole only once its manifest, written last, is there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

FLAT = {"s3", "gcs", "abfs"}  # stores without folders: a file needs none to be written
# One client for each store: an S3 client keeps connections of its own, and a data set has 100,000 files.
_clients: dict[tuple[str, str, str], pafs.FileSystem] = {}


def absolute(path: str) -> str:
    """A URI unchanged; a local path made absolute (Ray's workers have another working directory)."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The PyArrow filesystem of a path or URI, and the path within it.

    Raises:
        ValueError: a URI whose scheme PyArrow does not know.
    """
    whole = absolute(path)
    if "://" not in whole:
        return pafs.LocalFileSystem(), whole
    base, mark, query = whole.partition("?")
    parent, _, name = base.rstrip("/").rpartition("/")
    if not parent or parent.endswith("/"):  # the bucket itself, or the root of a disk
        return _open(whole)
    fs, inner = _open(parent + mark + query)
    return fs, f"{inner.rstrip('/')}/{unquote(name)}"


@functools.lru_cache(maxsize=256)
def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        fs, inner = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError, NotImplementedError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(
            f"cannot open {uri}: {error}; give a local path or an s3://, gs://, hdfs:// URI"
        ) from None
    parts = urlsplit(uri)
    return _clients.setdefault((parts.scheme, parts.netloc, parts.query), fs), inner


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's disks."""
    return isinstance(filesystem(path)[0], pafs.LocalFileSystem)


def join(path: str, *names: str) -> str:
    """Path or URI of something below `path`; options at the end of a URI (`?region=...`) stay at the end."""
    if "://" not in path:
        return "/".join([path.rstrip("/"), *names])
    base, mark, query = path.partition("?")
    return "/".join([base.rstrip("/"), *map(quote, names)]) + mark + query


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
    """Names directly below a folder, sorted; empty where there is no such folder."""
    return sorted(info.base_name for info in _below(path, recursive=False)[1])


def list_files(path: str) -> dict[str, int]:
    """Bytes of every file below a folder, by its path there, sorted; empty where there is no such folder."""
    inner, found = _below(path, recursive=True)
    files = [info for info in found if info.type == pafs.FileType.File]
    return {
        info.path[len(inner) :].strip("/"): info.size for info in sorted(files, key=lambda info: info.path)
    }


def _below(path: str, *, recursive: bool) -> tuple[str, list[pafs.FileInfo]]:
    """A folder's path in its filesystem, and what lies in it; nothing where a file has its name."""
    fs, inner = filesystem(path)
    try:
        return inner, fs.get_file_info(pafs.FileSelector(inner, allow_not_found=True, recursive=recursive))
    except NotADirectoryError:
        return inner, []


def read_bytes(path: str) -> bytes:
    """Contents of a file.

    Raises:
        FileNotFoundError: no such file.
    """
    fs, inner = filesystem(path)
    try:
        with fs.open_input_stream(inner) as stream:
            return bytes(stream.read())
    except NotADirectoryError:  # below a file, as no file can be
        raise FileNotFoundError(f"{path} is not there: part of that path is a file, not a folder") from None


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
    with writing(path) as stream:
        stream.write(content)


@contextmanager
def writing(path: str, *, make_folder: bool = True) -> Iterator[pa.NativeFile]:
    """A stream whose file appears, whole, when the block ends, and does not appear where the block raises.

    Without `make_folder` the file's folder must be there, and a folder that was removed stays removed.
    """
    fs, inner = filesystem(path)
    parent = inner.rsplit("/", 1)[0]
    if make_folder and fs.type_name not in FLAT:
        fs.create_dir(parent, recursive=True)
    if not isinstance(fs, pafs.LocalFileSystem):
        stream = fs.open_output_stream(inner)
        try:
            yield stream
        except BaseException:
            stream.close()  # PyArrow cannot abandon an object, so the part is taken away again
            fs.delete_file(inner)
            raise
        stream.close()
        return
    aside = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with fs.open_output_stream(aside) as stream:
            yield stream
        _sync(aside)
        os.replace(aside, inner)
    finally:
        Path(aside).unlink(missing_ok=True)
    _sync(parent)


def make_folder(path: str) -> None:
    """Create a folder and those above it, where the store has folders."""
    fs, inner = filesystem(path)
    if fs.type_name not in FLAT:
        fs.create_dir(inner, recursive=True)


def write_json(path: str, value: Any) -> None:
    """Write a JSON file whole."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def publish_folder(local: Path, path: str, *, last: str) -> None:
    """Make a finished local folder appear at `path`, whole, replacing what was there; `local` is consumed.

    Locally it is synced and renamed (so `local` should lie on the same disk). Elsewhere its files are
    uploaded with the file named `last` (the manifest) after all others.
    """
    fs, inner = filesystem(path)
    files = sorted((file for file in local.rglob("*") if file.is_file()), key=lambda file: file.name == last)
    if isinstance(fs, pafs.LocalFileSystem):
        for entry in [*files, *(folder for folder in local.rglob("*") if folder.is_dir()), local]:
            _sync(entry)
        target = Path(inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            doomed = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
            target.rename(doomed)
            local.rename(target)
            shutil.rmtree(doomed)
        else:
            local.rename(target)
        _sync(target.parent)
        return
    remove(path)
    for file in files:
        with open(file, "rb") as source, writing(join(path, file.relative_to(local).as_posix())) as stream:
            stream.upload(source)
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


def _sync(path: str | Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
