"""What a checkpoint folder is: its file names, its manifest, and the check of one against the other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from torch import nn

from raycap import __version__, storage
from raycap.config import Frozen, describe_validation_error
from raycap.decoding import DecodingConfig
from raycap.vision import EncoderConfig

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
TRAINING_TENSORS = "training.safetensors"
TRAINING_VALUES = "training.json"
TOKENIZER = "tokenizer"
VOCABULARY = "vocabulary.json"  # token ids that the training captions use


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged or not readable; the message names the file."""


class FileEntry(Frozen):
    """What a file of a checkpoint must be."""

    size: int
    sha256: str


class EncoderInfo(Frozen):
    """The image encoder that the training features came from."""

    config: EncoderConfig
    fingerprint: str
    vision_dim: int
    patches: int


class Manifest(Frozen):
    """All that is known of a checkpoint, and the files it is made of."""

    model_config = ConfigDict(allow_inf_nan=True)  # a metric may be so

    format: Literal[1] = 1
    family: str
    model: dict[str, Any]
    encoder: EncoderInfo
    decoding: DecodingConfig
    metrics: dict[str, float]
    history: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Metrics of the run's earlier checkpoints by folder name: removed ones still set the bar for a strategy."""
    step: int
    epoch: int
    base: list[float]
    """One value of every frozen vector: tells whether a base model (not kept here) is the right one."""
    versions: dict[str, str]
    commit: str
    created: str
    files: dict[str, FileEntry]
    digest: str
    """sha256 of everything above, as canonical JSON: the manifest's own damage is noticed too."""

    @property
    def size(self) -> int:
        """Bytes of the checkpoint's files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def training_size(self) -> int:
        """Bytes of the files that only a resume needs."""
        return sum(
            self.files[name].size for name in (TRAINING_TENSORS, TRAINING_VALUES) if name in self.files
        )


def verify(folder: str) -> Manifest:
    """Check every file of a checkpoint against its manifest. Files the manifest does not name are left alone.

    Raises:
        CheckpointError: the first file that is missing, short or changed, the manifest included.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = storage.join(folder, name)
        size = storage.size(path)
        if size is None:
            raise CheckpointError(f"damaged checkpoint: {path} is missing")
        if size != entry.size:
            raise CheckpointError(f"damaged checkpoint: {path} has {size:,} bytes, not {entry.size:,}")
        if storage.sha256(path) != entry.sha256:
            raise CheckpointError(f"damaged checkpoint: {path} has changed since it was written")
    return manifest


def verify_names(folder: str) -> Manifest:
    """Check that a checkpoint holds the files of its manifest and no others, without reading them.

    Raises:
        CheckpointError: the first file that should be there, or should not.
    """
    manifest = read_manifest(folder)
    there = set(storage.list_files(folder)) - {MANIFEST}
    for name in sorted(there ^ set(manifest.files)):
        problem = "is missing" if name in manifest.files else "is no part of the checkpoint"
        raise CheckpointError(f"{storage.join(folder, name)} {problem}")
    return manifest


def read_manifest(folder: str) -> Manifest:
    """The manifest alone, checked against its own digest.

    Raises:
        CheckpointError: absent, damaged, or of another format.
    """
    path = storage.join(folder, MANIFEST)
    try:
        content = storage.read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {folder}: {path} is missing") from None
    except ValueError:
        raise CheckpointError(f"damaged checkpoint: {path} is not valid JSON") from None
    if not isinstance(content, dict) or content.get("digest") != digest_of(
        {name: value for name, value in content.items() if name != "digest"}
    ):
        raise CheckpointError(f"damaged checkpoint: {path} does not match its own digest")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        made_by = content.get("versions", {}).get("raycap", "unknown")
        reason = describe_validation_error(error).splitlines()[0]
        raise CheckpointError(
            f"{path} was written by raycap {made_by} and cannot be read by {__version__}: {reason}"
        ) from None


def digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sample_base(model: nn.Module) -> list[float]:
    """The middle value of every frozen vector (biases, norms), by name.

    Vectors, because no quantisation touches them: the sample is the same whatever the matrices are held in.
    """
    frozen = sorted((name, p) for name, p in model.named_parameters() if not p.requires_grad and p.ndim == 1)
    return [float(p.detach()[p.numel() // 2]) for _, p in frozen if p.is_floating_point()]


def same_base(one: list[float], other: list[float]) -> bool:
    """Whether two samples are of one base model, up to the rounding of float16 and bfloat16."""
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=0.01, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )
