"""Checkpoints: the only code that knows their file names.

A checkpoint is a folder of safetensors and JSON (nothing is ever unpickled) with a manifest written last,
which names every file with its size and sha256 and says what the model was trained with. Folders appear whole
or not at all.
Knows nothing of the loop: what a training state holds is the loop's business.
"""

from raycap.checkpoint.manifest import (
    CheckpointError,
    EncoderInfo,
    FileEntry,
    Manifest,
    read_manifest,
    verify,
)
from raycap.checkpoint.reading import Loaded, load, read_training, restore
from raycap.checkpoint.run import LOSS_KEY, Index, RunCheckpoints, resolve
from raycap.checkpoint.writing import TrainingState, git_commit, save, versions

__all__ = [
    "LOSS_KEY",
    "CheckpointError",
    "EncoderInfo",
    "FileEntry",
    "Index",
    "Loaded",
    "Manifest",
    "RunCheckpoints",
    "TrainingState",
    "git_commit",
    "load",
    "read_manifest",
    "read_training",
    "resolve",
    "restore",
    "save",
    "verify",
    "versions",
]
