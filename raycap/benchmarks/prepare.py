"""How much memory `raycap prepare` takes as the data grows: drawings, made by a run of its own, watched from outside.

Figures are read from Linux's /proc while the run works: proportional sizes, so that memory shared by several
processes counts once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROC = Path("/proc")
SAMPLE_EVERY_S = 0.5
MEBI = 1 << 20
# A process of its own, so that nothing but the run is measured.
RUN = """
import sys
from raycap.data import start_ray
from raycap.data.prepare import PrepareConfig, prepare
start_ray()
prepare(PrepareConfig.model_validate_json(sys.argv[1]))
"""


def prepare_memory_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Peak memory by number of images; ten times the images should take hardly more."""
    few, many = (prepare_memory(images) for images in ((1_000, 5_000) if quick else (10_000, 100_000)))
    rows = []
    for figures in (few, many):
        sizes = f"{figures['images']:,} drawings of 64 x 64, {figures['seconds']:.0f} s"
        for name in ("driver", "workers", "object_store", "total"):
            ratio = figures[name] / few[name] if figures is many and few[name] else None
            rows.append(
                {
                    "row": f"{name.replace('_', ' ')}, {figures['images']:,} images",
                    "value": figures[name],
                    "unit": "MiB at peak",
                    "ratio": ratio,
                    "ratio_to": f"{few['images']:,} images" if ratio else "",
                    "aim": "<= 1.2" if ratio and name == "total" else "",
                    "sizes": sizes,
                }
            )
    return rows


def prepare_memory(images: int) -> dict[str, float]:
    """Peak MiB of a run over so many drawings: the driver, Ray's workers, the object store, and everything.

    Raises:
        ValueError: not Linux, or the run failed.
    """
    if not (PROC / "self" / "smaps_rollup").exists():
        raise ValueError("memory is measured through Linux's /proc, which this machine does not have")
    with tempfile.TemporaryDirectory(prefix="raycap-memory-") as folder:
        source = {"kind": "shapes", "train": images, "val": 0, "test": 0}
        config = {"source": source, "data": {"path": f"{folder}/rows"}}
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", RUN, json.dumps(config)], stdout=subprocess.DEVNULL)
        peaks = watch(process)
        if process.returncode:
            raise ValueError(f"preparing {images} drawings failed with exit code {process.returncode}")
    return {"images": images, "seconds": time.monotonic() - start} | peaks


def watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Peak MiB of a process and all it started, until it ends."""
    peaks = dict.fromkeys(("driver", "workers", "object_store", "total"), 0.0)
    while process.poll() is None:
        for name, size in sample(process.pid).items():
            peaks[name] = max(peaks[name], size)
        time.sleep(SAMPLE_EVERY_S)
    return peaks


def sample(driver: int) -> dict[str, float]:
    """MiB now, by part."""
    sizes = dict.fromkeys(("driver", "workers", "object_store", "total"), 0.0)
    for pid in descendants(driver):
        size = _field(pid, "smaps_rollup", "Pss")
        name = _read(pid, "comm").strip()
        sizes["total"] += size
        if pid == driver:
            sizes["driver"] += size
        elif name.startswith("ray::"):
            sizes["workers"] += size
        elif name == "raylet":
            sizes["object_store"] += _field(pid, "status", "RssShmem")
    return sizes


def descendants(pid: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, waiting = {pid}, [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, above in parents.items() if above == parent]
        found.update(children)
        waiting += children
    return found


def _field(pid: int, file: str, name: str) -> float:
    """MiB that a line such as `Pss:  123 kB` says, 0 where the process has ended."""
    match = re.search(rf"^{name}:\s+(\d+) kB", _read(pid, file), re.MULTILINE)
    return int(match.group(1)) * 1024 / MEBI if match else 0.0


def _read(pid: int, file: str) -> str:
    try:
        return (PROC / str(pid) / file).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended a moment ago
        return ""
