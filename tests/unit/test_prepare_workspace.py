"""Rows are whole or absent, on a local disk and elsewhere."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from raycap import storage
from raycap.config import ConfigError
from raycap.data.manifest import MANIFEST
from raycap.data.workspace import KIND, MARKER, differences, find_finished, remove_litter, workspace

REQUEST = {"format": 1, "source": {"kind": "shapes", "train": 3}, "data": {"limit": 0}}


def fill(work: str, request: dict[str, Any] = REQUEST) -> None:
    storage.write_bytes(storage.join(work, "train", "part-00000.parquet"), b"rows")
    manifest = {"kind": KIND, "request": request, "files": {"train/part-00000.parquet": 4}}
    storage.write_json(storage.join(work, MANIFEST), manifest)


def fail(path: str) -> None:
    with workspace(path) as work:
        fill(work)
        raise KeyboardInterrupt


@pytest.fixture(params=["local", "elsewhere"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    storage._open.cache_clear()
    storage._clients.clear()
    return str(tmp_path / "rows") if request.param == "local" else "mock:///bucket/rows"


def test_whole_when_the_block_ends(path: str) -> None:
    assert find_finished(path, REQUEST, overwrite=False) is None
    with workspace(path) as work:
        fill(work)
    manifest = find_finished(path, REQUEST, overwrite=False)
    assert manifest is not None
    assert manifest["files"] == {"train/part-00000.parquet": 4}
    assert storage.list_names(path) == [MANIFEST, "train"]


def test_what_killed_workers_left_is_removed(path: str) -> None:
    with workspace(path) as work:
        fill(work)
        storage.write_bytes(storage.join(work, "train", "part-00000.parquet.1f2e3d4c.tmp"), b"ro")
        remove_litter(work, keep=["train/part-00000.parquet"])
    assert list(storage.list_files(path)) == [MANIFEST, "train/part-00000.parquet"]


def test_absent_when_the_block_raises(path: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(path)
    assert not storage.exists(storage.join(path, MANIFEST))
    assert set(storage.list_names(path)) <= {MARKER}
    assert find_finished(path, REQUEST, overwrite=False) is None


def test_litter_without_a_lock_is_cleared_in_time(tmp_path: Path) -> None:
    fresh, old = tmp_path / ".rows.1.preparing", tmp_path / ".rows.2.preparing"
    for folder in (fresh, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    with workspace(str(tmp_path / "rows")) as work:
        fill(work)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".rows.1.preparing", "rows"]


def test_nothing_is_left_beside_a_local_folder(tmp_path: Path) -> None:
    with workspace(str(tmp_path / "rows")) as work:
        fill(work)
    with pytest.raises(KeyboardInterrupt):
        fail(str(tmp_path / "other"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows"]


def test_old_rows_stay_until_new_ones_are_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "rows")
    with workspace(path) as work:
        fill(work)
    with pytest.raises(KeyboardInterrupt):
        fail(path)
    assert find_finished(path, REQUEST, overwrite=False) is not None


def test_another_request_needs_overwrite(path: str) -> None:
    with workspace(path) as work:
        fill(work)
    other = {**REQUEST, "source": {"kind": "shapes", "train": 4}}
    with pytest.raises(
        ConfigError, match=r"other settings \(source\.train was 3, is 4\); .*--prepare\.overwrite"
    ):
        find_finished(path, other, overwrite=False)
    assert find_finished(path, other, overwrite=True) is None


def test_overwrite_prepares_the_same_request_again(path: str) -> None:
    """With unchanged settings the old rows were given back, though the source's files had changed."""
    with workspace(path) as work:
        fill(work)
    assert find_finished(path, REQUEST, overwrite=False) is not None
    assert find_finished(path, REQUEST, overwrite=True) is None


def test_differences_name_every_setting() -> None:
    assert differences({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2], "kind": "x"}}) == [
        'a.kind was absent, is "x"',
        "a.c was [1], is [2]",
        "d was 2, is absent",
    ]


def test_a_folder_that_is_not_ours_is_never_touched(path: str) -> None:
    storage.write_bytes(storage.join(path, "thesis.tex"), b"...")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"holds other files \(thesis\.tex\)"):
            find_finished(path, REQUEST, overwrite=overwrite)
    storage.write_json(storage.join(path, MANIFEST), {"name": "a web page's manifest"})
    with pytest.raises(ConfigError, match=r"holds other files \(manifest\.json, thesis\.tex\)"):
        find_finished(path, REQUEST, overwrite=True)


def test_a_damaged_folder_is_prepared_again(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with workspace(path) as work:
        fill(work)
    storage.write_bytes(storage.join(path, "train", "part-00000.parquet"), b"row")
    assert find_finished(path, REQUEST, overwrite=False) is None
    assert "train/part-00000.parquet is missing or cut short" in caplog.text


def test_killed_elsewhere_is_known_by_its_marker() -> None:
    storage._open.cache_clear()
    storage._clients.clear()
    path = "mock:///bucket/rows"
    manager = workspace(path)
    work = manager.__enter__()
    storage.write_bytes(storage.join(work, "train", "part-00000.parquet"), b"half")
    assert find_finished(path, REQUEST, overwrite=False) is None  # no error: the folder is ours
    with workspace(path) as again:
        fill(again)
    assert storage.read_bytes(storage.join(path, "train", "part-00000.parquet")) == b"rows"


def hold(path: str, ready: Any) -> None:
    with workspace(path):
        ready.set()
        multiprocessing.Event().wait()


def test_two_at_once_and_a_killed_one(tmp_path: Path) -> None:
    """A run in progress is respected; what a killed run left is cleared."""
    path = str(tmp_path / "rows")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=hold, args=(path, ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError, match=r"another process is preparing .*rows"), workspace(path):
        pass
    other.kill()
    other.join()
    assert [entry.name.startswith(".rows.") for entry in tmp_path.iterdir()] == [True]
    with workspace(path) as work:
        fill(work)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows"]
