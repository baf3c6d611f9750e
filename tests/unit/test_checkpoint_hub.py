"""Checkpoints named by a hub repository, from a hub cache on disk as `huggingface_hub` lays it out."""

from pathlib import Path

import pytest
from small_run import make_run

from raycap import checkpoint
from raycap.checkpoint import CheckpointError, hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as owner/name in an offline hub cache; the folder it came from."""
    own = Path(checkpoint.resolve(str(make_run(tmp_path / "made"))))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    own.rename(repository / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


def test_a_hub_checkpoint_is_found_and_verified(cached: Path) -> None:
    for path in ("hf://owner/name", "hf://owner/name@main", f"hf://owner/name@{COMMIT}"):
        assert checkpoint.resolve(path) == str(cached)
    assert checkpoint.load("hf://owner/name").manifest.step == 7


def test_a_hub_checkpoint_is_pinned_to_its_commit(cached: Path) -> None:
    assert hub.pin("hf://owner/name") == hub.pin("hf://owner/name@main") == f"hf://owner/name@{COMMIT}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://owner/other", "not in the hub's local cache, and the hub cannot be reached"),
        ("hf://owner", "give hf://owner/name"),
        ("hf://owner/name/run", "give hf://owner/name"),
    ],
)
def test_what_is_not_there_is_said(cached: Path, path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.resolve(path)
