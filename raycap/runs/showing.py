"""All that a checkpoint's manifest says, to read or as JSON."""

from __future__ import annotations

import json
from typing import Any

import yaml

from raycap import checkpoint
from raycap.checkpoint import Manifest, RunCheckpoints, strategy_of
from raycap.runs.listing import readable_size


def show(path: str, *, as_json: bool = False) -> str:
    """The manifest of a run's best checkpoint, or of a checkpoint; of a run also which checkpoint is which.

    Raises:
        CheckpointError: nothing there, or a damaged manifest.
    """
    folder = checkpoint.resolve(path)
    manifest = checkpoint.read_manifest(folder)
    run = run_of(folder)
    about = describe_run(run) if run else {}
    if as_json:
        content = json.loads(manifest.model_dump_json())
        return json.dumps({"path": folder, **({"run": about} if about else {}), **content}, indent=2)
    shown = {"path": folder, **({"run": about} if about else {}), **readable(manifest)}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=110)


def run_of(folder: str) -> str:
    """The run that a checkpoint folder belongs to; "" where it lies by itself."""
    base, mark, options = folder.partition("?")
    parent = base.rstrip("/").rpartition("/")[0]
    run = parent.removesuffix(f"/{checkpoint.CHECKPOINTS}")
    return run + mark + options if run != parent else ""


def describe_run(run: str) -> dict[str, Any]:
    """Which checkpoint of a run is which, by folder name."""
    checkpoints = RunCheckpoints(run, metric=strategy_of(run))
    index = checkpoints.read_index()
    return {
        "path": run,
        "best_metric": index.best_metric,
        "best_metric_by": index.metric,
        "best_loss": index.best_loss,
        "last": index.last,
        "checkpoints": checkpoints.names(),
    }


def readable(manifest: Manifest) -> dict[str, Any]:
    """A manifest's content with what is long made short: sizes for people, hashes by their first digits."""
    content: dict[str, Any] = manifest.model_dump(mode="python")
    content["decoding"] = manifest.decoding.model_dump(mode="json")
    content["encoder"] = manifest.encoder.model_dump(mode="json")
    content["base"] = f"{len(manifest.base)} values that tell the base model"
    content["size"] = readable_size(manifest.size)
    content["files"] = {
        name: f"{readable_size(entry.size)}, sha256 {entry.sha256[:12]}"
        for name, entry in manifest.files.items()
    }
    if not manifest.history:
        del content["history"]
    return content


def name_of(folder: str, manifest: Manifest) -> str:
    """A short name for people: the run's name and the step; the folder's name for a checkpoint by itself."""
    run = run_of(folder)
    if not run:
        return last_part(folder)
    return f"{last_part(run)} step {manifest.step:,}"


def last_part(path: str) -> str:
    """The name at the end of a path or URI."""
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]
