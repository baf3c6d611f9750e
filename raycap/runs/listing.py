"""The runs below a folder: one row a run, with the checkpoint that its path alone means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from raycap.checkpoint import LOSS_KEY, Found, choose_kept, find_checkpoints, strategy_of
from raycap.choosing import CAPTION_METRICS

SHOWN = (LOSS_KEY, *CAPTION_METRICS)
PREFIXES = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Run:
    """A run and its checkpoints, or a checkpoint by itself."""

    path: str
    best: Found
    checkpoints: Sequence[Found]
    strategy: str
    """By which `best` is the best; "" for a checkpoint by itself."""

    @property
    def size(self) -> int:
        """Bytes of all its checkpoints."""
        return sum(found.manifest.size for found in self.checkpoints)


def find_runs(place: str) -> list[Run]:
    """Runs, and checkpoints by themselves, below a folder or URI.

    Raises:
        CheckpointError: there is no such folder.
    """
    by_run: dict[str, list[Found]] = {}
    for found in find_checkpoints(place):
        by_run.setdefault(found.run or found.path, []).append(found)
    return [_run(path, checkpoints) for path, checkpoints in by_run.items()]


def _run(path: str, checkpoints: Sequence[Found]) -> Run:
    if not checkpoints[0].run:
        return Run(path, checkpoints[0], checkpoints, "")
    strategy = strategy_of(path)
    return Run(path, choose_of(checkpoints, strategy), checkpoints, strategy)


def choose_of(checkpoints: Sequence[Found], strategy: str) -> Found:
    """The checkpoint that a run's path alone means: the best by its strategy, else by loss, else the last."""
    by_name = {found.name: found for found in checkpoints}
    manifests = {name: found.manifest for name, found in by_name.items()}
    chosen = choose_kept(manifests, strategy) or choose_kept(manifests, LOSS_KEY) or max(by_name)
    return by_name[chosen]


def describe_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """As JSON holds it; a metric that is not finite is null."""
    return [
        {
            "run": run.path,
            "checkpoint": run.best.path,
            "strategy": run.strategy,
            "family": run.best.manifest.family,
            "step": run.best.manifest.step,
            "epoch": run.best.manifest.epoch,
            "metrics": plain(run.best.manifest.metrics),
            "checkpoints": len(run.checkpoints),
            "size": run.size,
            "created": run.best.manifest.created,
        }
        for run in runs
    ]


def plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics for JSON, which has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def runs_table(runs: Sequence[Run], *, place: str) -> Table:
    """One row a run: its best checkpoint's step and metrics, the size of all its checkpoints."""
    measured = {name for run in runs for name in run.best.manifest.metrics}
    metrics = [name for name in SHOWN if name in measured]
    table = Table("run", "family")
    for name in ("step", "epoch", *metrics, "checkpoints", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for run in runs:
        manifest = run.best.manifest
        table.add_row(
            below(run.path, place),
            manifest.family,
            f"{manifest.step:,}",
            str(manifest.epoch),
            *(number(manifest.metrics.get(name)) for name in metrics),
            str(len(run.checkpoints)),
            readable_size(run.size),
            manifest.created[:16].replace("T", " "),
        )
    return table


def below(path: str, place: str) -> str:
    """A path as seen from the folder that was listed."""
    inside = path.partition("?")[0].removeprefix(place.partition("?")[0].rstrip("/")).lstrip("/")
    return inside or path.rstrip("/").rpartition("/")[2]


def number(value: float | None) -> str:
    """A metric in a table, "" where it was not measured."""
    return "" if value is None else f"{value:.4f}"


def readable_size(size: float) -> str:
    """Bytes with a decimal prefix."""
    power = 0
    while size >= 1000 and power < len(PREFIXES) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.1f} {PREFIXES[power]}" if power else f"{size:.0f} B"
