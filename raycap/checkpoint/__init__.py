"""Checkpoints: the only code that knows their file names.

A checkpoint is a folder of safetensors and JSON (nothing is ever unpickled) with a manifest written last,
which names every file with its size and sha256 and says what the model was trained with. Folders appear whole
or not at all.
Knows nothing of the loop: what a training state holds is the loop's business.
"""

from raycap.checkpoint.copying import copy
from raycap.checkpoint.finding import Found, find_checkpoints
from raycap.checkpoint.manifest import (
    CheckpointError,
    EncoderInfo,
    FileEntry,
    Manifest,
    read_manifest,
    verify,
    verify_names,
)
from raycap.checkpoint.reading import Loaded, count_weights, load, read_tokens, read_training, restore
from raycap.checkpoint.run import (
    CHECKPOINTS,
    LOSS_KEY,
    Index,
    RunCheckpoints,
    choose_kept,
    resolve,
    strategy_of,
)
from raycap.checkpoint.writing import TrainingState, git_commit, save, versions

__all__ = [
    "CHECKPOINTS",
    "LOSS_KEY",
    "CheckpointError",
    "EncoderInfo",
    "FileEntry",
    "Found",
    "Index",
    "Loaded",
    "Manifest",
    "RunCheckpoints",
    "TrainingState",
    "choose_kept",
    "copy",
    "count_weights",
    "find_checkpoints",
    "git_commit",
    "load",
    "read_manifest",
    "read_tokens",
    "read_training",
    "resolve",
    "restore",
    "save",
    "strategy_of",
    "verify",
    "verify_names",
    "versions",
]
