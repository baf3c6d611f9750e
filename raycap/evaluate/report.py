"""An evaluation's report: what the numbers depend on, the files it leaves, the table on screen.

What is scored and shown of captions in general is raycap.score.report's.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycap import checkpoint, storage
from raycap.checkpoint import Manifest
from raycap.data.manifest import DataManifest
from raycap.decoding import DecodingConfig
from raycap.evaluate.config import EvaluateConfig

REPORT = "report.json"
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Answer:
    """An image with what the model said and what people said."""

    image_id: str
    caption: str
    score: float
    references: list[str]


def describe(
    config: EvaluateConfig,
    folder: str,
    manifest: Manifest,
    data: DataManifest,
    decoding: DecodingConfig,
    *,
    device: str,
) -> dict[str, Any]:
    """All that the numbers depend on."""
    given = config.evaluate.document_frequency
    return {
        "checkpoint": {
            "path": folder,
            "digest": manifest.digest,
            "family": manifest.family,
            "step": manifest.step,
            "epoch": manifest.epoch,
            "commit": manifest.commit,
        },
        "data": {
            "path": storage.absolute(config.data.path),
            "fingerprint": data.fingerprint,
            "limit": config.data.limit,
        },
        "split": config.evaluate.split,
        "decoding": decoding.model_dump(mode="json"),
        "precision": config.evaluate.precision,
        "vocabulary": config.evaluate.vocabulary,
        "device": device,
        **({"document_frequency_file": storage.absolute(given)} if given else {}),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": checkpoint.versions(),
        "commit": checkpoint.git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def default_output(folder: str, report: Mapping[str, Any]) -> str:
    """RUN/evaluate/val-3f2a91c0: beside the checkpoints, one folder for each way to evaluate."""
    keys = (
        "checkpoint",
        "data",
        "split",
        "decoding",
        "precision",
        "vocabulary",
        "document_frequency_file",
    )
    content = json.dumps({key: report[key] for key in keys if key in report}, sort_keys=True)
    name = f"{report['split']}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return storage.join(evaluations_folder(folder), name)


def evaluations_folder(folder: str) -> str:
    """Where evaluations of a checkpoint lie: in its run, or beside a checkpoint that is in none."""
    base, mark, options = folder.partition("?")
    parent = base.rstrip("/").rpartition("/")[0].removesuffix("/checkpoints")
    return storage.join(parent + mark + options, "evaluate")


def write_report(output: str, report: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """Write captions.jsonl, then report.json, each whole; returns the report's path."""
    output = storage.absolute(output)
    lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers]
    storage.write_bytes(storage.join(output, CAPTIONS), "".join(lines).encode())
    path = storage.join(output, REPORT)
    storage.write_json(path, {**report, "captions": CAPTIONS})
    return path


def title(report: Mapping[str, Any]) -> str:
    """What was evaluated, in a line."""
    beams = report["decoding"]["beams"]
    how = "sampled" if report["decoding"]["sample"] else "greedy" if beams == 1 else f"beam {beams}"
    model = f"{report['checkpoint']['family']} at step {report['checkpoint']['step']:,}"
    return f"{model}, {how}, on {report['num_images']:,} {report['split']} images"
