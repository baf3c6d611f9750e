"""Checkpoints on the Hugging Face Hub: hf://owner/name or hf://owner/name@revision, copied once to the hub's own cache.

Only what a checkpoint is made of is fetched: JSON, safetensors and a tokenizer's text.
"""

from __future__ import annotations

import re
from pathlib import Path

from raycap.checkpoint.manifest import CheckpointError

PREFIX = "hf://"
FORM = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILES = ("*.json", "*.safetensors", "*.txt", "config.yaml")


def is_hub(path: str) -> bool:
    """Whether a path means a repository of the hub."""
    return path.startswith(PREFIX)


def download(path: str) -> str:
    """Local folder of a hub checkpoint, downloaded where it is not in the cache.

    Raises:
        CheckpointError: not of the form above, not there, or the hub cannot be reached.
    """
    found = FORM.fullmatch(path.removeprefix(PREFIX).rstrip("/"))
    if not found:
        raise CheckpointError(
            f"{path} is no checkpoint of the hub; give hf://owner/name or hf://owner/name@revision"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return snapshot_download(found["name"], revision=found["revision"], allow_patterns=list(FILES))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        reason = "it is not in the hub's local cache, and the hub cannot be reached"
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
    raise CheckpointError(f"no checkpoint at {path}: {reason}")


def pin(path: str) -> str:
    """The same checkpoint by its commit, so that every machine that loads it loads this one.

    Raises:
        CheckpointError: as `download`.
    """
    name = path.removeprefix(PREFIX).partition("@")[0].rstrip("/")
    return f"{PREFIX}{name}@{Path(download(path)).name}"  # the cache names its folders by commit
