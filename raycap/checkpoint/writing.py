"""Writing a checkpoint: aside first, hashed, then published whole."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from raycap import __version__, storage
from raycap.checkpoint.manifest import (
    MANIFEST,
    TOKENIZER,
    TRAINING_TENSORS,
    TRAINING_VALUES,
    VOCABULARY,
    WEIGHTS,
    EncoderInfo,
    digest_of,
    sample_base,
)
from raycap.decoding import DecodingConfig
from raycap.models import CaptionModel, FamilyConfig
from raycap.text import CaptionTokenizer


@dataclass(frozen=True)
class TrainingState:
    """What a resume needs besides the model: flat names to tensors, and anything JSON holds."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def save(
    folder: str,
    model: CaptionModel,
    *,
    model_config: FamilyConfig,
    tokenizer: CaptionTokenizer,
    encoder: EncoderInfo,
    decoding: DecodingConfig,
    metrics: Mapping[str, float],
    step: int,
    epoch: int,
    history: Mapping[str, Mapping[str, float]] | None = None,
    vocabulary: Sequence[int] = (),
    training: TrainingState | None = None,
) -> str:
    """Write a checkpoint whole at `folder` (a path or URI), replacing one that is there; returns the path.

    `history` are the metrics of the run's earlier checkpoints, by folder name. `vocabulary` are the token ids that
    the training captions use, which captioning may be held to.
    """
    folder = storage.absolute(folder)
    aside = _aside(folder)
    tokenizer.save(aside / TOKENIZER)
    _save_tensors(aside / WEIGHTS, model.saved_state())
    if vocabulary:
        (aside / VOCABULARY).write_text(json.dumps(list(vocabulary)), encoding="utf-8")
    if training is not None:
        _save_tensors(aside / TRAINING_TENSORS, training.tensors)
        _dump_json(aside / TRAINING_VALUES, training.values)
    encoder_config = _with_absolute(encoder.config.model_dump(mode="json"), "name")
    content: dict[str, Any] = {
        "format": 1,
        "family": model_config.family,
        "model": _with_absolute(model_config.model_dump(mode="json"), "language_model"),
        "encoder": {**encoder.model_dump(mode="json"), "config": encoder_config},
        "decoding": decoding.model_dump(mode="json"),
        "metrics": _floats(metrics),
        "history": {name: _floats(earlier) for name, earlier in (history or {}).items()},
        "step": step,
        "epoch": epoch,
        "base": sample_base(model),
        "versions": versions(),
        "commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: _entry(aside / name) for name in _file_names(aside)},
    }
    _dump_json(aside / MANIFEST, {**content, "digest": digest_of(content)})
    storage.publish_folder(aside, folder, last=MANIFEST)
    return folder


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _with_absolute(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """Settings whose model under `key`, where it is a folder and not a hub name, is found from anywhere."""
    name = settings.get(key)
    if isinstance(name, str) and name and Path(name).expanduser().is_dir():
        return {**settings, key: storage.absolute(name)}
    return settings


def versions() -> dict[str, str]:
    """Versions of what decides a checkpoint's numbers."""
    others = {name: version(name) for name in ("torch", "transformers", "peft", "ray")}
    return {"raycap": __version__, **others}


@functools.cache
def git_commit() -> str:
    """The commit raycap runs from, with "+" where the tree differs from it; "" outside a repository."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):  # no git here, or not the user's repository
        return ""
    return commit + ("+" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _aside(folder: str) -> Path:
    """An empty folder to write in: beside the target on a local disk, temporary elsewhere."""
    if not storage.is_local(folder):
        return Path(tempfile.mkdtemp(prefix="raycap-"))
    target = Path(storage.filesystem(folder)[1])
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir(parents=True)
    return aside


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def _dump_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _file_names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # just written, so this reads memory, not the disk
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
