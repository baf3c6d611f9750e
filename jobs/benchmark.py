"""Measure raycap against named peers and floors: `python jobs/benchmark.py decode train-step featurize`.

Every row is a ratio from one run, medians of interleaved repeats, with threads and sizes stated. `--output FILE`
also writes the rows as JSON, with the machine and the versions they were measured on.
"""

import importlib
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cyclopts
from rich.console import Console
from rich.table import Table

SECTIONS = {
    "decode": "raycap.benchmarks.decode:decode_rows",
    "train-step": "raycap.benchmarks.train_step:train_step_rows",
    "featurize": "raycap.benchmarks.featurize:featurize_rows",
    "precision": "raycap.benchmarks.precision:precision_rows",
    "serve": "raycap.benchmarks.serving:serve_rows",
    "metrics": "raycap.benchmarks.metrics:metrics_rows",
    "prepare-memory": "raycap.benchmarks.prepare:prepare_memory_rows",
}
COLUMNS = (
    "row",
    "value",
    "unit",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "open_at_end",
    "ratio",
    "ratio_to",
    "aim",
    "floor_gap",
    "threads",
    "sizes",
)


def main(
    *sections: str,
    quick: bool = False,
    output: str = "",
    checkpoint: str = "runs/flickr30k_small",
    data: str = "data/flickr30k_small",
) -> None:
    """Run the named sections and print their tables.

    Parameters
    ----------
    sections
        Any of decode, train-step, featurize, precision, serve, metrics, prepare-memory; without one the first three.
    quick
        Fewer repeats and sizes: a smoke test, not a measurement.
    output
        JSON file to write as well.
    checkpoint
        Run or checkpoint whose captions `precision` compares.
    data
        Prepared rows whose validation photos it captions.
    """
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise SystemExit(f"unknown section {unknown[0]!r}; known: {', '.join(SECTIONS)}")
    results: dict[str, Any] = {"machine": machine(), "sections": {}}
    for name in sections or ("decode", "train-step", "featurize"):
        module, function = SECTIONS[name].split(":")
        places = {"checkpoint": checkpoint, "data": data} if name == "precision" else {}
        rows = getattr(importlib.import_module(module), function)(quick=quick, **places)
        results["sections"][name] = rows
        Console(width=200).print(as_table(name, rows))
    if output:
        Path(output).write_text(json.dumps(results, indent=2) + "\n")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import torch
    import transformers

    processor = next(
        (line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "processor": processor,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def cpu_lines() -> list[str]:
    """/proc/cpuinfo, where there is one."""
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def as_table(name: str, rows: list[dict[str, Any]]) -> Table:
    """The rows with the columns that any of them fills."""
    columns = [column for column in COLUMNS if any(row.get(column) not in (None, "") for row in rows)]
    table = Table(title=name)
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(show(row.get(column)) for column in columns))
    return table


def show(value: Any) -> str:
    """Three significant digits for numbers."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
