"""Answers to numbers: metrics with bootstrap intervals, the report on disk, the table on screen."""

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

import numpy as np
from rich.console import Console
from rich.table import Table

from raycap import checkpoint, metrics, storage
from raycap.checkpoint import Manifest
from raycap.data.manifest import DataManifest
from raycap.decoding import DecodingConfig
from raycap.evaluate.config import EvaluateConfig

REPORT = "report.json"
CAPTIONS = "captions.jsonl"
LABELS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
}
LEVEL = 0.95


@dataclass(frozen=True)
class Answer:
    """An image with what the model said and what people said."""

    image_id: str
    caption: str
    score: float
    references: list[str]


def score_answers(answers: Sequence[Answer], *, num_samples: int, seed: int) -> dict[str, Any]:
    """Metrics over all images, with 95 % intervals from `num_samples` resamplings of the images."""
    prepared = metrics.PreparedReferences(
        [answer.references for answer in answers], ids=[answer.image_id for answer in answers]
    )
    statistics = prepared.statistics([answer.caption for answer in answers])
    report: dict[str, Any] = {"metrics": statistics.scores()}
    if num_samples:
        report["intervals"] = intervals(statistics, num_samples=num_samples, seed=seed)
        report["bootstrap"] = {"samples": num_samples, "seed": seed, "level": LEVEL, "method": "percentile"}
    return report


def intervals(
    statistics: metrics.Statistics, *, num_samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over images (Efron 1979), document frequencies held fixed."""
    random = np.random.default_rng(seed)
    size = len(statistics.length)
    samples = [statistics.take(random.integers(size, size=size)).scores() for _ in range(num_samples)]
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    bounds = {name: np.percentile([sample[name] for sample in samples], tails) for name in samples[0]}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


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
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": checkpoint.versions(),
        "commit": checkpoint.git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def default_output(folder: str, report: Mapping[str, Any]) -> str:
    """RUN/evaluate/val-3f2a91c0: beside the checkpoints, one folder for each way to evaluate."""
    keys = ("checkpoint", "data", "split", "decoding", "precision", "vocabulary")
    content = json.dumps({key: report[key] for key in keys}, sort_keys=True)
    name = f"{report['split']}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    parent = folder.rpartition("/")[0]
    return storage.join(parent.removesuffix("/checkpoints"), "evaluate", name)


def write_report(output: str, report: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """Write captions.jsonl, then report.json, each whole; returns the report's path."""
    output = storage.absolute(output)
    lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers]
    storage.write_bytes(storage.join(output, CAPTIONS), "".join(lines).encode())
    path = storage.join(output, REPORT)
    storage.write_json(path, {**report, "captions": CAPTIONS})
    return path


def print_table(report: Mapping[str, Any]) -> None:
    """The metrics on screen (stderr: stdout is for the report's path)."""
    beams = report["decoding"]["beams"]
    how = "sampled" if report["decoding"]["sample"] else "greedy" if beams == 1 else f"beam {beams}"
    model = f"{report['checkpoint']['family']} at step {report['checkpoint']['step']:,}"
    screen = Console(stderr=True, highlight=False)
    screen.print(f"{model}, {how}, on {report['num_images']:,} {report['split']} images")
    table = Table("metric", "score", "95 % interval")
    for name, value in report["metrics"].items():
        low_high = report.get("intervals", {}).get(name)
        shown = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""
        table.add_row(LABELS.get(name, name), f"{value:.4f}", shown)
    screen.print(table)
