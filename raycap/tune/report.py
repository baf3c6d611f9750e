"""What a sweep leaves: sweep.json, sweep.html, the best trial's checkpoint, and the table on screen."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from raycap import checkpoint, storage
from raycap.data.progress import clock_time
from raycap.tune.config import SweepConfig
from raycap.tune.page import sweep_page
from raycap.tune.ranking import common_epoch, importances, rank, seconds_of
from raycap.tune.record import TrialRecord
from raycap.tune.search import BASELINE
from raycap.tune.settings import objective, trial_folder
from raycap.tune.space import Dimension

WIDE = 200  # columns of a table that goes into a log
REPORT, PAGE, BEST = "sweep.json", "sweep.html", "best"


class SweepError(ValueError):
    """The sweep came to nothing; the message says why."""


def write_report(report: Mapping[str, Any], dimensions: Sequence[Dimension]) -> None:
    """Write sweep.json and sweep.html into the sweep's folder."""
    storage.write_json(storage.join(report["sweep"], REPORT), report)
    page = sweep_page(report, dimensions).encode(errors="backslashreplace")
    storage.write_bytes(storage.join(report["sweep"], PAGE), page)


def describe(
    config: SweepConfig,
    dimensions: Sequence[Dimension],
    records: Mapping[int, TrialRecord],
    *,
    best: str = "",
    best_epoch: int = 0,
    wall_s: float = 0.0,
) -> dict[str, Any]:
    """The report: how the sweep was made, its trials in order of rank (failed ones last), and what mattered."""
    metric, lower = objective(config)
    ranking, reason = rank(records, by=config.train.strategy)
    ranked = [
        {
            "rank": place,
            **_trial(config, found.record),
            "best_epoch": found.epoch,
            "metrics": dict(found.metrics),
        }
        for place, found in enumerate(ranking, start=1)
    ]
    others = [r for number, r in sorted(records.items()) if number not in {f.record.number for f in ranking}]
    return {
        "sweep": config.tune.run,
        "algorithm": config.tune.algorithm,
        "scheduler": config.tune.scheduler,
        "objective": {"metric": metric, "lower_is_better": lower},
        "chosen_by": config.train.strategy,
        "reason": reason,
        "epochs": config.train.epochs,
        "baseline": BASELINE if config.tune.baseline and BASELINE in records else 0,
        "space": dict(config.tune.space),
        "best": best,
        "best_epoch": best_epoch,
        "serve": serve_command(best) if best else "",
        "trials": [*ranked, *({"rank": 0, **_trial(config, record)} for record in others)],
        "importance": {
            "epoch": common_epoch(records, metric),
            "settings": [
                vars(found) for found in importances(records, dimensions, metric=metric, lower=lower)
            ],
        },
        "seconds": {name: round(value, 1) for name, value in seconds_of(records).items()},
        "wall_s": round(wall_s, 1),
    }


def _trial(config: SweepConfig, record: TrialRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "run": trial_folder(config.tune.run, record.number),
        "state": record.state,
        "reason": record.reason,
        "epochs": record.epoch,
        "settings": record.settings,
        "seconds": {name: round(value, 1) for name, value in record.seconds.items()},
        "curves": {epoch: dict(metrics) for epoch, metrics in record.metrics.items()},
    }


def finish(
    config: SweepConfig,
    dimensions: Sequence[Dimension],
    records: Mapping[int, TrialRecord],
    *,
    wall_s: float,
) -> str:
    """Copy the best trial's checkpoint whole, write the report, show it; returns the sweep's folder.

    Raises:
        SweepError: no trial has a checkpoint.
    """
    sweep = config.tune.run
    ranking, _ = rank(records, by=config.train.strategy)
    if not ranking:
        write_report(describe(config, dimensions, records, wall_s=wall_s), dimensions)
        reasons = sorted({record.reason for record in records.values() if record.reason})
        raise SweepError(
            f"no trial of {sweep} came to a checkpoint: {'; '.join(reasons[:3]) or 'none began'}"
        )
    target = storage.join(sweep, BEST)
    copied = checkpoint.copy(trial_folder(sweep, ranking[0].record.number), target)
    report = describe(config, dimensions, records, best=target, best_epoch=copied.epoch, wall_s=wall_s)
    write_report(report, dimensions)
    show(report)
    return sweep


