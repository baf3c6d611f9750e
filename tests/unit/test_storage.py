"""Storage: paths and URIs, and writes that are whole or absent."""

import hashlib
import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from raycap import storage


@pytest.fixture
def mock_uri() -> str:
    """A folder on a PyArrow filesystem that is not local; it lives in memory, as long as it is kept open."""
    storage._open.cache_clear()
    storage._clients.clear()
    return "mock:///bucket/rows"


def write_half(path: str) -> None:
    with storage.writing(path) as stream:
        stream.write(b"half of the n")
        raise KeyboardInterrupt


def test_absolute_leaves_uris_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("data") == str(tmp_path / "data")
    assert storage.absolute("s3://bucket/data") == "s3://bucket/data"
    assert storage.absolute("~/data") == str(Path.home() / "data")


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        ("/tmp/a b%20?c", "/tmp/a b%20?c"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("file:///tmp", "/tmp"),
        ("file:///", "/"),
        ("s3://bucket/d/e%20f?region=us-east-1", "bucket/d/e f"),
        ("s3://bucket/d/?region=us-east-1", "bucket/d"),
        ("s3://bucket?region=us-east-1", "bucket"),
    ],
)
def test_path_within_the_filesystem(path: str, inner: str) -> None:
    assert storage.filesystem(path)[1] == inner


def test_store_stays_open() -> None:
    """A new S3 client for each of 100,000 images would mean as many handshakes."""
    first, _ = storage.filesystem("s3://bucket/train/1.jpg?region=us-east-1")
    second, _ = storage.filesystem("s3://bucket/val/2.jpg?region=us-east-1")
    assert first is second


def test_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"cannot open zz://bucket.*s3://"):
        storage.exists("zz://bucket/file")


def test_join_keeps_options_last_and_quotes_names() -> None:
    assert storage.join("/data/", "train", "a b.jpg") == "/data/train/a b.jpg"
    joined = storage.join("s3://bucket/data?region=x", "train", "100% a.jpg")
    assert joined == "s3://bucket/data/train/100%25%20a.jpg?region=x"
    assert storage.filesystem(joined)[1] == "bucket/data/train/100% a.jpg"


def test_write_read_list_remove(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "file.json")
    storage.write_json(path, {"é": [1, 2]})
    assert storage.read_json(path) == {"é": [1, 2]}
    assert storage.size(path) == os.path.getsize(path)
    assert storage.sha256(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert storage.list_names(str(tmp_path / "deep")) == ["file.json"]
    assert storage.exists(path)
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    assert storage.size(path) is None
    assert storage.list_names(str(tmp_path / "absent")) == []


def test_missing_and_broken_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_json(str(tmp_path / "absent.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        storage.read_json(str(tmp_path / "broken.json"))


def test_interrupted_write_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(str(path))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_publish_folder_replaces_what_was_there(tmp_path: Path) -> None:
    target, local = tmp_path / "rows", tmp_path / "aside"
    for folder, name in ((target, "stale"), (local, "fresh")):
        (folder / "train").mkdir(parents=True)
        (folder / "train" / name).write_text(name)
    storage.publish_folder(local, str(target), last="fresh")
    assert [entry.relative_to(tmp_path).as_posix() for entry in sorted(tmp_path.rglob("*"))] == [
        "rows",
        "rows/train",
        "rows/train/fresh",
    ]


def test_publish_elsewhere_writes_the_manifest_last(
    tmp_path: Path, mock_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "aside"
    (local / "train").mkdir(parents=True)
    (local / "manifest.json").write_text("{}")
    (local / "train" / "part").write_bytes(b"rows")
    storage.write_bytes(storage.join(mock_uri, "stale"), b"old")
    order: list[str] = []
    write = storage.writing
    monkeypatch.setattr(storage, "writing", lambda path: (order.append(path), write(path))[1])
    storage.publish_folder(local, mock_uri, last="manifest.json")
    assert [path.removeprefix(mock_uri) for path in order] == ["/train/part", "/manifest.json"]
    assert storage.list_names(mock_uri) == ["manifest.json", "train"]
    assert storage.read_bytes(storage.join(mock_uri, "train", "part")) == b"rows"
    assert not local.exists()


def test_interrupted_write_elsewhere_leaves_nothing(mock_uri: str) -> None:
    path = storage.join(mock_uri, "part")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert not storage.exists(path)
    assert not storage.is_local(mock_uri)
    assert isinstance(storage.filesystem("/tmp")[0], pafs.LocalFileSystem)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """`raycap models list FILE` said "[Errno 20] Cannot list directory ... Detail: [errno 20]"."""
    path = str(tmp_path / "file")
    storage.write_bytes(path, b"x")
    assert storage.list_names(path) == []
    assert storage.list_files(path) == {}
    with pytest.raises(FileNotFoundError, match=r"file/below is not there: part of that path is a file"):
        storage.read_bytes(f"{path}/below")