def earlier_wall_s(sweep: str) -> float:
    """Seconds that a sweep has taken before it was killed, as far as its last report tells."""
    path = storage.join(sweep, REPORT)
    return float(storage.read_json(path)["wall_s"]) if storage.exists(path) else 0.0


def serve_command(best: str) -> str:
    """What serves the best checkpoint."""
    return f"raycap serve --checkpoint {shlex.quote(best)}"


def show(report: Mapping[str, Any]) -> None:
    """The report on screen (stderr: stdout is for what a program reads)."""
    width = None if sys.stderr.isatty() else WIDE
    screen = Console(stderr=True, highlight=False, markup=False, width=width)
    screen.print(ranked_table(report))
    for line in notes(report):
        screen.print(line, soft_wrap=True)


def ranked_table(report: Mapping[str, Any]) -> Table:
    """The trials, the best first."""
    metric = report["objective"]["metric"]
    table = Table("rank", "trial", metric, "epochs", title=f"by {report['chosen_by']}", title_justify="left")
    names = list(report["trials"][0]["settings"])
    for name in names:
        table.add_column(".\n".join(name.rsplit(".", 1)), overflow="fold")
    table.add_column("state")
    for trial in report["trials"]:
        value = trial.get("metrics", {}).get(metric)
        table.add_row(
            str(trial["rank"] or ""),
            str(trial["number"]) + (" (preset)" if trial["number"] == report["baseline"] else ""),
            "" if value is None else f"{value:.4f}",
            f"{trial['epochs']}/{report['epochs']}",
            *(short(trial["settings"][name]) for name in names),
            trial["state"],
        )
    return table


def short(value: Any) -> str:
    """A setting's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def notes(report: Mapping[str, Any]) -> list[str]:
    """The lines below the table."""
    lines = [f"trial {t['number']} failed: {t['reason']}" for t in report["trials"] if t["state"] == "failed"]
    if report["reason"]:
        lines.append(f"best is trial {report['trials'][0]['number']}: {report['reason']}")
    if against := against_baseline(report):
        lines.append(against)
    lines.append(seconds_line(report["seconds"]))
    if settings := report["importance"]["settings"]:
        strongest = ", ".join(f"{found['name']} {found['strength']:.2f}" for found in settings[:5])
        lines.append(
            f"what ordered the trials after epoch {report['importance']['epoch']} (rank correlation): {strongest}"
        )
    lines.append(f"report: {storage.join(report['sweep'], PAGE)}")
    if report["best"]:
        lines.append(f"checkpoint: {report['best']}, of epoch {report['best_epoch']}, served by")
        lines.append(f"  {report['serve']}")
    return lines


def against_baseline(report: Mapping[str, Any]) -> str:
    """The best trial and the preset's own, in a sentence."""
    metric = report["objective"]["metric"]
    own = next((t for t in report["trials"] if t["number"] == report["baseline"] and t["rank"]), None)
    best = report["trials"][0]
    if own is None or metric not in own["metrics"] or metric not in best["metrics"]:
        return ""
    if own is best:
        return f"no trial was better than the preset's own settings ({metric} {own['metrics'][metric]:.4f})"
    difference = best["metrics"][metric] - own["metrics"][metric]
    return (
        f"the preset's own settings have {metric} {own['metrics'][metric]:.4f} after {own['best_epoch']} epochs, the "
        f"best trial {best['metrics'][metric]:.4f} ({difference:+.4f}) after {best['best_epoch']}"
    )


def seconds_line(seconds: Mapping[str, float]) -> str:
    """Where the trials' time went."""
    total = max(seconds["total_s"], 1e-9)
    parts = ", ".join(
        f"{label} {clock_time(seconds[name])}"
        for label, name in (
            ("starting and ending processes", "startup_s"),
            ("loading", "loading_s"),
            ("validating", "validation_s"),
            ("checkpoints and records", "checkpoint_s"),
        )
    )
    return (
        f"of the trials' {clock_time(seconds['total_s'])} together, {clock_time(seconds['not_training_s'])} "
        f"({seconds['not_training_s'] / total:.0%}) were not training: {parts}"
    )
